"""Make a corpus of any size, for benchmarks: documents of words from the docstrings on this machine.

python benchmarks/synthetic_corpus.py --documents=1000000 --out=out/1m       a million documents, 3 GB
"""

import itertools
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator

PART = 2500  # documents in a part: 8 MB
SOURCE_TEXTS = 20_000  # docstrings whose words are used
RUN = 3  # words that stay together
RUN_BYTES = 18  # on average
LONGEST = 200_000  # bytes of a document


@dataclass(frozen=True)
class CorpusConfig:
    """Settings of `python benchmarks/synthetic_corpus.py`."""

    documents: int = 1_000_000  # 3 kB each
    out: str = "out/synthetic"  # folder of the parts, part_00000.parquet and on
    seed: int = 0  # of the words and lengths


def write_corpus(count: int, folder: str | Path, seed: int = 0) -> None:
    """Write `count` documents to folder/part_*.parquet: lengths log-normal, mean 3.1 kB, median 1.5 kB, as Wikipedia's.

    Text is made of runs of three words of the docstrings on this machine, at random: unrelated documents share next to
    no shingle. One in a hundred is a copy of the one before, with every thirtieth word changed.
    """
    from corpus.documents import Document, DocumentWriter

    draw = random.Random(seed)
    runs = word_runs()
    Path(folder).mkdir(parents=True, exist_ok=True)

    text = ""
    for begin in range(0, count, PART):
        writer = DocumentWriter(f"{folder}/part_{begin // PART:05d}.parquet")
        size_bytes = 0
        for number in range(begin, min(count, begin + PART)):
            drawn = draw_text(draw, runs)
            text = near_copy(text) if number % 100 == 99 else drawn
            writer.add(Document(f"synthetic/{seed}/{number}", f"Title {number}", "", text))
            size_bytes += len(text.encode())
        writer.close({"bytes": size_bytes})


def word_runs() -> list[str]:
    """Runs of three words, one after the other, of the docstrings on this machine."""
    words = " ".join(itertools.islice(docstring_texts(), SOURCE_TEXTS)).split()
    return [" ".join(words[i : i + RUN]) for i in range(0, len(words) - RUN, RUN)]


def docstring_texts() -> Iterator[str]:
    """The docstrings of Python and the installed packages."""
    from corpus.pydocs import docstrings, python_files, python_packages

    for package in python_packages():
        for file in python_files(*package):
            for document in docstrings(*file):
                yield document.text


def draw_text(draw: random.Random, runs: list[str]) -> str:
    """A text of random length and words."""
    size = int(min(LONGEST, draw.lognormvariate(7.31, 1.2)))
    return " ".join(draw.choices(runs, k=max(1, size // RUN_BYTES)))


def near_copy(text: str) -> str:
    """The text with words 7, 37, 67, ... changed."""
    words = text.split(" ")
    for i in range(7, len(words), 30):
        words[i] = "changed"
    return " ".join(words)


def main(cfg: CorpusConfig) -> None:
    """Write the corpus."""
    write_corpus(cfg.documents, cfg.out, cfg.seed)


if __name__ == "__main__":
    configurator.run(main, CorpusConfig, show=False)
