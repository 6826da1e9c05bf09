"""A Llama-like decoder, smallest part first: RMSNorm, rotary positions, grouped-query attention, SwiGLU, the loss.

Parameter names are those of Hugging Face's LlamaForCausalLM, so that weights go in and out without a table.
Two switches make it Qwen2 (qkv_bias) or Qwen3 (qk_norm). docs/model.md explains the parts and draws one block.

Sizes: B batch, T time (tokens), C model width, H query heads, Hkv key/value heads, D head width, F feed-forward width,
V vocabulary (rows of the embedding), L layers, S slots of the cache, N = B * T rows of the loss.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.utils.checkpoint import checkpoint as recompute

import cpu_ops
import onednn

IGNORE = -100  # a target that is not scored
LARGEST = 1 << 24  # of each size of a model: the elements of a matrix can still be counted in int64

# The loss computes this many logits at a time (4 MB in float32), but at least so many rows of them.
CHUNK_LOGITS = 1 << 20
CHUNK_ROWS = 128
ADDED_NUMBERS = 1 << 22  # of the head's gradient that a CPU computes before they are added

# Linear cuts its weight for at most so many rows, and for at least so many multiplications.
FEW_ROWS = 32
WORTH_THREADS = 1 << 20

FLASH_WIDTHS = range(8, 257, 8)  # head widths that FlashAttention computes


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretch of the rotary frequencies to a longer context; the names are Hugging Face's."""

    factor: float = 8.0  # the slow frequencies are divided by it
    low_freq_factor: float = 1.0  # slow: at most this many turns within the original context
    high_freq_factor: float = 4.0  # fast, and left alone: at least this many turns
    original_max_position_embeddings: int = 8192  # the original context, in tokens

    def __post_init__(self) -> None:
        turns_fit = 0 < self.low_freq_factor < self.high_freq_factor < math.inf
        factor_fits = 1 <= self.factor < math.inf
        context_fits = 1 <= self.original_max_position_embeddings <= LARGEST
        if not (turns_fit and factor_fits and context_fits):
            raise ValueError(f"{self} cannot be; Llama 3.1 has {RopeScaling()}")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of the decoder. Raises ValueError for a shape that cannot be, with the nearest one that can."""

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
        if self.head_dim is not None:
            return self.head_dim
        return self.n_embd // self.n_head

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_heads()
        self._check_numbers()
        if self.qkv_bias and self.qk_norm:
            raise ValueError("qkv_bias (Qwen2) and qk_norm (Qwen3): no model family has both; choose one")

    def _check_sizes(self) -> None:
        for key in ("vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "ffn_hidden"):
            check_size(key, getattr(self, key), LARGEST)
        if self.head_dim is not None:
            check_size("head_dim", self.head_dim, LARGEST // self.n_head)

    def _check_heads(self) -> None:
        """Heads have an even width, and each key/value head serves equally many query heads."""
        H = self.n_head
        Hkv = self.n_kv_head
        C = self.n_embd

        if self.head_dim is None and C % (2 * H):
            fitting = [heads for heads in range(1, C + 1) if C % (2 * heads) == 0]
            advice = f"; try n_head={nearest(H, fitting)}" if fitting else ""
            raise ValueError(f"n_embd ({C}) must be n_head ({H}) times an even head width{advice}")

        if self.head_width % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even; try head_dim={self.head_width + 1}")

        if H % Hkv:
            divisors = [heads for heads in range(1, H + 1) if H % heads == 0]
            advice = f"try n_kv_head={nearest(Hkv, divisors)}"
            raise ValueError(f"n_head ({H}) must be divisible by n_kv_head ({Hkv}); {advice}")

    def _check_numbers(self) -> None:
        for key, usual in (("rope_theta", 10000.0), ("norm_eps", 1e-5)):
            value = getattr(self, key)
            if not 0 < value < math.inf:
                raise ValueError(f"{key} ({value}) must be above 0 and finite; try {key}={usual}")


def check_size(key: str, size: int, largest: int) -> None:
    """Raise ValueError unless `size` is from 1 to `largest`."""
    if size < 1:
        raise ValueError(f"{key} ({size}) must be at least 1")
    if size > largest:
        raise ValueError(f"{key} ({size}) must be at most {largest}")


def nearest(wanted: int, candidates: Iterable[int]) -> int:
    """The candidate next to `wanted`."""
    return min(candidates, key=lambda candidate: abs(candidate - wanted))


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """float32 for the shorter formats, float64 for itself: what norms, softmaxes and sums are computed in."""
    return torch.promote_types(dtype, torch.float32)


class RMSNorm(nn.RMSNorm):
    """Features over their root mean square, times a gain (Zhang and Sennrich 2019, arXiv 1910.07467, eq. 4)."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., width); computed in float32 at least, returned in the dtype of the matrix products that follow.

        (Autocast would convert a float32 result for each of these products anew, and keep each copy.)
        """
        wide = at_least_float32(x.dtype)
        gain = self.weight.to(wide)
        dtype = product_dtype(x)
        if cpu_ops.suits_eager(x) and dtype in cpu_ops.DTYPES:
            return cpu_ops.rms_norm(x, gain, self.eps, dtype)

        y = F.rms_norm(x.to(wide), self.normalized_shape, gain, self.eps)
        return y.to(dtype)


def rope_frequencies(D: int, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Radians per position of each pair of features, (D/2,) float32: theta^(-2i/D), stretched as Llama 3.1 does.

    A frequency that turns at most low_freq_factor times within the original context is divided by `factor`, one that
    turns at least high_freq_factor times stays, between them it is a blend (meta-llama/llama-models, apply_scaling).
    """
    exponents = torch.arange(0, D, 2, dtype=torch.float32) / D
    plain = 1.0 / theta**exponents
    if scaling is None:
        return plain

    wavelengths = 2 * math.pi / plain  # tokens in one turn
    turns = scaling.original_max_position_embeddings / wavelengths
    # 0 where slow, 1 where fast
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = keep.clamp(0, 1)
    return (1 - keep) * plain / scaling.factor + keep * plain


def rope_tables(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of position times frequency, (..., T, D) float32 each, for positions (..., T).

    Two halves each, for the two features of a pair: cos, cos and -sin, sin. They are made anew in each forward pass,
    which takes 0.1 % of it: for a context of a million tokens they would weigh a gigabyte.
    """
    angles = positions[..., None].float() * frequencies  # (..., T, D/2)
    cos = angles.cos()
    sin = angles.sin()
    cos = torch.cat((cos, cos), dim=-1)  # (..., T, D)
    sin = torch.cat((-sin, sin), dim=-1)  # (..., T, D)
    return cos, sin


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of features by their position (RoPE, Su et al. 2021, arXiv 2104.09864, eq. 34).

    x: (B, H, T, D) with D even; cos, sin: (T, D) or (B, 1, T, D) float32. Returns the shape and dtype of x.
    Half-split layout as in Hugging Face Llama, not Meta's interleaved pairs: features i and i + D/2 are a point in the
    plane, and (left, right) becomes (left cos - right sin, right cos + left sin).

    Example: D = 4 and theta = 10000, so the frequencies are 1 and 0.01. At position 2 the first point turns by
    2 radians, the second by 0.02:

        x       1       1       0       0      the points (1, 0) and (1, 0)
        cos  -0.416   1.000  -0.416   1.000
        sin  -0.909  -0.020   0.909   0.020
        out  -0.416   1.000   0.909   0.020    the points (-0.416, 0.909) and (1.000, 0.020)
    """
    half = x.shape[-1] // 2
    from_itself = x * cos
    from_partner = x.roll(half, dims=-1) * sin  # roll: (right, left)
    return (from_itself + from_partner).to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(D)) v: each token looks at those that it sees (Vaswani et al. 2017, arXiv 1706.03762, eq. 1).

    q: (B, H, T, D); k, v: (B, Hkv, S, D); mask: (B or 1, 1, T, S) bool, what each token (line) sees. None: the tokens
    are the same, S = T, and each sees those before it and itself. Computed in the dtype of k and v, also under
    autocast. Returns (B, T, H, D).
    """
    q = q.to(k.dtype)
    with torch.autocast(q.device.type, enabled=False):
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return y.transpose(1, 2)


class Cache:
    """Keys and values of the tokens that a batch of sequences has had so far, allocated once: (L, B, Hkv, S, D) each.

    All rows share the slots 0 ... S - 1 and take the next ones together, so a new token is written as one slice.
    Sequences of different lengths are padded on the left: row b begins at slot padding[b], its positions count from
    there, and no token sees the slots before it. For the texts "a b c d" and "x y":

        slot        0  1  2  3
        row 0       a  b  c  d        padding 0, positions  0  1  2  3
        row 1       -  -  x  y        padding 2, positions -2 -1  0  1

    `mask` says which slots (columns) each of these tokens (lines) sees:

        row 0   a   1  .  .  .        row 1   -   1  .  .  .    padding sees itself only
                b   1  1  .  .                -   .  1  .  .
                c   1  1  1  .                x   .  .  1  .    the first of its text
                d   1  1  1  1                y   .  .  1  1

    and the next token, in slot 4, sees 1 1 1 1 1 in row 0, and . . 1 1 1 in row 1.
    (Padding sees itself because a softmax over nothing is NaN on some devices, and 0 * NaN would reach the real rows.)

    A prefix is what all rows begin with: a cache of one row, whose tokens are copied into each. Padding comes after it:

        row 0       p  q  a  b        positions  0  1  2  3
        row 1       p  q  -  x        padding 1, positions  0  1  1  2; x sees p, q and itself

    The dtype is that of the weights, but float32 on a CPU, where attention computes in it; the device is theirs.
    """

    def __init__(
        self,
        model: "Llama",
        batch_size: int,
        size: int,
        padding: Sequence[int] = (),
        prefix: "Cache | None" = None,
    ):
        cfg = model.cfg
        device = model.device
        dtype = torch.float32 if device.type == "cpu" else model.dtype

        # One slot more: a slice of all is contiguous, so torch.compile would compile again for the last token.
        shape = (cfg.n_layer, batch_size, cfg.n_kv_head, size + 1, cfg.head_width)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)

        self.shared = 0  # slots of the prefix
        if prefix is not None:
            self.shared = prefix.used
            self.keys[..., : self.shared, :] = prefix.keys[..., : self.shared, :]
            self.values[..., : self.shared, :] = prefix.values[..., : self.shared, :]

        self.size = size  # S
        self.used = self.shared  # slots that are taken
        self.begin = 0  # the slot of the first of the newest tokens
        self.slots = torch.arange(size + 1, device=device)
        self.mask: Tensor | None = None  # for the newest tokens; None: each sees all slots up to its own

        self.longest_padding = max(padding, default=0)
        self.padding: Tensor | None = None  # (B, 1, 1)
        self.in_text: Tensor | None = None  # (B, 1, 1, S + 1): not padding
        if self.longest_padding:
            self.padding = torch.tensor(padding, device=device)[:, None, None]
            text_begins = self.shared + self.padding[..., None]
            self.in_text = (self.slots < self.shared) | (self.slots >= text_begins)

    def extend(self, T: int) -> Tensor:
        """Take the next T slots and set `mask`, (1 or B, 1, T or 1, used); returns their positions, (T,) or (B, 1, T).

        Positions of padding are negative. Raises ValueError when the tokens do not fit.
        """
        if self.used + T > self.size:
            raise ValueError(f"the cache has {self.size} slots, {self.used} of them taken: no room for {T} more tokens")
        self.begin = self.used
        self.used = self.begin + T

        slots = self.slots[: self.used]  # (used,)
        new_slots = self.slots[self.begin : self.used]  # (T,)
        self.mask = self._mask(slots, new_slots[:, None])
        if self.padding is None:
            return new_slots
        return new_slots - self.padding

    def keep(self, n: int) -> None:
        """Forget all but the first n tokens: the next ones take their slots."""
        assert 0 <= n <= self.used, (n, self.used)
        self.used = n

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Forget all sequences but these: the next tokens are those of rows[0], rows[1] and so on."""
        kept = torch.tensor(rows, device=self.slots.device)
        self.keys = self.keys[:, kept]
        self.values = self.values[:, kept]
        if self.padding is not None:
            self.padding = self.padding[kept]
            self.in_text = self.in_text[kept]

    def _mask(self, slots: Tensor, new_slots: Tensor) -> Tensor | None:
        """Which of `slots`, (used,), the tokens in `new_slots`, (T, 1), see; drawn above."""
        one_token_of_text = len(new_slots) == 1 and self.begin >= self.shared + self.longest_padding

        if self.in_text is None:
            if self.begin == 0 or one_token_of_text:
                return None
            return (slots <= new_slots)[None, None]  # (1, 1, T, used)

        in_text = self.in_text[..., : self.used]  # (B, 1, 1, used)
        if one_token_of_text:
            return in_text
        before = slots <= new_slots  # (T, used)
        itself = slots == new_slots  # (T, used)
        return before & in_text | itself  # (B, 1, T, used)

    def write(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the new tokens' keys and values, (B, Hkv, T, D); returns those of all tokens, (B, Hkv, used, D)."""
        T = k.shape[2]
        keys = self.keys[layer]  # (B, Hkv, S + 1, D)
        values = self.values[layer]

        # narrow takes three quarters of the time of slices in all dimensions
        keys.narrow(2, self.begin, T).copy_(k)
        values.narrow(2, self.begin, T).copy_(v)
        keys = keys.narrow(2, 0, self.used)  # (B, Hkv, used, D)
        values = values.narrow(2, 0, self.used)
        return keys, values

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keep the new tokens' keys and values, and let each of these tokens see those that `mask` says.

        q: (B, H, T, D); k, v: (B, Hkv, T, D). Returns (B, T, H, D).
        """
        keys, values = self.write(layer, k, v)  # (B, Hkv, used, D)
        if q.shape[2] == 1:
            return self._attend_one_token(q.to(keys.dtype), keys, values)
        return attention(q, keys, values, self.mask)

    def _attend_one_token(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """q: (B, H, 1, D); keys, values: (B, Hkv, used, D). Returns (B, 1, H, D).

        The query heads of a group stand in the place of tokens, so that their key/value head is read once.
        """
        B, H, _, D = q.shape
        Hkv = keys.shape[1]
        q = q.reshape(B, Hkv, H // Hkv, D)  # (B, Hkv, H / Hkv, D)
        y = F.scaled_dot_product_attention(q, keys, values, attn_mask=self.mask)  # (B, Hkv, H / Hkv, D)
        return y.reshape(B, 1, H, D)


class Documents:
    """Which tokens of packed rows belong together: a row holds several documents, and none sees another.

    cu_seqlens, (n + 1,) integers: where each of the n documents begins in the B * T tokens, row after row, and at last
    B * T (the usual name: cumulative sequence lengths). Each row begins with a document. Two rows of T = 6 tokens with
    documents of 4, 2 and 6 tokens:

        cu_seqlens    0 4 6 12
        positions     0 1 2 3 0 1    0 1 2 3 4 5

    and in the first row a token (line) sees these tokens (columns):

        1 . . . . .
        1 1 . . . .
        1 1 1 . . .
        1 1 1 1 . .
        . . . . 1 .
        . . . . 1 1

    The attention of a document is a causal one of its own: work grows with the squares of 4 and 2, and not of 6. A GPU
    does all documents in one call in half precision (FlashAttention, Dao 2023, arXiv 2307.08691), a CPU one after the
    other. Where neither can be, all are masked as above.
    """

    def __init__(self, cu_seqlens: Tensor, B: int, T: int):
        self.B = B
        self.T = T
        self.cu_seqlens = cu_seqlens.to(torch.int32)

        tokens = torch.arange(B * T, device=cu_seqlens.device, dtype=torch.int32)
        self.numbers = torch.searchsorted(self.cu_seqlens, tokens, right=True) - 1  # (B * T,) document of each token
        begins = self.cu_seqlens[self.numbers]
        self.positions = (tokens - begins).view(B, 1, T)  # of each token in its document

        self.one_by_one = cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.one_by_one:
            self.lengths = self.cu_seqlens.diff().tolist()

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (B, H, T, D); k, v: (B, Hkv, T, D). Returns (B, T, H, D)."""
        if self.one_by_one:
            return self._attend_one_by_one(q, k, v)
        if q.device.type == "cuda" and q.dtype.itemsize == 2 and q.shape[-1] in FLASH_WIDTHS:
            return self._attend_in_one_call(q, k, v)
        return attention(q, k, v, self.mask)

    @cached_property
    def mask(self) -> Tensor:
        """Whether a token (line) sees another (column), (B, 1, T, T)."""
        numbers = self.numbers.view(self.B, 1, self.T)
        same_document = numbers[..., :, None] == numbers[..., None, :]
        return same_document.tril()

    def _attend_one_by_one(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention on a CPU."""
        # split, and not slices: its gradient is one concatenation, that of a slice fills a tensor of all tokens
        pieces = [self._tokens(x).split(self.lengths) for x in (q, k, v)]

        outputs = []
        for document in zip(*pieces, strict=True):
            heads_first = [x.transpose(0, 1)[None] for x in document]  # (1, H or Hkv, length, D)
            y = attention(*heads_first)  # (1, length, H, D)
            outputs.append(y[0])
        return torch.cat(outputs).unflatten(0, (self.B, self.T))

    def _attend_in_one_call(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention on a CUDA device, in half precision."""
        tokens = [self._tokens(x) for x in (q, k, v)]
        ends = (self.cu_seqlens, self.cu_seqlens)
        causal = (-1, 0)  # how far a token sees to its left, where -1 is without limit, and to its right
        with torch.autocast(q.device.type, enabled=False):
            y = varlen_attn(*tokens, *ends, self.T, self.T, window_size=causal, enable_gqa=True)  # (B * T, H, D)
        return y.unflatten(0, (self.B, self.T))

    @staticmethod
    def _tokens(x: Tensor) -> Tensor:
        """(B, H, T, D) as (B * T, H, D)."""
        return x.transpose(1, 2).flatten(0, 1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear, x @ weight.T + bias, by the faster of two libraries on a CPU.

    x: (..., in); weight: (out, in); bias: (out,). Returns (..., out).
    """
    multiply = onednn.linear if onednn.suits(x, weight) else F.linear
    return multiply(x, weight, bias)


class Linear(nn.Linear):
    """nn.Linear that multiplies a few rows by a large matrix on all threads of a CPU.

    MKL leaves that to one thread in float32. A batch of products with slices of the weight goes to all of them: a whole
    model is 1.1 to 1.3 times as fast on two cores (docs/LOG.md). A smaller product is done before they wake.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features). Returns (..., out_features)."""
        slices = self._slices(x)
        if slices == 1:
            return linear(x, self.weight, self.bias)

        rows = x.reshape(1, -1, self.in_features)  # (1, rows, in)
        rows = rows.expand(slices, -1, -1)  # (slices, rows, in)
        weights = self.weight.view(slices, -1, self.in_features)  # (slices, out / slices, in)
        y = torch.bmm(rows, weights.transpose(1, 2))  # (slices, rows, out / slices)
        y = y.transpose(0, 1)  # (rows, slices, out / slices)
        y = y.reshape(*x.shape[:-1], self.out_features)  # (..., out)
        if self.bias is not None:
            y = y + self.bias
        return y

    def _slices(self, x: Tensor) -> int:
        """Into how many slices the weight is cut for x; 1: not at all."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return 1
        if x.device.type != "cpu" or self.weight.dtype != torch.float32:
            return 1
        few_rows = x.numel() <= FEW_ROWS * self.in_features
        worth_it = x.numel() * self.out_features >= WORTH_THREADS
        if not few_rows or not worth_it:
            return 1
        threads = torch.get_num_threads()
        return math.gcd(self.out_features, 4 * threads) if threads > 1 else 1


class Attention(nn.Module):
    r"""Causal attention; H / Hkv query heads share a key/value head (GQA, Ainslie et al. 2023, arXiv 2305.13245).

    H = 4 query heads on Hkv = 4, 2 and 1 key/value heads; all three are the same code:

        key/value    0  1  2  3        0     1           0
                     |  |  |  |       / \   / \      / /   \ \
        query        0  1  2  3      0   1 2   3    0  1   2  3
                     multi-head      grouped        multi-query

    With qk_norm each head of the queries and keys is normalised before it turns (Qwen3, arXiv 2505.09388, 2).
    """

    def __init__(self, cfg: ModelConfig, layer: int):
        super().__init__()
        self.layer = layer
        self.H = cfg.n_head
        self.Hkv = cfg.n_kv_head
        self.D = cfg.head_width

        self.q_proj = Linear(cfg.n_embd, self.H * self.D, bias=cfg.qkv_bias)
        self.k_proj = Linear(cfg.n_embd, self.Hkv * self.D, bias=cfg.qkv_bias)
        self.v_proj = Linear(cfg.n_embd, self.Hkv * self.D, bias=cfg.qkv_bias)
        self.o_proj = Linear(self.H * self.D, cfg.n_embd, bias=False)

        self.q_norm = RMSNorm(self.D, cfg.norm_eps) if cfg.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(self.D, cfg.norm_eps) if cfg.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None, documents: Documents | None = None
    ) -> Tensor:
        """x: (B, T, C); cos, sin: (T, D) or (B, 1, T, D). Returns (B, T, C)."""
        B, T, C = x.shape

        # Project: what each token looks for (q), what it offers to be found by (k), and what it passes on (v).
        q = self.q_proj(x).view(B, T, self.H, self.D)  # (B, T, H, D)
        k = self.k_proj(x).view(B, T, self.Hkv, self.D)  # (B, T, Hkv, D)
        v = self.v_proj(x).view(B, T, self.Hkv, self.D)  # (B, T, Hkv, D)

        # Normalise each head of the queries and keys (Qwen3), or do nothing.
        q = self.q_norm(q)
        k = self.k_norm(k)

        # Attend: softmax(q k' / sqrt(D)) v with rotated q and k, each token over those before it and itself: with a
        # cache all tokens so far, in a packed row those of its document.
        if cache is None and cpu_ops.suits(q):
            begins = torch.arange(B + 1) * T if documents is None else documents.cu_seqlens
            y = cpu_ops.attention(q, k, v, cos, sin, begins)  # (B, T, H, D)
        else:
            y = self.attend(q, k, v, cos, sin, cache, documents)  # (B, T, H, D)

        # Merge the heads and write the result back to the stream.
        y = y.reshape(B, T, self.H * self.D)  # (B, T, H * D)
        return self.o_proj(y.to(x.dtype))  # (B, T, C)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: Cache | None,
        documents: Documents | None,
    ) -> Tensor:
        """Attention by torch's operators; q: (B, T, H, D); k, v: (B, T, Hkv, D). Returns (B, T, H, D)."""
        # Heads first: torch's attention works on (T, D) matrices.
        q = q.transpose(1, 2)  # (B, H, T, D)
        k = k.transpose(1, 2)  # (B, Hkv, T, D)
        v = v.transpose(1, 2)  # (B, Hkv, T, D)

        # Widen: torch's CPU attention is 7 times slower in bf16 than in fp32 (docs/LOG.md).
        if q.device.type == "cpu":
            wide = at_least_float32(q.dtype)
            q = q.to(wide)
            k = k.to(wide)
            v = v.to(wide)

        # Rotate queries and keys by their positions.
        q = apply_rope(q, cos, sin)
        k = apply_rope(k, cos, sin)

        if cache is not None:
            return cache.attend(self.layer, q, k, v)
        if documents is not None:
            return documents.attend(q, k, v)
        return attention(q, k, v)


class GatedSilu(torch.autograd.Function):
    """silu(gate) * up, which keeps its two inputs for the backward pass and computes silu(gate) there once more.

    Autograd would keep silu(gate) besides: F numbers a token and block, a seventh of what a block keeps. The values and
    the gradients are the same, bit for bit.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        """gate, up: (..., F). Returns (..., F)."""
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """grad: (..., F). Returns the gradients of gate and up.

        With s = sigmoid(gate): d silu(gate) / d gate = s (1 + gate (1 - s)).
        """
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(grad)
        grad_gate = torch.ops.aten.silu_backward(grad * up, gate)
        return grad_gate, grad_up


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(cfg.n_embd, cfg.ffn_hidden, bias=False)
        self.up_proj = Linear(cfg.n_embd, cfg.ffn_hidden, bias=False)
        self.down_proj = Linear(cfg.ffn_hidden, cfg.n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, T, C). Returns (B, T, C)."""
        gate = self.gate_proj(x)  # (B, T, F)
        up = self.up_proj(x)  # (B, T, F)
        gated_silu = cpu_ops.gated_silu if cpu_ops.suits_eager(gate) else GatedSilu.apply
        hidden = gated_silu(gate, up)  # (B, T, F)
        return self.down_proj(hidden)  # (B, T, C)


class Block(nn.Module):
    """Attention, then the feed-forward network, each on normalised input and added to the stream (pre-norm)."""

    def __init__(self, cfg: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.self_attn = Attention(cfg, layer)
        self.post_attention_layernorm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.mlp = MLP(cfg)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None = None, documents: Documents | None = None
    ) -> Tensor:
        """x: (B, T, C); cos, sin, cache, documents: for Attention. Returns (B, T, C)."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache, documents)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class Decoder(nn.Module):
    """Embedding, blocks, final norm: Hugging Face's LlamaModel.

    Set recompute_blocks to keep only each block's input for the backward pass, which computes the block again: a third
    more work, and memory for one block instead of L (activation checkpointing, Chen et al. 2016, arXiv 1604.06174).
    """

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.recompute_blocks = False
        self.fused: Any = None  # fused.FusedBlocks: the same blocks, faster on a CPU
        self.embed_tokens = nn.Embedding(cfg.vocab_size, cfg.n_embd)
        self.layers = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.n_layer))
        self.norm = RMSNorm(cfg.n_embd, cfg.norm_eps)
        self.register_buffer("frequencies", self.make_frequencies(), persistent=False)  # (D/2,)

    def make_frequencies(self) -> Tensor:
        """The rotary frequencies, (D/2,), always in float32: in bfloat16 only 513 of 1024 positions would differ."""
        return rope_frequencies(self.cfg.head_width, self.cfg.rope_theta, self.cfg.rope_scaling)

    def forward(self, idx: Tensor, cache: Cache | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """idx: (B, T) ids, with a cache the next T of each row. cu_seqlens: for Documents. Returns (B, T, C)."""
        B, T = idx.shape
        documents = None
        if cu_seqlens is not None:
            assert cache is None, "packed documents have no cache"
            documents = Documents(cu_seqlens, B, T)
            positions = documents.positions  # (B, 1, T)
            shortest = T
        elif cache is None:
            positions = torch.arange(T, device=idx.device)  # (T,)
            shortest = T
        else:
            positions = cache.extend(T)  # (T,) or (B, 1, T)
            shortest = cache.used - cache.longest_padding  # rows that are longer may be over, and ignored
        assert shortest <= self.cfg.block_size, (shortest, self.cfg.block_size)

        cos, sin = rope_tables(positions, self.frequencies)  # (T, D) or (B, 1, T, D)
        x = self.embed_tokens(idx)  # (B, T, C)
        if self.fused is not None and self.fused.suits(x, documents):
            x = self.fused(x, cos, sin, cache)
            return self.norm(x)

        for layer in self.layers:
            if self.recompute_blocks:
                x = recompute(layer, x, cos, sin, cache, documents, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, cos, sin, cache, documents)
        return self.norm(x)


def chunks(N: int, V: int, C: int, wants_weight: bool) -> Iterator[slice]:
    """Which of N rows have their logits under the head, (V, C), computed together.

    All logits at once would be the largest array of a step: 4 GB in float32 for 32,768 tokens and V = 32,768. A chunk
    shall fit into the cache of a CPU, but each chunk also reads and writes the whole gradient of the head, (V, C). With
    C / 2 rows the chunk's logits and their softmax, (C / 2, V) each, are together as large as that gradient.
    (docs/LOG.md: with 21 rows, C = 576 and V = 49,152 it took three quarters of the time.) Where no gradient of the
    head is wanted, few rows are as fast.
    """
    rows = chunk_rows(V, C, wants_weight)
    for begin in range(0, N, rows):
        yield slice(begin, begin + rows)


def chunk_rows(V: int, C: int, wants_weight: bool) -> int:
    """Rows of a chunk."""
    rows = max(CHUNK_ROWS, CHUNK_LOGITS // V)
    return max(rows, C // 2) if wants_weight else rows


def product_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of x are computed in: autocast's choice, or the dtype of x."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in float32 at least; logits: (rows, V)."""
    return F.log_softmax(logits, dim=1, dtype=at_least_float32(logits.dtype))


def target_logprobs(h: Tensor, w: Tensor, targets: Tensor) -> Tensor:
    """log p of each target under the logits h @ w.T, (rows,) in float32 at least.

    h: (rows, C); w: (V, C); targets: (rows,).
    """
    logits = linear(h, w)  # (rows, V)
    if cpu_ops.takes(logits):
        return cpu_ops.target_logprobs(logits, targets)
    return log_softmax(logits).gather(1, targets.unsqueeze(1)).squeeze(1)


def target_logprobs_with_gradient(h: Tensor, w: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """As target_logprobs, and the gradient of -log p[target] with respect to the logits, (rows, V) in the dtype of w.

    d(-log p[target]) / d logits = p - one_hot(target). Example: p = 0.2, 0.5, 0.3 and target 1 give 0.2, -0.5, 0.3; a
    step against this gradient makes the target likelier.
    """
    logits = linear(h, w)  # (rows, V)
    if cpu_ops.takes(logits):
        return cpu_ops.target_logprobs_with_gradient(logits, targets)

    columns = targets.unsqueeze(1)  # (rows, 1)
    logprobs = log_softmax(logits)  # (rows, V)
    picked = logprobs.gather(1, columns).squeeze(1)  # (rows,)
    p = logprobs.exp_()
    minus_one = torch.full_like(columns, -1, dtype=p.dtype)
    return picked, p.scatter_add_(1, columns, minus_one).to(w.dtype)


def add_gradients(
    grad_logits: Tensor,
    row_weights: Tensor,
    x: Tensor,
    w: Tensor,
    grad_x: Tensor | None,
    grad_weight: Tensor | None,
    is_first: bool,
) -> None:
    """Gradients of sum(row_weights * -logprobs of the targets) for one chunk: written to grad_x, added to grad_weight.

    grad_logits: (rows, V), of each row's -logprob; row_weights: (rows, 1); x, grad_x: (rows, C); w, grad_weight:
    (V, C). What is None is not wanted, and not computed. is_first: nothing is in grad_weight yet, not even zeros.
    """
    if grad_x is not None:
        grad_x.copy_(onednn.product(grad_logits, w) * row_weights)

    if grad_weight is not None:
        h = (x * row_weights).to(w.dtype)  # (rows, C)
        by_onednn = onednn.suits(grad_logits.t(), h.t())
        if grad_weight.dtype == w.dtype and not by_onednn:
            before = 0 if is_first else 1  # with 0, addmm_ does not read what is there
            grad_weight.addmm_(grad_logits.t(), h, beta=before)  # spares a second (V, C) array
        else:
            add_product(grad_weight, grad_logits, h, is_first)


def add_product(total: Tensor, a: Tensor, b: Tensor, is_first: bool) -> None:
    """total += a.t() @ b, also with a and b in a shorter format than total; a: (rows, V); b: (rows, C); total: (V, C).

    is_first: nothing is in total yet, and it becomes the product.

    A CPU would hold the whole product, in two formats if they differ, before it adds: there it is done for some lines
    of total at a time. For V = 5, two at a time: lines 0 and 1 are of a[:, 0:2], then 2 and 3, then 4.
    """
    V, C = total.shape
    lines = max(1, ADDED_NUMBERS // C) if total.device.type == "cpu" else V
    for begin in range(0, V, lines):
        part = slice(begin, begin + lines)
        product = onednn.product(a[:, part].t(), b)  # (lines, C)
        if is_first:
            total[part] = product
        else:
            total[part] += product


def gradient_of_head(weight: Tensor, N: int) -> Tensor:
    """Where the gradient of the head's weight, (V, C), will lie: the first chunk of N rows writes it, if there is one.

    To fill it with zeros before would take as long as adding a chunk: with V = 50,304 and C = 768 it is 154 MB.
    """
    return torch.zeros_like(weight) if N == 0 else torch.empty_like(weight)


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of x @ weight.T, a chunk of rows at a time: the (N, V) logits never exist as a whole.

    Forward computes the gradients as well, so that no logits are kept or computed twice. Backward scales them where
    they lie, which spares a second array as large as the head: it can be asked once, and says so the second time.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """x: (N, C); weight: (V, C); targets: (N,) with IGNORE for rows not scored. Returns nats, a float32 scalar."""
        wants_x, wants_weight, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if wants_x else None
        grad_weight = gradient_of_head(weight, len(x)) if wants_weight else None

        w = weight.to(product_dtype(x))
        loss = torch.zeros((), dtype=at_least_float32(w.dtype), device=x.device)
        for part in chunks(len(x), *weight.shape, wants_weight):
            h = x[part].to(w.dtype)  # (rows, C)
            scored = targets[part] != IGNORE  # (rows,)
            known = targets[part].clamp(min=0)  # (rows,): some token where none is scored
            if wants_x or wants_weight:
                logprobs, grad_logits = target_logprobs_with_gradient(h, w, known)
                grad_part = grad_x[part] if wants_x else None
                is_first = part.start == 0
                add_gradients(grad_logits, scored.unsqueeze(1), x[part], w, grad_part, grad_weight, is_first)
            else:
                logprobs = target_logprobs(h, w, known)
            loss -= (logprobs * scored).sum()

        ctx.save_for_backward(grad_x, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """grad: scalar. Returns the gradients of x and weight."""
        grad_x, grad_weight = ctx.saved_tensors  # RuntimeError if they were scaled before
        if grad_x is not None:
            grad_x.mul_(grad)
        if grad_weight is not None:
            grad_weight.mul_(grad)
        return grad_x, grad_weight, None


class TokenLogprobs(torch.autograd.Function):
    """Log-probability of each target under the logits x @ weight.T, a chunk of rows at a time.

    The gradient of each is known only in backward, which computes the logits again: four products with the head instead
    of LinearCrossEntropy's three. The sum is minus its loss.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        """x: (N, C); weight: (V, C); targets: (N,). Returns nats, (N,) float32, 0 where the target is IGNORE."""
        ctx.save_for_backward(x, weight, targets)
        ctx.dtype = product_dtype(x)

        w = weight.to(ctx.dtype)
        picked = torch.empty(len(x), dtype=at_least_float32(w.dtype), device=x.device)
        for part in chunks(len(x), *weight.shape, wants_weight=False):
            known = targets[part].clamp(min=0)  # (rows,): some token where none is scored
            picked[part] = target_logprobs(x[part].to(w.dtype), w, known)
        return picked.masked_fill(targets == IGNORE, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """grad: (N,). Returns the gradients of x and weight."""
        x, weight, targets = ctx.saved_tensors
        wants_x, wants_weight, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if wants_x else None
        grad_weight = gradient_of_head(weight, len(x)) if wants_weight else None

        w = weight.to(ctx.dtype)
        row_weights = -grad.masked_fill(targets == IGNORE, 0)  # minus: add_gradients is for -log p
        for part in chunks(len(x), *weight.shape, wants_weight):
            known = targets[part].clamp(min=0)  # (rows,)
            weights = row_weights[part].unsqueeze(1)  # (rows, 1)
            _, grad_logits = target_logprobs_with_gradient(x[part].to(w.dtype), w, known)
            grad_part = grad_x[part] if wants_x else None
            is_first = part.start == 0
            add_gradients(grad_logits, weights, x[part], w, grad_part, grad_weight, is_first)
        return grad_x, grad_weight, None


class Llama(nn.Module):
    """The decoder with its output head: Hugging Face's LlamaForCausalLM."""

    def __init__(self, cfg: ModelConfig):
        super().__init__()
        self.cfg = cfg
        self.model = Decoder(cfg)
        self.lm_head = Linear(cfg.n_embd, cfg.vocab_size, bias=False)
        if cfg.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        with torch.no_grad():
            for parameter, value in self.initial_weights():
                parameter.copy_(value)

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        """What .to(device), .bfloat16() and .to_empty() call. Two things must not follow the parameters."""
        super()._apply(*args, **kwargs)
        self.model.fused = None  # it knows where the parameters were
        device = self.model.frequencies.device
        self.model.frequencies = self.model.make_frequencies().to(device)
        if self.cfg.tie_embeddings and isinstance(self.lm_head, Linear):  # to_empty() makes a new tensor for each name
            self.lm_head.weight = self.model.embed_tokens.weight
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the stream between blocks is held in: the dtype of the weights that are not quantized."""
        return self.model.norm.weight.dtype

    def initial_weights(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """Each parameter with its first value, drawn on the CPU whatever the parameter's device.

        Normal, std 0.02; 0.02 / sqrt(2L) for matrices that write to the stream (GPT-2, Radford et al. 2019, 2.3).
        Biases are 0, norm gains 1.
        """
        for name, parameter in self.named_parameters():
            value = torch.empty(parameter.shape)
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                value.normal_(std=0.02 / math.sqrt(2 * self.cfg.n_layer))
            elif parameter.dim() == 2:
                value.normal_(std=0.02)
            elif name.endswith("bias"):
                value.fill_(0.0)
            else:
                value.fill_(1.0)
            yield parameter, value

    def forward(
        self,
        idx: Tensor,
        targets: Tensor | None = None,
        cache: Cache | None = None,
        last: bool = False,
        per_token: bool = False,
        cu_seqlens: Tensor | None = None,
        scored: Tensor | None = None,
        hidden: bool = False,
    ) -> Tensor:
        """Logits (B, T, V) of ids (B, T); with targets (B, T) the summed loss in nats instead, a float32 scalar.

        Targets equal to IGNORE are not scored; divide by the number of the others for the mean. With a cache the ids
        follow those it has had, and it takes them in; ValueError when they do not fit. last: logits of the last
        position only, (B, 1, V). hidden: what the head reads instead, (B, T, C). per_token: what token_logprobs
        returns. cu_seqlens: rows are packed from documents that do not see each other (Documents). scored: where among
        the B * T targets those stand that are scored, integers (n,); the others then cost no logits.
        """
        x = self.model(idx, cache, cu_seqlens)  # (B, T, C)
        if hidden:
            return x
        if targets is None:
            if last:
                x = x[:, -1:]  # (B, 1, C)
            return self.lm_head(x)  # (B, T or 1, V)

        rows = x.flatten(0, 1)  # (N, C)
        weight = self.lm_head.weight
        if not torch.is_grad_enabled():  # a Function asks requires_grad alone, and would compute gradients for nobody
            rows = rows.detach()
            weight = weight.detach()
        if per_token:
            logprobs = TokenLogprobs.apply(rows, weight, targets.flatten())  # (N,)
            return logprobs.view(targets.shape).clone()  # (B, T); a copy, for FSDP warns of views

        targets = targets.flatten()  # (N,)
        if scored is not None and not torch.compiler.is_compiling():  # it would compile for each number of them
            rows = rows[scored]  # (n, C)
            targets = targets[scored]  # (n,)
        return LinearCrossEntropy.apply(rows, weight, targets)

    def token_logprobs(self, ids: Tensor, targets: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        """Log-probability in nats of each target given the ids up to its place, (B, T) float32; 0 where it is IGNORE.

        ids, targets: (B, T); cu_seqlens: for packed rows. What fine-tuning, preference and evaluation weigh and add up;
        the sum is minus the loss. Gradients by autograd; the (N, V) logits are never kept, backward computes them
        again. (It goes through forward, where FSDP gathers the weights. With DDP call the wrapped module with
        per_token=True.)
        """
        return self(ids, targets, per_token=True, cu_seqlens=cu_seqlens)

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """Optimizer groups: decay for the matrices inside the blocks, none for embedding, head, gains and biases.

        Frozen parameters are in none.
        """
        decayed = [parameter for parameter in self.model.layers.parameters() if parameter.dim() == 2]
        decayed = [parameter for parameter in decayed if parameter.requires_grad]
        decayed_ids = {id(parameter) for parameter in decayed}
        others = [parameter for parameter in self.parameters() if id(parameter) not in decayed_ids]
        others = [parameter for parameter in others if parameter.requires_grad]
        return [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def num_parameters(self, trainable: bool = False) -> int:
        """Number of parameters, or of those that are not frozen; tied ones count once."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad or not trainable)

    def flops_per_token(self, T: int) -> int:
        """Floating-point operations of training on one token in a window of T: forward and backward.

        6 for each weight of a matrix product (the head is one, tied or not; the embedding is a look-up), 2 of them for
        its own gradient, which a frozen one has not; and 12 L H D T for the scores and sums of attention, the causal
        half not subtracted (PaLM, arXiv 2204.02311, appendix B).
        """
        matrices = [parameter for parameter in self.model.layers.parameters() if parameter.dim() == 2]
        matrices.append(self.lm_head.weight)
        products = sum(matrix.numel() * (6 if matrix.requires_grad else 4) for matrix in matrices)
        attention = 12 * self.cfg.n_layer * self.cfg.n_head * self.cfg.head_width * T
        return products + attention


def on_meta(shape: ModelConfig) -> Llama:
    """A model on torch's device "meta": it has no memory for its weights, which are counted, or filled in later."""
    with torch.device("meta"):
        return Llama(shape)
