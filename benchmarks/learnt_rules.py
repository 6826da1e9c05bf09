"""How good are rules that are learnt (corpus/templates/learn.py)? Compared with the tables, on dumps that they know.

    python benchmarks/learnt_rules.py --dumps='dumps/enwiki*.xml.bz2'

For every call in a sentence whose template has a rule in the tables: does the rule learnt from the same dump show the
same, a part of it, something else, or nothing? The tables are left out while it is learnt.
"""

import glob
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that it runs from any folder

import configurator
from benchmarks.wikitext_reference import pages
from corpus.templates.expand import Expansion, expand, parse
from corpus.templates.learn import CALL, LINK, Standing, is_sentence, look_at_article, most_used, rules_by_standing
from corpus.templates.rules import Article, Templates, canonical
from corpus.wikitext import ELEMENT


@dataclass(frozen=True)
class LearntConfig:
    """Settings of `python benchmarks/learnt_rules.py`."""

    dumps: str = ""  # pattern of MediaWiki dumps, '.xml.bz2'
    language: str = "en"  # whose table says what is right
    show: int = 10  # differences that are printed, the most frequent first


def calls_in_sentences(wikitext: str) -> Iterator[str]:
    """What stands between the braces of each call that learning looks at."""
    for line in ELEMENT.sub("", wikitext).split("\n"):
        for match in CALL.finditer(line):
            before = LINK.sub(r"\1", line[: match.start()])
            after = LINK.sub(r"\1", line[match.end() :])
            if is_sentence(before, after):
                yield match[0][2:-2]


def letters(text: str) -> str:
    """What is compared: letters and digits."""
    return re.sub(r"\W+", "", text).lower()


def outcome(learnt: str | None, inside: str, wanted: str) -> str:
    """What the learnt rule shows of {{inside}}, compared with the rule of the table."""
    if learnt is None:
        return "no rule"
    tree = parse(learnt)
    expansion = Expansion(find=lambda name: tree, twins={}, language="en", title="")
    shown = letters(expand(parse("{{" + inside + "}}"), {}, expansion))
    if shown == letters(wanted):
        return "the same"
    if not shown:
        return "nothing"
    return "a part" if shown in letters(wanted) else "something else"


def report(path: str, language: str, show: int) -> None:
    """Print the outcomes of one dump."""
    texts = [wikitext for _, wikitext in pages(path)]
    found: dict[str, Standing] = {}
    for wikitext in texts:
        look_at_article(wikitext, lambda name: False, found)
    rules = rules_by_standing([most_used(found)])
    templates = Templates(language)

    outcomes: Counter = Counter()
    differences: Counter = Counter()
    for wikitext in texts:
        for inside in calls_in_sentences(wikitext):
            wanted = templates.show(inside, Article("", ""), alone=False)
            if wanted is None:
                continue
            name = canonical(inside.partition("|")[0])
            learnt = rules.get(name, rules.get(name.rpartition("-")[0] + "-*"))
            kind = "of calls with words" if wanted else "of silent calls"
            result = outcome(learnt, inside, wanted)
            outcomes[kind, result] += 1
            if result in ("nothing", "something else"):
                differences[name, result] += 1

    print(Path(path).name)
    for (kind, result), count in sorted(outcomes.items()):
        print(f"  {kind:<20} {result:<15} {count:>6,}")
    for (name, result), count in differences.most_common(show):
        print(f"    {name}: {result} {count}")


def main(cfg: LearntConfig) -> None:
    """Report every dump."""
    paths = sorted(glob.glob(cfg.dumps))
    if not paths:
        raise ValueError(f"--dumps={cfg.dumps}: no such file; give a quoted pattern such as 'dumps/*.xml.bz2'")
    for path in paths:
        report(path, cfg.language, cfg.show)


if __name__ == "__main__":
    configurator.run(main, LearntConfig, show=False)
