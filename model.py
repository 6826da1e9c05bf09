"""A Llama-like decoder, smallest part first: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Parameter names are those of Hugging Face's LlamaForCausalLM, so that weights go in and out without a table.
Two switches make it Qwen2 (qkv_bias) or Qwen3 (qk_norm).
Sizes: B batch, T time (tokens), C model width, H query heads, Hkv key/value heads, D head width, F feed-forward width,
V vocabulary (rows of the embedding), L layers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

IGNORE = -100  # a target that is not scored
LOGITS_CHUNK = 1 << 20  # logits computed at a time in the loss: 4 MB in float32
FEW_ROWS, WORTH_THREADS = 32, 1 << 20  # what Linear cuts: at most so many rows, at least so many multiplications
LARGEST = 1 << 24  # of each size of a model: the elements of a matrix can be counted in int64


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretch of the rotary frequencies to a longer context; the names are Hugging Face's."""

    factor: float = 8.0  # the slow frequencies are divided by it
    low_freq_factor: float = 1.0  # slow: at most this many turns within the original context
    high_freq_factor: float = 4.0  # fast, and left alone: at least this many turns
    original_max_position_embeddings: int = 8192  # the original context, in tokens

    def __post_init__(self) -> None:
        turns = 0 < self.low_freq_factor < self.high_freq_factor < math.inf
        if not (turns and 1 <= self.factor < math.inf and self.original_max_position_embeddings >= 1):
            raise ValueError(f"{self} cannot be; Llama 3.1 has {RopeScaling()}")


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
    head_dim: int | None = None  # D; None: n_embd / n_head
    rope_scaling: RopeScaling | None = None  # Llama 3.1 and later
    qkv_bias: bool = False  # Qwen2: biases on the query, key and value projections
    qk_norm: bool = False  # Qwen3: RMSNorm over each head of the queries and keys

    @property
    def head_width(self) -> int:
        """D, given or derived."""
        return self.n_embd // self.n_head if self.head_dim is None else self.head_dim

    def __post_init__(self) -> None:
        for key in ("vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "ffn_hidden", "head_dim"):
            size, most = getattr(self, key), LARGEST // self.n_head if key == "head_dim" else LARGEST
            if size is not None and not 1 <= size <= most:
                raise ValueError(f"{key} ({size}) must be at {f'most {most}' if size > 1 else 'least 1'}")
        if self.head_dim is None and self.n_embd % (2 * self.n_head):
            fits = [h for h in range(1, self.n_embd + 1) if self.n_embd % (2 * h) == 0]
            nearest = f"; try n_head={min(fits, key=lambda h: abs(h - self.n_head))}" if fits else ""
            raise ValueError(f"n_embd ({self.n_embd}) must be n_head ({self.n_head}) times an even head width{nearest}")
        if self.head_width % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even; try head_dim={self.head_dim + 1}")
        if self.n_head % self.n_kv_head:
            H, Hkv = self.n_head, self.n_kv_head
            nearest = min((h for h in range(1, H + 1) if H % h == 0), key=lambda h: abs(h - Hkv))
            raise ValueError(f"n_head ({H}) must be divisible by n_kv_head ({Hkv}); try n_kv_head={nearest}")
        for key, usual in (("rope_theta", 10000.0), ("norm_eps", 1e-5)):
            if not 0 < getattr(self, key) < math.inf:
                raise ValueError(f"{key} ({getattr(self, key)}) must be above 0 and finite; try {key}={usual}")
        if self.qkv_bias and self.qk_norm:
            raise ValueError("qkv_bias (Qwen2) and qk_norm (Qwen3): no model family has both; choose one")


class RMSNorm(nn.RMSNorm):
    """Features over their root mean square, times a gain (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); computed in float32 at least, returned in the dtype of x."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return F.rms_norm(x.to(wide), self.normalized_shape, self.weight.to(wide), self.eps).to(x.dtype)


def rope_frequencies(D: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Radians per position of each pair of features, (D/2,) float32: theta^(-2i/D), stretched as Llama 3.1 does.

    A frequency that turns at most low_freq_factor times within the original context is divided by `factor`, one that
    turns at least high_freq_factor times stays, between them it is a blend (meta-llama/llama-models, apply_scaling).
    """
    plain = 1.0 / theta ** (torch.arange(0, D, 2, dtype=torch.float32) / D)
    if scaling is None:
        return plain
    turns = scaling.original_max_position_embeddings / (2 * math.pi / plain)
    keep = ((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)).clamp(0, 1)
    return (1 - keep) * plain / scaling.factor + keep * plain


def rope_tables(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of position times frequency, (..., T, D) float32 each, for positions (..., T).

    In two halves: cos, cos and -sin, sin (the sign that apply_rope needs). Made anew in each forward pass, 0.1 % of it:
    for a context of a million tokens they would weigh a gigabyte.
    """
    angles = positions[..., None].float() * frequencies  # (..., T, D/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of features by their position (RoPE, Su et al. 2021, arXiv 2104.09864, eq. 34).

    x: (B, H, T, D) with D even; cos, sin: (T, D) or (B, 1, T, D) float32. Returns the shape and dtype of x.
    Half-split layout as in Hugging Face Llama, not Meta's interleaved pairs: (left, right) becomes
    (left cos - right sin, right cos + left sin).
    """
    return (x * cos + x.roll(x.shape[-1] // 2, dims=-1) * sin).to(x.dtype)


class Cache:
    """Keys and values of the tokens that a batch of sequences has had so far, allocated once: (L, B, Hkv, S, D) each.

    All rows share the slots 0 ... S - 1 and take the next ones together. Sequences of different lengths are padded on
    the left: row b begins at slot padding[b], its positions count from there, and nothing sees the slots before it.
    So a new token is written as one slice, and rows of one length need no mask. In float32 on a CPU, where attention
    computes in it, else in the dtype of the weights; on the device of the weights.
    """

    def __init__(self, model: "Llama", batch_size: int, size: int, padding: Sequence[int] = ()):
        cfg, weight = model.cfg, model.lm_head.weight
        dtype, device = torch.float32 if weight.device.type == "cpu" else weight.dtype, weight.device
        # One slot more: a slice of all is contiguous, so torch.compile would compile again for the last token.
        shape = (cfg.n_layer, batch_size, cfg.n_kv_head, size + 1, cfg.head_width)
        self.keys, self.values = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        self.size, self.begin, self.used = size, 0, 0  # slots: all; where the newest tokens begin; taken
        self.slots, self.widest = torch.arange(size + 1, device=device), max(padding, default=0)
        self.padding = torch.tensor(padding, device=device)[:, None, None] if self.widest else None  # (B, 1, 1)
        self.real = self.slots >= self.padding[..., None] if self.padding is not None else None  # (B, 1, 1, S)
        self.mask: Tensor | None = None

    def extend(self, T: int) -> Tensor:
        """Take the next T slots; returns their positions, (T,) or (B, 1, T). Raises ValueError when they do not fit.

        Sets `mask`: which slots (1 or B, 1, T or 1, used) the T tokens see; None: each all up to its own. Padding sees
        itself: a softmax over nothing is not a number on some devices, and 0 times that would reach the real rows.
        """
        if self.used + T > self.size:
            raise ValueError(f"the cache has {self.size} slots, {self.used} of them taken: no room for {T} more tokens")
        self.begin, self.used = self.used, self.used + T
        slots, new = self.slots[: self.used], self.slots[self.begin : self.used]  # (used,), (T,)
        if T == 1 and self.begin >= self.widest:
            self.mask = None if self.real is None else self.real[..., : self.used]
        elif self.padding is not None:
            self.mask = (slots <= new[:, None]) & self.real[..., : self.used] | (slots == new[:, None])
        else:
            self.mask = (slots <= new[:, None])[None, None] if self.begin else None
        return new if self.padding is None else new - self.padding  # those of padding are negative

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the new tokens' keys and values, (B, Hkv, T, D); returns those of all tokens, (B, Hkv, used, D)."""
        keys, values, T = self.keys[layer], self.values[layer], k.shape[2]  # (B, Hkv, S, D) each
        keys.narrow(2, self.begin, T).copy_(k)  # narrow takes three quarters of the time of slices in all dimensions
        values.narrow(2, self.begin, T).copy_(v)
        return keys.narrow(2, 0, self.used), values.narrow(2, 0, self.used)


class Linear(nn.Linear):
    """nn.Linear that multiplies a few rows by a large matrix on all threads of a CPU.

    MKL leaves that to one thread in float32. A batch of products with slices of the weight goes to all of them: a whole
    model is 1.1 to 1.3 times as fast on two cores (docs/LOG.md). A smaller product is done before they wake.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features). Returns (..., out_features)."""
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or self.weight.dtype != torch.float32
        few = x.device.type == "cpu" and x.numel() <= FEW_ROWS * self.in_features
        worth = few and not plain and x.numel() * self.out_features >= WORTH_THREADS
        threads = torch.get_num_threads() if worth else 1
        slices = math.gcd(self.out_features, 4 * threads) if threads > 1 else 1
        if slices == 1:
            return F.linear(x, self.weight, self.bias)
        w = self.weight.view(slices, -1, self.in_features)  # (slices, out / slices, in)
        y = torch.bmm(x.reshape(1, -1, self.in_features).expand(slices, -1, -1), w.transpose(1, 2))
        y = y.transpose(0, 1).reshape(*x.shape[:-1], self.out_features)  # from (slices, rows, out / slices)
        return y if self.bias is None else y + self.bias


class Attention(nn.Module):
    """Causal attention; H / Hkv query heads share a key/value head (GQA, Ainslie et al. 2023, arXiv 2305.13245).

    With qk_norm each head of the queries and keys is normalised before it turns (Qwen3, arXiv 2505.09388, 2).
    """

    def __init__(self, cfg: ModelConfig, layer: int):
        super().__init__()
        self.D, self.layer = cfg.head_width, layer
        self.q_proj = Linear(cfg.n_embd, cfg.n_head * self.D, bias=cfg.qkv_bias)
        self.k_proj, self.v_proj = (Linear(cfg.n_embd, cfg.n_kv_head * self.D, bias=cfg.qkv_bias) for _ in range(2))
        self.o_proj = Linear(cfg.n_head * self.D, cfg.n_embd, bias=False)
        self.q_norm, self.k_norm = (RMSNorm(self.D, cfg.norm_eps) if cfg.qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None) -> Tensor:
        """x: (B, T, C); cos, sin: (T, D) or (B, 1, T, D). Returns (B, T, C)."""
        B, T, C = x.shape
        q = self.q_norm(self.q_proj(x).view(B, T, -1, self.D))  # (B, T, H, D)
        k = self.k_norm(self.k_proj(x).view(B, T, -1, self.D))  # (B, T, Hkv, D)
        v = self.v_proj(x).view(B, T, -1, self.D).transpose(1, 2)  # (B, Hkv, T, D)
        q, k = apply_rope(q.transpose(1, 2), cos, sin), apply_rope(k.transpose(1, 2), cos, sin)  # (B, H or Hkv, T, D)
        if x.device.type == "cpu":  # torch's CPU attention is 7 times slower in bf16 than in fp32 (docs/LOG.md)
            wide = torch.promote_types(q.dtype, torch.float32)
            q, k, v = q.to(wide), k.to(wide), v.to(wide)
        mask = None
        if cache is not None:
            (k, v), mask = cache.write(self.layer, k, v), cache.mask  # (B, Hkv, S, D), S the tokens so far
            q = q.to(k.dtype)
        if cache is not None and T == 1:  # the query heads of a group as if they were its tokens: k and v are read once
            q = q.reshape(B, k.shape[1], -1, self.D)  # (B, Hkv, H / Hkv, D)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, Hkv, H / Hkv, D)
        else:
            with torch.autocast(x.device.type, enabled=False):
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
            y = y.transpose(1, 2)  # (B, T, H, D)
        return self.o_proj(y.reshape(B, T, -1).to(x.dtype))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.gate_proj, self.up_proj = (Linear(cfg.n_embd, cfg.ffn_hidden, bias=False) for _ in range(2))
        self.down_proj = Linear(cfg.ffn_hidden, cfg.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, C). Returns (B, T, C)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention, then the feed-forward network, each on normalised input and added to the stream (pre-norm)."""

    def __init__(self, cfg: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.self_attn = Attention(cfg, layer)
        self.post_attention_layernorm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.mlp = MLP(cfg)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        """x: (B, T, C); context: cos, sin and cache for Attention. Returns (B, T, C)."""
        x = x + self.self_attn(self.input_layernorm(x), *context)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks, final norm: Hugging Face's LlamaModel.

    Set recompute_blocks to keep only each block's input for the backward pass, which computes the block again: a third
    more work, and memory for one block instead of L (activation checkpointing, Chen et al. 2016, arXiv 1604.06174).
    """

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.block_size, self.recompute_blocks = cfg.block_size, False
        self.rope = (cfg.head_width, cfg.rope_theta, cfg.rope_scaling)
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.n_embd)
        self.layers = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.n_layer))
        self.norm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.register_buffer("frequencies", rope_frequencies(*self.rope), persistent=False)  # (D/2,)

    def forward(self, idx: Tensor, cache: Cache | None = None) -> Tensor:
        """idx: (B, T) ids, with a cache the next T of each row. Returns (B, T, C)."""
        T = idx.shape[1]
        positions = torch.arange(T, device=idx.device) if cache is None else cache.extend(T)
        shortest = T if cache is None else cache.used - cache.widest  # rows that are longer may be over, and ignored
        assert shortest <= self.block_size, (shortest, self.block_size)
        context = (*rope_tables(positions, self.frequencies), cache)  # cos, sin: (T, D) or (B, 1, T, D)
        x = self.embed_tokens(idx)  # (B, T, C)
        for layer in self.layers:
            if self.recompute_blocks:
                x = recompute(layer, x, *context, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, *context)
        return self.norm(x)


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of x @ weight.T, a few rows at a time: the (B * T, V) logits never exist as a whole.

    Forward computes the gradients as well (d loss / d logits = softmax - one-hot), so that nothing is kept or computed
    twice. With V = 32768 and 16384 tokens that saves 4 GB in float32; on a CPU the rows stay in the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """grad: scalar. Returns the gradients of x and weight."""
        grad_x, grad_w = ctx.saved_tensors
        return grad_x * grad.to(grad_x.dtype), grad_w * grad, None


class Llama(nn.Module):
    """The decoder with its output head: Hugging Face's LlamaForCausalLM."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg, self.model = cfg, Decoder(cfg)
        self.lm_head = Linear(cfg.n_embd, cfg.vocab_size, bias=False)
        if cfg.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        with torch.no_grad():
            for parameter, value in self.initial_weights():
                parameter.copy_(value)

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        super()._apply(*args, **kwargs)  # .to(device), .bfloat16(): in bfloat16 only 513 of 1024 positions would differ
        self.model.frequencies = rope_frequencies(*self.model.rope).to(self.model.frequencies.device)
        if self.cfg.tie_embeddings:  # to_empty() makes one new tensor for each name
            self.lm_head.weight = self.model.embed_tokens.weight
        return self

    def initial_weights(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter with its first value, drawn on the CPU whatever the parameter's device.

        Normal, std 0.02; 0.02 / sqrt(2L) for matrices that write to the stream (GPT-2, Radford et al. 2019, 2.3).
        Biases are 0, norm gains 1.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / math.sqrt(2 * self.cfg.n_layer) if writes else 0.02
                yield parameter, torch.empty(parameter.shape).normal_(std=std)
            else:
                yield parameter, torch.full(parameter.shape, 0.0 if name.endswith("bias") else 1.0)

    def forward(
        self, idx: Tensor, targets: Tensor | None = None, cache: Cache | None = None, last: bool = False
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T); with targets (B, T) the summed loss in nats instead, a float32 scalar.

        Targets equal to IGNORE are not scored; divide by the number of the others for the mean. With a cache the ids
        follow those it has had, and it takes them in; ValueError when they do not fit. last: logits of the last
        position only, (B, 1, V).
        """
        x = self.model(idx, cache)  # (B, T, C)
        if targets is None:
            return self.lm_head(x[:, -1:] if last else x)  # (B, T or 1, V)
        return LinearCrossEntropy.apply(x.flatten(0, 1), self.lm_head.weight, targets.flatten())

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """Optimizer groups: decay for the matrices inside the blocks, none for embedding, head, gains and biases."""
        decayed = [parameter for parameter in self.model.layers.parameters() if parameter.dim() == 2]
        others = [parameter for parameter in self.parameters() if all(parameter is not p for p in decayed)]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]

    def num_parameters(self) -> int:
        """Number of parameters; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters())

    def flops_per_token(self, T: int) -> int:
        """Floating-point operations of training on one token in a window of T: forward and backward.

        6 for each weight of a matrix product (the head is one, tied or not; the embedding is a look-up), and 12 L H D T
        for the scores and sums of attention, the causal half not subtracted (PaLM, arXiv 2204.02311, appendix B).
        """
        matrices = self.parameter_groups(weight_decay=0.0)[0]["params"]  # those inside the blocks
        products = sum(matrix.numel() for matrix in [*matrices, self.lm_head.weight])
        return 6 * products + 12 * self.cfg.n_layer * self.cfg.n_head * self.cfg.head_width * T
