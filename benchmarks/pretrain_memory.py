"""What a step of pretraining takes of a GPU's memory, part by part, and what a run costs: computed for config/*.py.

    python benchmarks/pretrain_memory.py          the tables of docs/pretraining.md

Nothing here was measured on a GPU. What a forward pass keeps is counted in a real one (finetune_memory.py); weights,
gradients and AdamW's moments are counted by the parameter, and the loss' chunk follows from its sizes.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator
from benchmarks.bench_finetune import SMOLLM2_135M
from benchmarks.finetune_memory import GB, bytes_per_token
from device import PEAK_TFLOPS
from model import ModelConfig, chunk_rows, on_meta
from train import TrainConfig

MFU = 0.4  # of the data sheet, in the estimates of hours
VOCABULARY = {"wiki_simple": 8192, "wiki_en": 32768}  # of config/data_*.py

# config, card, processes that share the model, flags
CASES = (
    ("wiki_15m", "8 GB", 1, ()),
    ("wiki_15m", "laptop", 1, ("--batch_size=8",)),
    ("wiki_124m", "80 GB", 1, ()),
    ("wiki_124m", "24 GB", 1, ("--batch_size=16",)),
    ("wiki_124m", "12 GB", 1, ("--batch_size=8",)),
    ("wiki_124m", "16 GB, float16", 1, ("--batch_size=8", "--dtype=float16")),
    ("continue_pretrain", "24 GB", 1, ()),
    ("continue_pretrain", "12 GB", 1, ("--batch_size=4",)),
    ("wiki_1b_fsdp", "8 x 80 GB", 8, ()),
)


@dataclass(frozen=True)
class Parts:
    """Bytes of a step."""

    weights: float
    gradients: float
    moments: float
    rounded: float  # bfloat16 copies of the matrices: of all blocks by autocast, of one at a time by FSDP
    activations: float  # what the forward pass keeps of a micro-batch
    loss: float  # the chunk of logits, and the head's rounded copy and sum of gradients

    @property
    def total(self) -> float:
        """All together."""
        return sum(dataclasses.astuple(self))


def shape_of(cfg: TrainConfig) -> ModelConfig:
    """The model of a config."""
    if cfg.init_from is not None:
        return dataclasses.replace(SMOLLM2_135M, block_size=cfg.block_size)
    return ModelConfig(
        vocab_size=VOCABULARY[cfg.data],
        block_size=cfg.block_size,
        n_layer=cfg.n_layer,
        n_head=cfg.n_head,
        n_kv_head=cfg.n_kv_head,
        n_embd=cfg.n_embd,
        ffn_hidden=cfg.ffn_hidden,
    )


def parts_of(cfg: TrainConfig, processes: int) -> Parts:
    """The memory of a step in each of the processes that share the model."""
    shape = shape_of(cfg)
    llama = on_meta(shape)
    parameters = llama.num_parameters()
    in_blocks = sum(parameter.numel() for parameter in llama.model.layers.parameters() if parameter.dim() == 2)
    own = 4 * parameters / processes

    wide = cfg.dtype == "float32"  # then nothing is rounded, and what is kept is twice as wide at most
    rounded = 0.0 if wide else 2 * in_blocks
    if processes > 1:  # FSDP gathers two blocks at a time, weights rounded and gradients in float32
        rounded = (2 + 4) * 2 * in_blocks / shape.n_layer

    tokens = cfg.batch_size * cfg.block_size
    per_block = bytes_per_token(shape, with_lora=False) * (2 if wide else 1)
    stream = 4 * shape.n_embd
    kept = (shape.n_layer * stream + per_block) if cfg.recompute else shape.n_layer * per_block
    # one more block's worth of gradients is on its way, and the stream at both ends of the last norm with its gradients
    activations = tokens * (kept + per_block + 4 * stream)

    V, C = shape.vocab_size, shape.n_embd
    rows = min(tokens, chunk_rows(V, C, wants_weight=True))
    loss = rows * V * (4 + 4 + 2) + (0 if wide else 2 * V * C) + 4 * V * C
    return Parts(own, own, 2 * own, rounded, activations, loss)


def hours(flops: float, tflops: float) -> float:
    """An estimate: so many FLOPs at MFU of a rate."""
    return flops / (MFU * tflops * 1e12) / 3600


def main() -> None:
    """Print both tables."""
    heads = [field.name for field in dataclasses.fields(Parts)]
    print(f"| config | card | flags | {' | '.join(heads)} | GB |")
    print("|---|---|---|" + "--:|" * (len(heads) + 1))
    for name, card, processes, flags in CASES:
        cfg, _ = configurator.load(TrainConfig, [str(ROOT / f"config/{name}.py"), *flags])
        parts = parts_of(cfg, processes)
        numbers = [f"{value / GB:.1f}" for value in (*dataclasses.astuple(parts), parts.total)]
        print(f"| {name} | {card} | {' '.join(f'`{flag}`' for flag in flags)} | {' | '.join(numbers)} |")

    print("\n| config | parameters | tokens | MFLOPs a token | FLOPs | hours, one A100 | one RTX 4090 | eight H100 |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name in dict.fromkeys(case[0] for case in CASES):
        cfg, _ = configurator.load(TrainConfig, [str(ROOT / f"config/{name}.py")])
        llama = on_meta(shape_of(cfg))
        tokens = cfg.batch_tokens * cfg.max_iters
        per_token = llama.flops_per_token(cfg.block_size)
        flops = per_token * tokens
        cards = (PEAK_TFLOPS["A100"], PEAK_TFLOPS["RTX 4090"], 8 * PEAK_TFLOPS["H100"])
        times = [f"{hours(flops, tflops):.1f}" for tflops in cards]
        cells = [name, f"{llama.num_parameters():,}", f"{tokens / 1e9:.2f}B", f"{per_token / 1e6:,.0f}"]
        print(f"| {' | '.join([*cells, f'{flops:.1e}', *times])} |")


if __name__ == "__main__":
    main()
