"""A Llama-like decoder, smallest part first: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Parameter names are those of Hugging Face's LlamaForCausalLM, so that weights go in and out without a table.
Sizes: B batch, T time (tokens), C model width, H query heads, Hkv key/value heads, D head width, F feed-forward width,
V vocabulary (rows of the embedding), L layers.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F

IGNORE = -100  # a target that is not scored
LOGITS_CHUNK = 1 << 20  # logits computed at a time in the loss: 4 MB in float32


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the decoder."""

    vocab_size: int  # V
    block_size: int = 256  # longest sequence
    n_layer: int = 4  # L
    n_head: int = 4  # H
    n_kv_head: int = 2  # Hkv: each key/value head serves H / Hkv query heads
    n_embd: int = 128  # C
    ffn_hidden: int = 384  # F
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True  # the output head is the embedding

    def __post_init__(self) -> None:
        for key in ("vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "ffn_hidden"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least 1")
        if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
            fits = [h for h in range(1, self.n_embd + 1) if self.n_embd % h == 0 and (self.n_embd // h) % 2 == 0]
            nearest = f"; try n_head={min(fits, key=lambda h: abs(h - self.n_head))}" if fits else ""
            raise ValueError(f"n_embd ({self.n_embd}) must be n_head ({self.n_head}) times an even head width{nearest}")
        if self.n_head % self.n_kv_head:
            fits = [h for h in range(1, self.n_head + 1) if self.n_head % h == 0]
            nearest = min(fits, key=lambda h: abs(h - self.n_kv_head))
            raise ValueError(
                f"n_head ({self.n_head}) must be divisible by n_kv_head ({self.n_kv_head}); try n_kv_head={nearest}"
            )


class RMSNorm(nn.Module):
    """Features over their root mean square, times a gain (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (..., width); computed in float32, returned in the dtype of x."""
        x32 = x.float()
        x32 = x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * x32.to(x.dtype)


def rope_tables(T: int, D: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of position times frequency, each (T, D) float32; frequencies theta^(-2i/D), in two equal halves."""
    frequencies = theta ** (-torch.arange(0, D, 2, dtype=torch.float32) / D)  # (D/2,)
    angles = torch.outer(torch.arange(T, dtype=torch.float32), frequencies)  # (T, D/2)
    angles = torch.cat((angles, angles), dim=-1)  # (T, D)
    return angles.cos(), angles.sin()


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate pairs of features by their position (RoPE, Su et al. 2021, arXiv 2104.09864, eq. 34).

    x: (B, H, T, D) with D even; cos, sin: (T, D) float32. Returns the shape and dtype of x.
    Half-split layout as in Hugging Face Llama, not Meta's interleaved pairs.
    """
    left, right = x.chunk(2, dim=-1)
    rotated = torch.cat((-right, left), dim=-1)
    return (x * cos + rotated * sin).to(x.dtype)


class Attention(nn.Module):
    """Causal attention; H / Hkv query heads share a key/value head (GQA, Ainslie et al. 2023, arXiv 2305.13245)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.D = cfg.n_embd // cfg.n_head
        self.q_proj = nn.Linear(cfg.n_embd, cfg.n_head * self.D, bias=False)
        self.k_proj = nn.Linear(cfg.n_embd, cfg.n_kv_head * self.D, bias=False)
        self.v_proj = nn.Linear(cfg.n_embd, cfg.n_kv_head * self.D, bias=False)
        self.o_proj = nn.Linear(cfg.n_head * self.D, cfg.n_embd, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x: (B, T, C); cos, sin: (T, D). Returns (B, T, C)."""
        B, T, C = x.shape
        q = self.q_proj(x).view(B, T, -1, self.D).transpose(1, 2)  # (B, H, T, D)
        k = self.k_proj(x).view(B, T, -1, self.D).transpose(1, 2)  # (B, Hkv, T, D)
        v = self.v_proj(x).view(B, T, -1, self.D).transpose(1, 2)  # (B, Hkv, T, D)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
        if x.device.type == "cpu":  # torch's CPU attention is 7 times slower in bf16 than in fp32 (docs/LOG.md)
            q, k, v = q.float(), k.float(), v.float()
        with torch.autocast(x.device.type, enabled=False):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)  # (B, H, T, D)
        return self.o_proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(cfg.n_embd, cfg.ffn_hidden, bias=False)
        self.up_proj = nn.Linear(cfg.n_embd, cfg.ffn_hidden, bias=False)
        self.down_proj = nn.Linear(cfg.ffn_hidden, cfg.n_embd, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (B, T, C). Returns (B, T, C)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention, then the feed-forward network, each on normalised input and added to the stream (pre-norm)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.self_attn = Attention(cfg)
        self.post_attention_layernorm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.mlp = MLP(cfg)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """x: (B, T, C). Returns (B, T, C)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks, final norm: Hugging Face's LlamaModel."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.n_embd)
        self.layers = nn.ModuleList(Block(cfg) for _ in range(cfg.n_layer))
        self.norm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.table_size = (cfg.block_size, cfg.n_embd // cfg.n_head, cfg.rope_theta)
        cos, sin = rope_tables(*self.table_size)
        self.register_buffer("cos", cos, persistent=False)  # (block_size, D)
        self.register_buffer("sin", sin, persistent=False)

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        super()._apply(*args, **kwargs)  # .to(device), .bfloat16(): in bfloat16 only 513 of 1024 positions would differ
        self.cos, self.sin = (table.to(self.cos.device) for table in rope_tables(*self.table_size))
        return self

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        """idx: (B, T) ids. Returns (B, T, C)."""
        T = idx.shape[1]
        assert T <= self.cos.shape[0], (T, self.cos.shape[0])
        x = self.embed_tokens(idx)  # (B, T, C)
        for layer in self.layers:
            x = layer(x, self.cos[:T], self.sin[:T])
        return self.norm(x)


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of x @ weight.T, a few rows at a time: the (B * T, V) logits never exist as a whole.

    Forward computes the gradients as well (d loss / d logits = softmax - one-hot), so that nothing is kept or computed
    twice. With V = 32768 and 16384 tokens that saves 4 GB in float32; on a CPU the rows stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """x: (N, C); weight: (V, C); targets: (N,) with IGNORE for rows not scored. Returns nats, a float32 scalar."""
        kind = x.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        w = weight.to(low)
        grad_x, grad_w = torch.empty_like(x), torch.zeros_like(weight)
        loss = torch.zeros((), dtype=torch.float32 if low != torch.float64 else low, device=x.device)
        rows = max(1, LOGITS_CHUNK // weight.shape[0])
        for begin in range(0, x.shape[0], rows):
            part = slice(begin, begin + rows)
            h, t = x[part].to(low), targets[part].unsqueeze(1)  # (rows, C), (rows, 1)
            scored, t = t != IGNORE, t.clamp(min=0)
            p = F.log_softmax(h @ w.t(), dim=1, dtype=loss.dtype)  # (rows, V)
            loss -= (p.gather(1, t) * scored).sum()
            if any(ctx.needs_input_grad):
                g = p.exp_().scatter_add_(1, t, torch.full_like(t, -1, dtype=p.dtype)).to(low)
                grad_x[part] = (g @ w) * scored
                grad_w += g.t() @ (h * scored)
        ctx.save_for_backward(grad_x, grad_w)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        """grad: scalar. Returns the gradients of x and weight."""
        grad_x, grad_w = ctx.saved_tensors
        return grad_x * grad.to(grad_x.dtype), grad_w * grad, None


class Llama(nn.Module):
    """The decoder with its output head: Hugging Face's LlamaForCausalLM."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.model = Decoder(cfg)
        self.lm_head = nn.Linear(cfg.n_embd, cfg.vocab_size, bias=False)
        if cfg.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.init_weights()

    def init_weights(self) -> None:
        """Normal, std 0.02; 0.02 / sqrt(2L) for matrices that write to the stream (GPT-2, Radford et al. 2019, 2.3)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.cfg.n_layer) if writes else 0.02)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, T, V) of ids (B, T); with targets (B, T) the summed loss in nats instead, a float32 scalar.

        Targets equal to IGNORE are not scored; divide by the number of the others for the mean.
        """
        x = self.model(idx)  # (B, T, C)
        if targets is None:
            return self.lm_head(x)  # (B, T, V)
        return LinearCrossEntropy.apply(x.flatten(0, 1), self.lm_head.weight, targets.flatten())

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """Optimizer groups: decay for the matrices inside the blocks, none for embedding, head and norm gains."""
        decayed, others = [], []
        for name, parameter in self.named_parameters():
            inner = parameter.dim() == 2 and name.startswith("model.layers.")
            (decayed if inner else others).append(parameter)
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

    def num_parameters(self) -> int:
        """Number of parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters())
