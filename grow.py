"""Give a model the special tokens of its conversations: ids in the tokenizer, rows in the weights.

    python grow.py --checkpoint=out/gpt --out_dir=out/gpt-chat                       ChatML's two tokens, its template
    python grow.py --checkpoint=out/gpt --out_dir=out/gpt-chat --tokens='<|end|>' --template=my.jinja

A model that was trained here on a BPE of ours has ChatML's tokens already. A new row is the mean of the rows of the
pieces that spelled the token so far ("<|", "im", "_start", "|>"): the model begins with what it knows of them, and the
probabilities of other text stay. Rows that no token uses are taken first. The new folder opens in transformers.
docs/finetuning.md explains it, with figures.
"""

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import atomic
import checkpoint
from chat_template import CONFIG_FILE, TEMPLATE_FILE, ChatTemplate, chatml, read_template
from errors import one_line, read_json
from model import Llama
from tokenizer import TURN_END, TURN_START, Tokenizer

ROWS = 64  # a matrix with a multiple of 64 rows is multiplied faster on a GPU
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

    model = checkpoint.load_model(folder, dtype=stored_dtype(folder))
    rows_before = model.cfg.vocab_size
    grow_model(model, old, new)

    with atomic.new_folder(out_dir) as temporary:
        checkpoint.write_model(temporary, dict(model.named_parameters()), grown_files(model, template, folder))

    added = [f"{token} {i}" for token, i in added_tokens(old, new).items()]
    print(f"new tokens: {', '.join(added) or 'none, it has them all'}")
    print(f"rows of the embedding: {rows_before:,} before, {model.cfg.vocab_size:,} now")
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


# --- the weights ---


def added_tokens(old: Tokenizer, new: Tokenizer) -> dict[str, int]:
    """The tokens, with their ids, that `new` has and `old` has not. Raises ValueError when an old id is another now."""
    before, after = old.hf.get_vocab(), new.hf.get_vocab()
    for token, i in before.items():
        if after.get(token) != i:
            raise ValueError(f"the larger tokenizer gives {token[:40]!r} the id {after.get(token)}, not {i}")
    added = {token: i for token, i in after.items() if token not in before}
    return dict(sorted(added.items(), key=lambda item: item[1]))


def grow_model(model: Llama, old: Tokenizer, new: Tokenizer) -> None:
    """Give the model, in place, rows for the ids that `new` has and `old` has not.

    The embedding and the head get them; tied ones stay tied. More rows are made only when the ids do not fit into
    those that there are. Where the number of rows was a multiple of 64 it is one again.
    """
    rows_before = model.cfg.vocab_size
    rows = max(rows_before, new.vocab_size)
    if rows > rows_before and rows_before % ROWS == 0:
        rows = -(-rows // ROWS) * ROWS

    pieces = {i: pieces_of(old, token, rows_before) for token, i in added_tokens(old, new).items()}
    embedding = nn.Parameter(grow_rows(model.model.embed_tokens.weight, rows, pieces))
    head = embedding
    if not model.cfg.tie_embeddings:
        head = nn.Parameter(grow_rows(model.lm_head.weight, rows, pieces))

    model.model.embed_tokens.weight, model.model.embed_tokens.num_embeddings = embedding, rows
    model.lm_head.weight, model.lm_head.out_features = head, rows
    model.cfg = model.model.cfg = dataclasses.replace(model.cfg, vocab_size=rows)


def pieces_of(old: Tokenizer, token: str, rows: int) -> list[int]:
    """The ids by which a model has read this text so far; none where its tokenizer cannot spell it."""
    try:
        ids = old.encode(token)
    except ValueError:  # a tokenizer of characters that lacks "<"
        return []
    return [i for i in ids if i < rows]


@torch.no_grad()
def grow_rows(matrix: Tensor, rows: int, pieces: dict[int, list[int]]) -> Tensor:
    """A matrix (V, C) with `rows` rows: row i is the mean of the rows pieces[i], other new rows are the mean of all.

    With rows 0: (1, 1), 1: (3, 5), rows = 4 and pieces {2: [1]} row 2 is (3, 5) and row 3 is (2, 3).
    Why the mean: the new logit is the mean of old logits, so by Jensen's inequality its probability is at most the mean
    of theirs. Zeros have the logit 0, which may be the largest of all.
    """
    grown = matrix.new_empty(rows, matrix.shape[1])
    grown[: len(matrix)] = matrix
    grown[len(matrix) :] = matrix.mean(dim=0, dtype=torch.float32)
    for i, ids in pieces.items():
        old_rows = matrix[ids] if ids else matrix
        grown[i] = old_rows.mean(dim=0, dtype=torch.float32)
    return grown


# --- the small files ---


def grown_files(model: Llama, template: ChatTemplate, folder: Path) -> checkpoint.Files:
    """The small files of the new folder: what `folder` says of sampling, the tokenizer, the template, where to stop.

    A text still ends with the token that ended it. Generation ends there, and where an answer ends.
    """
    tokenizer = template.tokenizer
    files = checkpoint.small_files(model, tokenizer, {})
    ends = {"eos_token_id": [template.end_of_turn, *sorted(tokenizer.stops - {template.end_of_turn})]}

    sampling = {}
    if (folder / "generation_config.json").is_file():
        found = read_json(folder / "generation_config.json")
        sampling = {key: value for key, value in found.items() if not key.startswith("_")}
    made = {name: json.loads(files[name]) for name in ("config.json", "generation_config.json", CONFIG_FILE)}
    changed = {
        "config.json": made["config.json"] | ends,
        "generation_config.json": sampling | made["generation_config.json"] | ends,
        CONFIG_FILE: made[CONFIG_FILE] | json.loads(template.files()[CONFIG_FILE]),
    }
    written = {name: (json.dumps(content, indent=1) + "\n").encode() for name, content in changed.items()}
    return files | written | {TEMPLATE_FILE: template.files()[TEMPLATE_FILE]}


if __name__ == "__main__":
    configurator.run(main, GrowConfig)
