"""Keys and values of texts of different lengths, a row each: the one cache of a server.

(model.Cache is for texts that begin and end together. Here each row has a length of its own.)
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model import Llama, attention


class RowCache:
    """Keys and values, allocated once: (L, R, Hkv, S, D) each, for R rows of S slots.

    Row r holds the tokens of one text in its first slots. Nothing is padded, and nothing moves when a text leaves:

        slot     0 1 2 3 4 5 6
        row 0    a b c d e            five tokens; the next one takes slot 5 and sees slots 0 to 5
        row 1    x y                  two tokens; the next one takes slot 2 and sees slots 0 to 2
        row 2                         free

    The dtype is that of the weights, but float32 on a CPU, where attention computes in it; the device is theirs.
    """

    def __init__(self, model: Llama, rows: int, size: int):
        cfg = model.cfg
        device = model.device
        self.on_cpu = device.type == "cpu"
        dtype = torch.float32 if self.on_cpu else model.dtype

        self.rows = rows  # R
        self.size = size  # S
        shape = (cfg.n_layer, rows, cfg.n_kv_head, size, cfg.head_width)
        # A GPU reads beyond the end of a text, and multiplies what is there by 0: it must be finite. On a CPU memory is
        # taken from the system slot by slot, as it is written.
        make = torch.empty if self.on_cpu else torch.zeros
        self.keys = make(shape, dtype=dtype, device=device)
        self.values = make(shape, dtype=dtype, device=device)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.keys.device

    @property
    def size_bytes(self) -> int:
        """Of all rows when they are full."""
        return 2 * self.keys.nbytes

    def copy(self, source: int, target: int, n: int) -> None:
        """Copy the first n tokens of one row into another."""
        self.keys[:, target, :, :n] = self.keys[:, source, :, :n]
        self.values[:, target, :, :n] = self.values[:, source, :, :n]


class PromptPass:
    """The next T tokens of one row's text, which are read together. The model takes it for a Cache.

    begin: how many tokens the row has already.
    """

    longest_padding = 0  # what the model asks a Cache for

    def __init__(self, cache: RowCache, row: int, begin: int):
        self.cache = cache
        self.row = row
        self.begin = begin
        self.used = begin
        self.mask: Tensor | None = None

    def extend(self, T: int) -> Tensor:
        """The positions of the new tokens, (T,)."""
        self.used = self.begin + T
        assert self.used <= self.cache.size, (self.used, self.cache.size)
        slots = torch.arange(self.used, device=self.cache.device)
        positions = slots[self.begin :]
        if self.begin:
            self.mask = (slots <= positions[:, None])[None, None]  # (1, 1, T, used)
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (1, H, T, D); k, v: (1, Hkv, T, D). Returns (1, T, H, D)."""
        keys = self.cache.keys[layer, self.row, None, :, : self.used]  # (1, Hkv, used, D)
        values = self.cache.values[layer, self.row, None, :, : self.used]
        keys[:, :, self.begin :] = k
        values[:, :, self.begin :] = v
        return attention(q, keys, values, self.mask)


class TokenPass:
    """One more token in each of several rows. The model takes it for a Cache.

    rows: which (n of them); slots: the slot that the token of each takes, which is the length of its text so far.
    batch_size: B, at least n. The places from n on are padding: they are computed, and nobody looks at the result.
    """

    longest_padding = 0

    def __init__(self, cache: RowCache, rows: Sequence[int], slots: Sequence[int], batch_size: int):
        self.cache = cache
        self.rows = list(rows)
        self.lengths = [slot + 1 for slot in slots]
        self.batch_size = batch_size
        self.used = max(self.lengths)
        self.row_index = torch.tensor(self.rows, device=cache.device)  # (n,)
        self.slots = torch.tensor(slots, device=cache.device)  # (n,)

    def extend(self, T: int) -> Tensor:
        """The positions of the new tokens, (B, 1, 1)."""
        assert T == 1 and self.used <= self.cache.size, (T, self.used, self.cache.size)
        padding = self.batch_size - len(self.rows)
        return F.pad(self.slots, (0, padding))[:, None, None]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: (B, H, 1, D); k, v: (B, Hkv, 1, D). Returns (B, 1, H, D)."""
        keys = self.cache.keys[layer]  # (R, Hkv, S, D)
        values = self.cache.values[layer]
        n = len(self.rows)
        keys[self.row_index, :, self.slots] = k[:n, :, 0].to(keys.dtype)  # (n, Hkv, D)
        values[self.row_index, :, self.slots] = v[:n, :, 0].to(keys.dtype)

        # The query heads of a group stand in the place of tokens, so that their key/value head is read once.
        B, H, _, D = q.shape
        Hkv = keys.shape[1]
        q = q.to(keys.dtype).reshape(B, Hkv, H // Hkv, D)
        attend = self._attend_one_by_one if self.cache.on_cpu else self._attend_together
        y = q.new_zeros(B, Hkv, H // Hkv, D)
        y[:n] = attend(q[:n], keys, values)
        return y.view(B, 1, H, D)

    def _attend_one_by_one(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention on a CPU: each row over its own length, so that no other row can change a bit of it.

        q: (n, Hkv, H / Hkv, D); keys, values: (R, Hkv, S, D). Returns the shape of q.
        """
        outputs = []
        for place, (row, length) in enumerate(zip(self.rows, self.lengths, strict=True)):
            own_keys = keys.narrow(0, row, 1).narrow(2, 0, length)  # (1, Hkv, length, D)
            own_values = values.narrow(0, row, 1).narrow(2, 0, length)
            outputs.append(F.scaled_dot_product_attention(q.narrow(0, place, 1), own_keys, own_values))
        return torch.cat(outputs)

    def _attend_together(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same on a GPU, in one call: the rows are masked up to the longest."""
        keys = keys[self.row_index, :, : self.used]  # (n, Hkv, used, D)
        values = values[self.row_index, :, : self.used]
        all_slots = torch.arange(self.used, device=keys.device)
        mask = (all_slots <= self.slots[:, None])[:, None, None]  # (n, 1, 1, used)
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
