"""Do holes in sentences matter? The same small model on four versions of the same articles, equal tokens.

    python benchmarks/holes_ladder.py --source='dumps/enwiki-201[46]*.xml.bz2'

    rung            of "Rain fell. The road is {{cvt|180|km}} long." it holds
    holes           Rain fell. The road is long.                    no template shows anything, as public extractors do
    holes_dropped   Rain fell.                                      the same, --holes=drop
    shown           Rain fell. The road is 180 km (110 mi) long.    what prepare_wiki.py writes
    shown_dropped   the same without the few sentences in which a template is unknown, --holes=drop

Of a title that is in several dumps the last one counts; a hash of the title holds articles out. All rungs share one
tokenizer, trained on `shown`, and see as many tokens. A run that is there is not made again: more --seeds are added.
The texts that are measured, of held-out articles, the same for all rungs:

    clean       paragraphs without any template in the wikitext
    seen        the whole articles, as on the rung `shown`
    templates   sentences in which templates show something, as readers see them
    left        what the rung `holes` has in their places
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that it runs from any folder

import configurator  # before torch and the others: Ctrl-C during their import is one line too

# isort: split
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from tqdm import tqdm

import atomic
import checkpoint
from benchmarks.ladder import BATCH_TOKENS, NOTE, made_before, train, write_tokens
from corpus.clean import normalise, reason_to_drop
from corpus.documents import read_documents
from corpus.pages import make_pages
from corpus.sources import Piece, TemplateSettings, find_pieces, templates_of
from corpus.split import fraction
from corpus.templates.holes import SENTENCE_END
from corpus.templates.rules import Article, Templates, same, tables_hash
from corpus.wikitext import prose
from model import Llama
from prepare_wiki import PrepareConfig
from shards import EvalWindows, Shards
from tokenizer import Tokenizer, train_bpe

RUNGS = ("holes", "holes_dropped", "shown", "shown_dropped")
SETS = ("clean", "seen", "templates", "left")
BLOCK_SIZE = 128  # config/demo.py
BATCH_SIZE = 12
MARK = "\ue000"  # stands where a template stood; no text uses it
PARAGRAPH_CHARS = 80  # shorter lines are headings and items
SENTENCE_CHARS = 20
# A number follows these where readers see it; where {{convert}} showed nothing, another word does.
PROMPTS = (
    "The island has an area of",
    "The mountain rises to a height of",
    "The road has a length of",
    "The lake has a depth of",
    "The river flows for",
    "The distance is about",
    "The temperature is",
    "It weighs about",
)


@dataclass(frozen=True)
class HolesLadderConfig:
    """Settings of `python benchmarks/holes_ladder.py`."""

    source: str = ""  # dumps with markup: a path or a pattern
    out: str = "out/ladder/holes"  # folder for data, runs and results.json
    held_out: float = 0.2  # share of the titles
    min_chars: int = 200  # of an article, as readers see it
    vocab_size: int = 4096  # of the tokenizer that all rungs share
    max_iters: int = 800  # steps of 1,536 tokens
    seeds: int = 3  # runs of each rung

    def check(self) -> None:
        """Raise ValueError for settings that cannot work."""
        if not self.source:
            raise ValueError("source is empty; give dumps with markup: --source='dumps/enwiki-*.xml.bz2'")
        for key in ("max_iters", "seeds"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} ({getattr(self, key)}) must be at least 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out ({self.held_out}) must lie between 0 and 1")


# --- the texts ---


class OneAnswer(Templates):
    """Rules by which every template shows the same: `answer`, or None for nothing that is known."""

    def __init__(self, answer: str | None):
        super().__init__()
        self.answer = answer

    def show(
        self, inside: str, article: Article, alone: bool | None, settled: Callable[[str], str] = same
    ) -> str | None:
        """The answer."""
        return self.answer


UNKNOWN = OneAnswer(None)  # all templates are holes
MARKED = OneAnswer(MARK)


@dataclass
class DumpArticle:
    """An article in wikitext."""

    title: str
    wikitext: str
    piece: Piece  # of which dump, with the rules for its templates

    def text(self, templates: Templates, keep_holes: bool = True) -> str:
        """Its text with what these templates show."""
        result = prose(self.wikitext, self.piece.site.hidden, templates, self.title, keep_holes)
        return normalise(result.text)

    def texts(self) -> dict[str, str]:
        """Its text on each rung."""
        rules = templates_of(self.piece.site, self.piece.templates)
        return {
            "holes": self.text(UNKNOWN),
            "holes_dropped": self.text(UNKNOWN, keep_holes=False),
            "shown": self.text(rules),
            "shown_dropped": self.text(rules, keep_holes=False),
        }

    def clean_paragraphs(self) -> list[str]:
        """Its paragraphs without a template in the wikitext: equal on all rungs."""
        lines = self.text(MARKED).split("\n")
        return [line for line in lines if MARK not in line and len(line) >= PARAGRAPH_CHARS]


def read_articles(source: str, work: Path) -> dict[str, DumpArticle]:
    """{title: article} of dumps; of a title that is there several times the last. work: a folder for their pages."""
    pieces, identity = find_pieces(source)
    others = {piece.kind for piece in pieces} - {"xml"}
    if others:
        raise ValueError(f"{source}: {', '.join(sorted(others))} files have no templates; give dumps: .xml, .xml.bz2")

    articles = {}
    settings = TemplateSettings(tables=tables_hash(None))
    for piece in make_pages(pieces, work, 1, settings, identity, allow_truncated=True):
        for title, wikitext in read_documents(Path(piece.path), ("title", "text")):
            articles[title] = DumpArticle(title, wikitext, piece)
    return articles


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text; short ones, such as headings, are left out."""
    for line in text.split("\n"):
        begin = 0
        ends = [match.end() for match in SENTENCE_END.finditer(line)]
        for end in [*ends, len(line)]:
            sentence = line[begin:end].strip()
            if len(sentence) >= SENTENCE_CHARS:
                yield sentence
            begin = end


def sentences_beside(text: str, other: str) -> list[str]:
    """The sentences of a text that are not in the other one."""
    others = set(sentences(other))
    return [sentence for sentence in sentences(text) if sentence not in others]


@dataclass
class Texts:
    """What is trained on and what is measured: a text for each article."""

    train: dict[str, list[str]]  # by rung
    val: dict[str, list[str]]  # by set


def make_texts(cfg: HolesLadderConfig, work: Path) -> Texts:
    """Read the dumps; `work` is a folder for their pages."""
    limits = PrepareConfig(min_chars=cfg.min_chars)
    train_texts: dict[str, list[str]] = {rung: [] for rung in RUNGS}
    val_texts: dict[str, list[str]] = {name: [] for name in SETS}
    for title, article in sorted(read_articles(cfg.source, work).items()):
        texts = article.texts()
        if reason_to_drop(title, texts["shown"], limits) is not None:
            continue
        if fraction(f"ladder {title}") >= cfg.held_out:
            for rung in RUNGS:
                train_texts[rung].append(texts[rung])
            continue

        of_sets = {
            "clean": article.clean_paragraphs(),
            "seen": [texts["shown"]],
            "templates": sentences_beside(texts["shown"], texts["holes"]),
            "left": sentences_beside(texts["holes"], texts["shown"]),
        }
        for name, pieces in of_sets.items():
            if pieces:
                val_texts[name].append("\n".join(pieces))
    return Texts(train_texts, val_texts)


def prepare(cfg: HolesLadderConfig, out: Path) -> dict[str, Any]:
    """Make the data folder of each rung, and `sets` of the texts to measure; returns what they hold.

    What is there with these settings stays.
    """
    keys = ("source", "held_out", "min_chars", "vocab_size")
    settings = {key: getattr(cfg, key) for key in keys} | {"template_tables": tables_hash(None)}
    made = made_before(out, settings)
    if made is not None:
        return made

    texts = make_texts(cfg, out / "work")
    missing = [name for name in SETS if not texts.val[name]]
    if missing or not texts.train["shown"]:
        wanted = ", ".join(missing) or "training"
        raise ValueError(f"{cfg.source}: no text for {wanted} with held_out={cfg.held_out}; give more articles")

    tokenizer = Tokenizer(train_bpe(texts.train["shown"], cfg.vocab_size))
    of_rungs = {}
    for rung in RUNGS:
        of_rung = {"train": texts.train[rung], "val": texts.val["templates"]}  # a small set: train.py measures it twice
        of_rungs[rung] = write_tokens(out / "data" / rung, tokenizer, of_rung)["train"][0]
    of_sets = write_tokens(out / "data/sets", tokenizer, texts.val)
    data = {
        "settings": settings,
        "rungs": of_rungs,
        "sets": {name: entries[0] for name, entries in of_sets.items()},
    }
    atomic.write_json(out / NOTE, data)
    return data


# --- what is measured ---


@torch.no_grad()
def bits_per_byte(model: Llama, shards: Shards) -> float:
    """The model's loss on a set, in bits per byte of its text."""
    nats = 0.0
    for inputs, targets in EvalWindows(shards, BLOCK_SIZE).batches(BATCH_SIZE):
        nats += model(torch.from_numpy(inputs), torch.from_numpy(targets)).item()
    return nats / math.log(2) / shards.bytes


@torch.no_grad()
def number_follows(model: Llama, tokenizer: Tokenizer) -> float:
    """Probability that the text goes on with a number: the mean over PROMPTS, each at the beginning of a document.

    A number is two tokens, as the tokenizer cuts the text before digits: a space, then digits.
    """
    tokens = [tokenizer.decode([number]) for number in range(tokenizer.vocab_size)]
    is_number = torch.tensor([token[:1].isdecimal() for token in tokens])
    space = tokens.index(" ")
    found = []
    for prompt in PROMPTS:
        ids = [tokenizer.end_of_text, *tokenizer.encode_array(prompt).tolist(), space]
        logits = model(torch.tensor([ids]))[0, :, : len(tokens)]
        p = logits.float().softmax(-1)
        p_space, p_digits = p[-2, space], p[-1, is_number].sum()
        found.append((p_space * p_digits).item())
    return mean(found)


def scores_of(out: Path, rung: str, seed: int, max_iters: int) -> dict[str, float]:
    """{set: bits per byte} and "number": number_follows, of the model of a run; trained if it is not there yet."""
    run = out / "runs" / f"{rung}_{seed}_{max_iters}"
    path = run / "scores.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))

    train(out, rung, seed, max_iters)
    torch.set_num_threads(1)
    model = checkpoint.load_model(run / "latest").eval()
    folder = out / "data/sets"
    scores = {name: bits_per_byte(model, Shards(folder, name)) for name in SETS}
    scores["number"] = number_follows(model, Tokenizer.load(folder))
    atomic.write_json(path, scores)
    return scores


def climb(cfg: HolesLadderConfig) -> dict[str, Any]:
    """Prepare, train every rung with every seed, one run at a time, write results.json."""
    out = Path(cfg.out).absolute()  # the runs are started from the root of the repository
    data = prepare(cfg, out)

    scores: dict[str, list[dict[str, float]]] = {rung: [] for rung in RUNGS}
    jobs = [(rung, seed) for seed in range(cfg.seeds) for rung in RUNGS]
    for rung, seed in tqdm(jobs, "runs", disable=None):
        scores[rung].append(scores_of(out, rung, seed, cfg.max_iters))

    results = data | {"tokens": cfg.max_iters * BATCH_TOKENS, "seeds": cfg.seeds, "scores": scores}
    atomic.write_json(out / "results.json", results)
    return results


# --- what came out ---


def spread(values: list[float], digits: int) -> str:
    """Mean, smallest and largest: "2.15 (2.10 to 2.20)"."""
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(results: dict[str, Any]) -> str:
    """Markdown: what each rung holds, and how often a number follows the prompts."""
    lines = ["| rung | articles | MB | epochs | a number follows, % |", "|---|--:|--:|--:|---|"]
    for rung in RUNGS:
        data = results["rungs"][rung]
        cells = [
            rung,
            f"{data['documents']:,}",
            f"{data['bytes'] / 1e6:.3f}",
            f"{results['tokens'] / data['tokens']:.2f}",
            spread([100 * scores["number"] for scores in results["scores"][rung]], 1),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def loss_table(results: dict[str, Any]) -> str:
    """Markdown: bits per byte of each rung on each set, and how much less that is than `holes`, seed by seed."""
    sizes = [f"{name}, {results['sets'][name]['bytes']:,} bytes" for name in SETS]
    lines = [f"| rung | {' | '.join(sizes)} |", "|---|" + "---|" * len(SETS)]
    for rung in RUNGS:
        cells = []
        for name in SETS:
            losses = [scores[name] for scores in results["scores"][rung]]
            of_holes = [scores[name] for scores in results["scores"]["holes"]]
            percent_less = [100 * (1 - loss / before) for loss, before in zip(losses, of_holes, strict=True)]
            cell = spread(losses, 4)
            if rung != "holes":
                cell += f"; {spread(percent_less, 2)} % less"
            cells.append(cell)
        lines.append(f"| {rung} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(cfg: HolesLadderConfig) -> None:
    """Climb, and print the tables."""
    cfg.check()
    results = climb(cfg)
    print(f"{results['tokens']:,} tokens a run, {results['seeds']} seeds: mean (smallest to largest)")
    print(table(results))
    print()
    print(loss_table(results))
    print(f"wrote {cfg.out}/results.json")


if __name__ == "__main__":
    configurator.run(main, HolesLadderConfig)
