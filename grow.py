"""Give a model the special tokens of its conversations: ids in the tokenizer, rows in the weights.

    python grow.py --checkpoint=out/gpt --out_dir=out/gpt-chat                       ChatML's two tokens, its template
    python grow.py --checkpoint=out/gpt --out_dir=out/gpt-chat --tokens='<|end|>' --template=my.jinja

A model that was trained here on a BPE of ours has ChatML's tokens already. vocabulary.py says what the new rows are.
The new folder opens in transformers. (`train.py --init_from` does the same by itself when the data has the tokens; the
folder is for other tokens, another template, or another program.) docs/finetuning.md explains it, with figures.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
from dataclasses import dataclass
from pathlib import Path

import torch

import atomic
import checkpoint
from chat_template import ChatTemplate, chatml, read_template
from errors import one_line
from hf_config import read_config
from tokenizer import TURN_END, TURN_START, Tokenizer
from vocabulary import Growth

TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class GrowConfig:
    """Settings of `python grow.py`."""

    checkpoint: str = "out/demo"  # the model to grow: a run here, or a Hugging Face folder of the Llama family
    out_dir: str | None = None  # the folder to write, which must not exist; None: <checkpoint>-chat
    tokens: str = f"{TURN_START} {TURN_END}"  # special tokens that it must have, with spaces between them
    template: str | None = None  # file with a chat template in jinja; None: the model's own, or ChatML


def main(cfg: GrowConfig) -> None:
    """Read the model, grow it, write the new folder."""
    out_dir = Path(cfg.out_dir or f"{cfg.checkpoint.rstrip('/')}-chat")
    if out_dir.exists():
        raise ValueError(f"{out_dir} exists already; name another --out_dir")
    folder = checkpoint.resolve(cfg.checkpoint)
    old = Tokenizer.load(folder)
    new = old.with_special_tokens(cfg.tokens.split())
    template = choose_template(cfg, folder, new)

    growth = Growth.between(old, new, read_config(folder).vocab_size)
    model = checkpoint.load_model(folder, dtype=stored_dtype(folder), growth=growth)
    files = checkpoint.chat_files(model, template, checkpoint.companions(folder))

    with atomic.new_folder(out_dir) as temporary:
        checkpoint.write_model(temporary, dict(model.named_parameters()), files)

    print(f"new tokens: {str(growth) or 'none, it has them all'}")
    print(f"rows of the embedding: {growth.rows_before:,} before, {growth.rows:,} now")
    print(f"an answer ends with {new.hf.id_to_token(template.end_of_turn)}; wrote {out_dir}")


def choose_template(cfg: GrowConfig, folder: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The template of the settings, of the model's folder, or ChatML."""
    if cfg.template is not None:
        with one_line(f"--template={cfg.template}: not readable as text: "):
            source = Path(cfg.template).read_text(encoding="utf-8")
        return ChatTemplate(source, tokenizer, cfg.template)

    found = read_template(folder)
    if found is not None:
        return ChatTemplate(found[0], tokenizer, str(found[1]))
    return ChatTemplate(chatml(tokenizer), tokenizer, "ChatML")


def stored_dtype(folder: Path) -> torch.dtype:
    """The type in which a folder has its embedding: what is written has the same."""
    stored = checkpoint.stored_tensors(folder)
    tensor = stored.get(checkpoint.EMBEDDING) or stored.get(checkpoint.HEAD)
    if tensor is None:
        raise ValueError(f"{folder}: tensor {checkpoint.EMBEDDING!r} is absent")
    with checkpoint.open_tensors(tensor.path) as file:
        return TYPES[file.get_slice(tensor.name).get_dtype()]


if __name__ == "__main__":
    configurator.run(main, GrowConfig)
