"""Small pages on which the text was wrong once: kinds of templates in sentences, as prepare_wiki.py reads them."""

import pytest
from test_dump import TAIL
from test_prepare_wiki import prepare, stored

# The head says English; the last page is Japanese and Chinese: names of another language count in pages of its script.
HEAD = """<mediawiki xml:lang="en">
<siteinfo><dbname>testwiki</dbname><base>https://x.org/wiki/Main</base></siteinfo>
"""
PAGES = {
    "He said: {{quote|Until the wealth of the [[wikt:bondman|bondman]] is sunk, all is paid.}} End.": (
        "He said:\nUntil the wealth of the bondman is sunk, all is paid.\nEnd."
    ),
    "A {{nowrap|[[2001: A Space Odyssey (film)|2001]] and later films}} B.": "A 2001 and later films B.",
    "A {{lang|fr|mot de [[Alien: Covenant|Covenant]] ici}} B.": "A mot de Covenant ici B.",
    "It is {{cvt|180|km}} long, at {{formatnum:1800}} degrees, {{frac|1|2}} of it built {{as of|2010|lc=y}} for "
    "{{USD|5 million}}; one ampere is {{val|6.2|e=18}} charges, seen {{circa|1200}}.": (
        "It is 180 km (110 mi) long, at 1,800 degrees, 1⁄2 of it built as of 2010 for "
        "US$5 million; one ampere is 6.2×10¹⁸ charges, seen c. 1200."
    ),
    "In 1000{{nbs}}BCE an Australian{{endash}}Italian film of pages 5{{en dash}}6{{nbsp}}and 7.": (
        "In 1000 BCE an Australian–Italian film of pages 5–6 and 7."
    ),
    "The ''{{ship|USS|Nimitz}}'' sailed and ''{{transliteration|ar|jana}}'' is a wing, ''{{zz}}'' and ''<ref/>''.": (
        "The USS Nimitz sailed and jana is a wing, and."
    ),
    "Before.\n{{columns-list|colwidth=20em|\n* three\n* four\n}}\nAfter.": "Before.\n\n- three\n- four\n\nAfter.",
    "小説「{{仮リンク|アダム・ビード|en|Adam Bede}}」を読む。「{{en|I am happy.}}」と言う。しかし、"
    "{{疑問点範囲|コケは側系統群である|date=2021年}}。{{le|無線|Radio}}和{{link-en|電視|TV}}和{{tsl|en|Word|詞}}。": (
        "小説「アダム・ビード」を読む。「I am happy.」と言う。しかし、コケは側系統群である。無線和電視和詞。"
    ),
    "{{読み仮名|'''漢字'''|かんじ}}は文字である。": "漢字（かんじ）は文字である。",
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[str]:
    """The texts of the pages, read from a dump."""
    folder = tmp_path_factory.mktemp("cases")
    pages = []
    for number, wikitext in enumerate(PAGES, 1):
        escaped = wikitext.replace("&", "&amp;").replace("<", "&lt;")
        revision = f"<revision><id>{number}</id><text>{escaped}</text></revision>"
        pages.append(f"<page><title>P{number}</title><ns>0</ns><id>{number}</id>{revision}</page>\n")
    (folder / "in.xml").write_text("".join([HEAD, *pages, TAIL]), encoding="utf-8")
    prepare(folder / "in.xml", folder / "out", until="documents", min_chars=1)
    return list(stored(folder / "out").values())


@pytest.mark.parametrize("number", range(len(PAGES)))
def test_a_reader_sees(texts, number):
    assert texts[number] == list(PAGES.values())[number]
