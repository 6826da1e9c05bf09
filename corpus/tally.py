"""What the first stage of a data job reads, keeps and drops: counts, and examples of what is dropped.

Each part of the corpus is counted by itself, by whichever process makes it; the counts go into the part's file
(DocumentWriter.close) and are added up when all parts are there.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from corpus.documents import read_counts
from corpus.sources import Truncated

EXAMPLES = 20  # of what is dropped for each reason, in the report
EXAMPLE_CHARS = 300  # of the text in an example


class Tally:
    """Counts by name, and the first examples of what was dropped for each reason, [id, what it is, text].

    names: what is counted, in the order of the report; all begin at 0.
    """

    def __init__(self, names: Iterable[str]):
        self.counts = Counter(dict.fromkeys(names, 0))
        self.examples: dict[str, list[list[str]]] = {}

    def drop(self, reason: str, example: list[str]) -> None:
        """Count something that is dropped; keep the example while there are few."""
        self.counts[reason] += 1
        of_reason = self.examples.setdefault(reason, [])
        if len(of_reason) < EXAMPLES:
            of_reason.append(example)

    @contextlib.contextmanager
    def damage(self, name: str, is_allowed: bool) -> Iterator[None]:
        """Count the file `name` as damaged when reading it in the block ends with Truncated, if that is allowed."""
        try:
            yield
        except Truncated as error:
            if not is_allowed:
                raise Truncated(f"{error}; --allow_truncated=True keeps what comes before") from None
            self.drop("damaged", [name, "", str(error)])

    def for_file(self) -> dict[str, Any]:
        """What DocumentWriter.close is given."""
        return {**self.counts, "examples": self.examples}

    def add_files(self, paths: list[Path]) -> None:
        """Add the counts in the files of parts, and their first examples."""
        for path in paths:
            of_part = read_counts(path)
            for reason, rows in of_part.pop("examples").items():
                self.examples[reason] = [*self.examples.get(reason, []), *rows][:EXAMPLES]
            self.counts.update({name: count for name, count in of_part.items() if isinstance(count, int)})
