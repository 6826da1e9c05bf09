"""benchmarks/holes.py, the judge of prepare_wiki.py's sentences: every kind of hole is seen, and only what is one."""

import bz2
import hashlib
import textwrap
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from conftest import REPO, SHARED

from benchmarks.holes import KINDS, Counts, HolesConfig, article_holes, letters, main, our_texts

pytestmark = pytest.mark.bench

SEEN_SENTENCES = Path(__file__).with_name("seen_sentences.tsv")
LEAST_SEEN = 0.99

# (kind, wikitext, our text with the hole, our text without it)
HOLES = [
    (
        "numbers",
        "In 180 the road was {{cvt|180|km}} long.",
        "In 180 the road was long.",
        "In 180 the road was 180 km long.",
    ),
    ("numbers", "It is {{formatnum:1234567}} old.", "It is old.", "It is 1,234,567 old."),
    ("numbers", "One {{frac|1|2}} of the area.", "One of the area.", "One ½ of the area."),
    ("numbers", "It lies at {{coord|57|18|N|4|27|W}} there.", "It lies at there.", "It lies at 57°18′N 4°27′W there."),
    ("words", "The word ({{lang-de|Wort}}) is short.", "The word is short.", "The word (German: Wort) is short."),
    (
        "words",
        "小説「{{仮リンク|アダム・ビード|en|Adam Bede}}」を読む。",
        "小説を読む。",
        "小説「アダム・ビード」を読む。",
    ),
    ("words", "Both {{x|left}} and {{x|right}} hold.", "Both left and hold.", "Both left and right hold."),
    (
        "items",
        "Some were:\n* {{ill|Anna|de}}\n* Berta Blume",
        "Some were:\n- Berta Blume",
        "Some were:\n- Anna\n- Berta Blume",
    ),
    (
        "items",
        "Before it.\n{{columns-list|2|\n* one of\n* two are\n* three}}\nAfter it.",
        "Before it.\nAfter it.",
        "Before it.\n- one of\n- two are\n- three\nAfter it.",
    ),
    ("glued", "In 1000{{nbs}}BCE it began.", "In 1000BCE it began.", "In 1000 BCE it began."),
    ("glued", "The years 5 {{endash}} 6 passed.", "The years 5 6 passed.", "The years 5 – 6 passed."),
    ("glued", "One line<br>another line.", "One lineanother line.", "One line\nanother line."),
    ("marks", "The ''{{ship|USS|Nimitz}}'' sailed.", "The ' USS Nimitz sailed.", "The USS Nimitz sailed."),
    ("marks", "Berlin{{citation needed}}, a city.", "Berlin , a city.", "Berlin, a city."),
    ("marks", "Some:\n* {{citation needed}}\n* one more", "Some:\n-\n- one more", "Some:\n- one more"),
    ("marks", "It was [[there]].", "It was [[there.", "It was there."),
    ("subject", "{{PAGENAME}} is a city of Spain.", "is a city of Spain.", "Abcd is a city of Spain."),
    ("subject", "'''{{nihongo|Abcd}}'''は、日本の小説である。", "は、日本の小説である。", "Abcdは、日本の小説である。"),
]


def kinds_found(wikitext: str, ours: str) -> set[str]:
    """The kinds of holes in our text of a page."""
    return {hole.kind for hole in article_holes("Abcd", wikitext, ours, frozenset({"file"}), Counts())}


@pytest.mark.parametrize("kind, wikitext, with_hole, without", HOLES)
def test_every_kind_of_hole_is_seen_and_nothing_where_there_is_none(kind, wikitext, with_hole, without):
    assert kind in kinds_found(wikitext, with_hole)
    assert kinds_found(wikitext, without) == set()


@pytest.mark.parametrize(
    "wikitext, ours",
    [
        ("It is so.{{sfn|Smith|2010|p=3}} It was.{{citation needed|date=May 2010}}", "It is so. It was."),
        ("It is so.<ref>{{cite book|title=1984}}</ref> It was.", "It is so. It was."),
        ("{{Infobox city\n| area = {{convert|20|km2}}\n}}Berlin is a city.", "Berlin is a city."),
        ("Before.\n{| class=x\n| {{cvt|3|m}} wide\n|}\nAfter.", "Before.\n\nAfter."),
        ("The mean , as he wrote , is it.", "The mean , as he wrote , is it."),  # the author's own marks
        ("Of {{cvt|3|m}} and {{cvt|3|m}} length.", "Of 3 m and 3 m length."),
        ("It is {{coord|57|18|N|4|27|W|display=title}} there.", "It is there."),
        ("The {{HMS|Ajax|22|6}} sailed.", "The HMS Ajax sailed."),  # 22 and 6 are options
        ("* {{lang-lv|Allāhs}}\n* {{lang-mt|Alla}}\n* Alla and more", "- Allāhs\n- Alla\n- Alla and more"),
    ],
)
def test_what_shows_nothing_or_is_no_sentence_is_no_hole(wikitext, ours):
    assert kinds_found(wikitext, ours) == set()


def test_a_call_whose_surroundings_are_gone_is_told_as_not_found():
    counts = Counts()
    wikitext = "Some words stand here and {{cvt|3|m}} away are others of them."
    (hole,) = article_holes("Abcd", wikitext, "Quite another text has come out.", frozenset(), counts)
    assert hole.kind == "unplaced" and counts.calls == 1


def test_another_checkout_is_judged_by_what_its_command_writes(tmp_path, capsys):
    """Of two pages one has lost a number: 50 in 100 articles."""
    pages = {"Abcd": "The road is {{cvt|180|km}} long.", "Efgh": "The way is {{cvt|20|km}} long."}
    body = "".join(
        f"<page><title>{title}</title><ns>0</ns><id>{i}</id><revision><text>{text}</text></revision></page>"
        for i, (title, text) in enumerate(pages.items())
    )
    (tmp_path / "x.xml.bz2").write_bytes(bz2.compress(f"<mediawiki xmlns='x'>{body}</mediawiki>".encode()))
    checkout = """
        import sys, pathlib, pyarrow, pyarrow.parquet
        folder = next(a for a in sys.argv if a.startswith("--data_dir=")).partition("=")[2]
        rows = [{"title": "Abcd", "text": "The road is long."}, {"title": "Efgh", "text": "The way is 20 km long."}]
        pathlib.Path(folder, "documents").mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder + "/documents/part_00000.parquet")
        """
    (tmp_path / "prepare_wiki.py").write_text(textwrap.dedent(checkout))

    main(HolesConfig(dumps=f"{tmp_path}/*.xml.bz2", code=str(tmp_path), show=1, kind="numbers"))

    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("x (2)"))
    assert row.split()[2 : 2 + len(KINDS)] == ["50.0", "0.0", "0.0", "0.0", "0.0", "0.0"]
    assert "The road is ‹{{cvt|180|km}}› long" in printed and "The road is‹ ›long." in printed


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="no such file"):
        main(HolesConfig(dumps="nothing/*.bz2"))


# --- sentences that a reader sees ---


def plain_letters(text: str) -> str:
    """The letters and digits of a text, lower-case: all that is compared of a sentence."""
    return letters(unicodedata.normalize("NFKC", text))[0]


def is_in(article: str, first_words: str, hashes: str) -> bool:
    """Whether a sentence stands in the letters of an article: "the cat sat" is looked for at each "thecat".

    hashes: "9:5d41402abc4b": its letters, nine of them from there on, have this SHA-256; one of several is enough.
    """
    start = article.find(first_words)
    while start >= 0:
        for entry in hashes.split():
            size, wanted = entry.split(":")
            found = article[start : start + int(size)]
            if hashlib.sha256(found.encode()).hexdigest().startswith(wanted):
                return True
        start = article.find(first_words, start + 1)
    return False


def test_a_sentence_is_found_whole_or_not_at_all():
    article = plain_letters("The cat, the dog. The cat sat on ½ a mat!")
    sentence = plain_letters("The cat sat on 1⁄2 a mat.")
    entry = f"{len(sentence)}:{hashlib.sha256(sentence.encode()).hexdigest()[:12]}"
    assert is_in(article, "thecat", "3:000000000000 " + entry)
    assert not is_in(article.replace("12", ""), "thecat", entry)


@pytest.mark.real_data
def test_the_sentences_that_a_reader_sees_are_in_the_text():
    """417 sentences of 40 articles; with templates that vanish, as they did before, 80 % of them are there."""
    lines = SEEN_SENTENCES.read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    dumps = {row[0] for row in rows}
    texts = {dump: our_texts(str(SHARED / f"wiki/xml/{dump}.xml.bz2"), REPO) for dump in dumps}

    articles: dict[tuple[str, str], str] = {}
    missing = []
    by_kind: Counter = Counter()
    for dump, title, kind, hashes, first_words in rows:
        if (dump, title) not in articles:
            articles[dump, title] = plain_letters(texts[dump][title])
        is_there = is_in(articles[dump, title], plain_letters(first_words), hashes)
        by_kind[kind, is_there] += 1
        if not is_there:
            missing.append(f"{dump}: {title}: {first_words} ...")

    assert len(articles) == 40
    assert by_kind["plain", False] == 0, missing  # no template, nothing to lose
    assert len(missing) <= (1 - LEAST_SEEN) * len(rows), missing
