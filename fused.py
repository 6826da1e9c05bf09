"""The blocks of a decoder by kernels.cpp: one call for a new token, where torch takes a thousand small steps.

    model = load_model(folder).eval()
    fuse(model)                          # lora.Source.load does it
    model(ids, cache=cache)              # the same, faster

Queries, keys and values are one product, and so are gate and up. Writing text one token at a time, torch needs 10 to 20
milliseconds for starting its operators alone. Quantized blocks compute everything here; float ones only a few rows, for
many rows the library behind torch is faster.

It is for a CPU, and for no gradient. What does not suit is left to the blocks themselves.
"""

import ctypes

import torch
from torch import Tensor, nn

import kernels
from model import Attention, Cache, Documents, Linear, Llama, attention
from quantized import QuantizedLinear, stack

FEW_ROWS = 16  # of float weights: for more of them torch's own product is faster


def fuse(model: Llama) -> None:
    """Give the model FusedBlocks, where it can have them. In place; its weights and their names stay."""
    is_on_cpu = model.device.type == "cpu"
    if is_on_cpu and kernels.library() is not None and can_be_fused(model):
        model.model.fused = FusedBlocks(model)


def can_be_fused(model: Llama) -> bool:
    """Whether all matrices of the blocks are of one type that kernels.cpp multiplies (an adapter's are not), and can be
    put one below the other."""
    layers = model.model.layers
    matrices = [module for module in layers.modules() if isinstance(module, (Linear, QuantizedLinear))]
    if all(type(matrix) is QuantizedLinear for matrix in matrices):
        sizes = (model.cfg.n_head * model.cfg.head_width, model.cfg.n_kv_head * model.cfg.head_width)
        return not any(rows % kernels.OCTET for rows in (*sizes, model.cfg.ffn_hidden))
    if all(type(matrix) is Linear for matrix in matrices):
        dtypes = {parameter.dtype for parameter in layers.parameters()}
        return dtypes in ({torch.float32}, {torch.bfloat16})
    return False


class FusedBlocks:
    """All blocks of a model as kernels.cpp sees them. Holds what their addresses point to."""

    def __init__(self, model: Llama):
        self.cfg = model.cfg
        self.held: list[object] = []
        blocks = [self._block(block) for block in model.model.layers]
        self.blocks = (kernels.Block * len(blocks))(*blocks)
        self.is_quantized = isinstance(model.model.layers[0].mlp.down_proj, QuantizedLinear)

    # --- what the kernels are given ---

    def _block(self, block: nn.Module) -> kernels.Block:
        attn, mlp = block.self_attn, block.mlp
        return kernels.Block(
            qkv=self._stack([attn.q_proj, attn.k_proj, attn.v_proj]),
            o=self._stack([attn.o_proj]),
            gate_up=self._stack([mlp.gate_proj, mlp.up_proj]),
            down=self._stack([mlp.down_proj]),
            input_norm=self._numbers(block.input_layernorm.weight),
            output_norm=self._numbers(block.post_attention_layernorm.weight),
            qkv_bias=self._biases(attn),
            q_norm=self._numbers(getattr(attn.q_norm, "weight", None)),
            k_norm=self._numbers(getattr(attn.k_norm, "weight", None)),
            H=attn.H,
            Hkv=attn.Hkv,
            D=attn.D,
            eps=self.cfg.norm_eps,
        )

    def _stack(self, linears: list[nn.Module]) -> kernels.Matrix:
        """One matrix of several, one below the other. The modules keep theirs, as parts of it."""
        if isinstance(linears[0], QuantizedLinear):
            together = stack([linear.matrix for linear in linears])
            self.held.append(together)
            return together.for_kernels()

        weight = linears[0].weight.data
        if len(linears) > 1:
            weight = torch.cat([linear.weight.data for linear in linears])
            parts = weight.split([linear.out_features for linear in linears])
            for linear, part in zip(linears, parts, strict=True):
                linear.weight.data = part
        self.held.append(weight)
        return kernels.float_matrix(weight)

    def _numbers(self, parameter: Tensor | None) -> int | None:
        """The address of a vector in float32."""
        if parameter is None:
            return None
        numbers = parameter.detach().float().contiguous()
        self.held.append(numbers)
        return numbers.data_ptr()

    def _biases(self, attn: Attention) -> int | None:
        if attn.q_proj.bias is None:
            return None
        return self._numbers(torch.cat([attn.q_proj.bias, attn.k_proj.bias, attn.v_proj.bias]))

    # --- the computation ---

    def suits(self, x: Tensor, documents: Documents | None) -> bool:
        """Whether these blocks compute x, (B, T, C), faster, and as the others would."""
        B, T, _ = x.shape
        if documents is not None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        if torch.is_autocast_enabled("cpu"):
            return False
        return self.is_quantized or B * T <= FEW_ROWS

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        """x: (B, T, C); cos, sin: (T, D) or (B, 1, T, D). Returns the stream after the last block, (B, T, C)."""
        stream = x.float().contiguous()
        cos = cos.contiguous()
        sin = sin.contiguous()
        is_one_token = x.shape[1] == 1 and type(cache) is Cache and cache.keys.is_contiguous()
        if is_one_token:
            stream = self._one_token(stream, cos, sin, cache)
        else:
            for layer in range(len(self.blocks)):
                stream = self._all_tokens(layer, stream, cos, sin, cache)
        return stream.to(x.dtype)

    def _one_token(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache) -> Tensor:
        """x: (B, 1, C), which becomes the result."""
        x = x.clone()
        B = x.shape[0]
        mask = cache.mask  # (B, 1, 1, used) or None
        if mask is not None:
            mask = mask.expand(B, 1, 1, cache.used).contiguous()
        kernels.library().one_token(
            ctypes.addressof(self.blocks),
            len(self.blocks),
            x.data_ptr(),
            B,
            cos.data_ptr(),
            sin.data_ptr(),
            cos.dim() == 4,
            cache.keys.data_ptr(),
            cache.values.data_ptr(),
            None if mask is None else mask.data_ptr(),
            cache.keys.shape[3],
            cache.begin,
            torch.get_num_threads(),
        )
        return x

    def _all_tokens(self, layer: int, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None) -> Tensor:
        """One block; attention is the cache's, or torch's. x: (B, T, C)."""
        B, T, _ = x.shape
        D = self.cfg.head_width
        block = ctypes.byref(self.blocks[layer])
        threads = torch.get_num_threads()

        q = x.new_empty(B, self.cfg.n_head, T, D)
        k = x.new_empty(B, self.cfg.n_kv_head, T, D)
        v = torch.empty_like(k)
        tables = (cos.data_ptr(), sin.data_ptr(), cos.dim() == 4)
        projections = (q.data_ptr(), k.data_ptr(), v.data_ptr())
        kernels.library().block_input(block, x.data_ptr(), B, T, *tables, *projections, threads)

        y = attention(q, k, v) if cache is None else cache.attend(layer, q, k, v)  # (B, T, H, D)
        y = y.float().contiguous()
        out = torch.empty_like(x)
        kernels.library().block_output(block, x.data_ptr(), y.data_ptr(), B * T, out.data_ptr(), threads)
        return out
