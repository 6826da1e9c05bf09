"""MediaWiki dumps: the same pages however they are packed and cut; damaged and foreign files; real slices; the hub."""

import bz2
import contextlib
import gzip
import json
import os
import random
import zlib
from collections import Counter
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED

import prepare_wiki
from corpus import sources
from corpus.documents import Document
from corpus.sources import Truncated, cut_parts, find_pieces, read_part

HEAD = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" version="0.10" xml:lang="de">
  <siteinfo>
    <dbname>dewiki</dbname>
    <base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base>
    <namespaces><namespace key="0" case="first-letter" /><namespace key="6">Datei</namespace>
      <namespace key="14">Kategorie</namespace></namespaces>
  </siteinfo>
"""
TAIL = "</mediawiki>\n"


def page(number: int, title: str, text: str, namespace: int | None = 0, redirect: str = "") -> str:
    """One page as a dump spells it."""
    kind = "" if namespace is None else f"    <ns>{namespace}</ns>\n"
    target = f'    <redirect title="{redirect}" />\n' if redirect else ""
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n{kind}    <id>{number}</id>\n{target}    <revision>\n"
        f'      <id>9{number}</id>\n      <text xml:space="preserve">{escape(text)}</text>\n'
        "    </revision>\n  </page>\n"
    )


@pytest.fixture(scope="module")
def pages():
    """(all pages of a small dump, the documents that it holds)."""
    draw, spelt, documents = random.Random(0), [], []
    for number in range(1, 60):
        title = f"Titel {number} & ä/é"
        text = f"Absatz {number} <ü> steht & bleibt. " + " ".join(f"w{draw.randrange(1000)}" for _ in range(40))
        kind = number % 7
        if kind == 1:
            spelt.append(page(number, title, text, namespace=14))
        elif kind == 2:
            spelt.append(page(number, title, "#WEITERLEITUNG [[Ziel]]", redirect="Ziel"))
        elif kind == 3:
            spelt.append(page(number, title, "#REDIRECT [[Ziel]]", namespace=None))
        else:
            spelt.append(page(number, title, text, namespace=None if kind == 4 else 0))
            url = f"https://de.wikipedia.org/wiki/Titel_{number}_%26_%C3%A4/%C3%A9"
            documents.append(Document(f"dewiki/20240101/{number}", title, url, text))
    return spelt, documents


def read(path, **changes) -> list[Document | str]:
    """Everything in a dump, part by part."""
    return [document for part in cut_parts(find_pieces(str(path))[0]) for document in read_part(part)]


def articles(path) -> list[Document]:
    return [document for document in read(path) if isinstance(document, Document)]


@pytest.fixture(params=[1, 3000, 1 << 30], ids=["tiny parts", "small parts", "one part"])
def sizes(request, monkeypatch):
    """Parts of several sizes."""
    monkeypatch.setattr(sources, "PART_BYTES", request.param)
    monkeypatch.setattr(sources, "STREAM_BYTES", request.param // 4 + 1)


PACK = {
    "xml": lambda data: data,
    "xml.gz": gzip.compress,
    "xml.bz2": bz2.compress,
    "xml.zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("packed", PACK)
def test_the_same_pages_however_packed_and_cut(tmp_path, pages, packed, sizes):
    path = tmp_path / f"dewiki-20240101-pages-articles.{packed}"
    path.write_bytes(PACK[packed]((HEAD + "".join(pages[0]) + TAIL).encode()))
    found = read(path)
    assert [document for document in found if isinstance(document, Document)] == pages[1]
    assert Counter(i for i in found if isinstance(i, str)) == {"other_namespace": 9, "redirect": 18}


@pytest.mark.parametrize("size", [1, 2, 5, 60])
def test_a_multistream_dump_is_read_by_streams(tmp_path, pages, size, sizes):
    """As Wikimedia packs it: the head, some pages a stream, the tail."""
    groups = [HEAD, *("".join(pages[0][i : i + size]) for i in range(0, len(pages[0]), size)), TAIL]
    path = tmp_path / "dewiki-20240101-pages-articles-multistream.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(group.encode()) for group in groups))
    pieces = find_pieces(str(path))[0]
    assert all(piece.span is not None for piece in pieces)
    assert [piece.span[0] for piece in pieces[1:]] == [piece.span[1] for piece in pieces[:-1]]
    assert sources.STREAM_BYTES > 1 or len(pieces) == len(groups)
    assert articles(path) == pages[1]


@pytest.mark.parametrize("size", [2, 7, 100, 1001, 4999])
def test_streams_may_be_cut_anywhere(tmp_path, pages, size, monkeypatch):
    """As pbzip2 packs it: pages, and the word <page> itself, go on in the next stream, or over several."""
    monkeypatch.setattr(sources, "STREAM_BYTES", 1)
    data = (HEAD + "".join(pages[0][:14]) + TAIL).encode()
    path = tmp_path / "dewiki-20240101-pages-articles.xml.bz2"
    streams = [data[i : i + size] for i in range(0, len(data), size)]
    assert size > 7 or any(b"<pa" == piece[-3:] or b"<p" == piece[-2:] for piece in streams)
    path.write_bytes(b"".join(map(bz2.compress, streams)))
    assert articles(path) == [document for document in pages[1] if int(document.id.split("/")[-1]) <= 14]


@pytest.mark.parametrize("packed", ["xml", "xml.bz2", "xml.gz", "multistream"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_of_a_dump_cut_off_what_comes_before_is_kept_on_demand(tmp_path, pages, packed, share, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 100_000)
    monkeypatch.setattr(sources, "STREAM_BYTES", 50_000)
    spelt = pages[0] * 40
    text = (HEAD + "".join(spelt) + TAIL).encode()
    if packed == "multistream":
        data = b"".join(bz2.compress(part.encode()) for part in (HEAD, *spelt, TAIL))
    else:
        data = bz2.compress(text, 1) if packed == "xml.bz2" else PACK[packed](text)  # blocks of 100 kB
    path = tmp_path / f"dewiki-20240101.{packed if packed != 'multistream' else 'xml.bz2'}"
    path.write_bytes(data[: int(len(data) * share)])
    source = {"source": str(path), "vocab_size": 260, "num_workers": 1, "val_fraction": 0.3, "until": "documents"}
    with pytest.raises(Truncated) as error:
        prepare_wiki.main(prepare_wiki.PrepareConfig(**source, data_dir=str(tmp_path / "data")))
    assert str(path) in str(error.value) and " byte " in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).endswith("--allow_truncated=True keeps what comes before")
    # the same folder goes on
    prepare_wiki.main(prepare_wiki.PrepareConfig(**source, data_dir=str(tmp_path / "data"), allow_truncated=True))
    report = json.loads((tmp_path / "data/documents.json").read_text())
    assert report["documents"]["damaged"] >= 1 and report["dropped"]["damaged"][0][0] == path.name
    recovered = b""
    unpack = {
        "xml.gz": lambda: zlib.decompressobj(31),
        "multistream": bz2.BZ2Decompressor,
        "xml.bz2": bz2.BZ2Decompressor,
    }
    left = data[: int(len(data) * share)]
    while left and packed != "xml":
        decompressor = unpack[packed]()
        recovered += decompressor.decompress(left)
        left = decompressor.unused_data
    kept = report["documents"]["kept"]
    assert kept == articles_in(recovered or left)


def articles_in(data: bytes) -> int:
    """Whole articles in the beginning of a dump, as `pages` makes them."""
    numbers = [int(found.split(b"<")[0]) for found in data[: data.rfind(b"</page>")].split(b"<id>")[1::2]]
    return sum(number % 7 not in (1, 2, 3) for number in numbers)


def test_zero_bytes_behind_a_multistream_dump_are_padding(tmp_path, pages):
    path = tmp_path / "dewiki-20240101-pages-articles.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in (HEAD, *pages[0], TAIL)) + bytes(10_000))
    assert articles(path) == pages[1]


def test_a_damaged_place_is_named(tmp_path, pages):
    path = tmp_path / "dewiki-20240101.xml.bz2"
    data = bytearray(b"".join(bz2.compress(part.encode()) for part in (HEAD, *pages[0], TAIL)))
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(Truncated, match=r"dewiki-20240101.xml.bz2: damaged near byte \d"):
        read(path)
    broken = pages[0][10].replace("</revision>", "</revisio>")
    (tmp_path / "dewiki-20240101.xml").write_text(HEAD + "".join(pages[0][:10]) + broken + pages[0][11] + TAIL)
    with pytest.raises(Truncated, match="damaged XML in the page that begins .*Titel 11"):
        read(tmp_path / "dewiki-20240101.xml")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((HEAD + TAIL).encode("utf-16"), "UTF-16 from byte 0; convert it first: iconv -f UTF-16 -t UTF-8"),
        ((HEAD + TAIL).encode("utf-16-le"), "UTF-16 from byte 0"),
        (b"<html>no dump</html>", "not a MediaWiki dump: no <mediawiki> at its beginning"),
        (b"", "not a MediaWiki dump"),
    ],
)
@pytest.mark.parametrize("name", ["a.xml", "a.xml.bz2"])
def test_what_is_no_dump_is_refused(tmp_path, data, message, name):
    (tmp_path / name).write_bytes(bz2.compress(data) if name.endswith("bz2") else data)
    with pytest.raises(ValueError, match="^" + str(tmp_path / name) + ": " + message):
        find_pieces(str(tmp_path / name))


@pytest.mark.parametrize("data", [b"BZh9 no bzip2 at all", bz2.compress(HEAD.encode())[:-9]])
def test_a_dump_damaged_at_its_beginning_is_refused(tmp_path, data):
    (tmp_path / "a.xml.bz2").write_bytes(data)
    with pytest.raises(ValueError, match="a.xml.bz2: damaged near byte \\d+, before its first page: "):
        find_pieces(str(tmp_path / "a.xml.bz2"))


def test_a_dump_without_siteinfo_is_named_by_its_file(tmp_path, pages):
    (tmp_path / "some-wiki.xml").write_text("<mediawiki>" + "".join(pages[0]) + TAIL)
    found = articles(tmp_path / "some-wiki.xml")
    assert found[0].id == "wiki/some-wiki/4" and found[0].url == "" and len(found) == len(pages[1])


def test_links_to_files_and_categories_go_under_the_names_of_the_dump(tmp_path):
    text = "Vor[[Datei:Bild.jpg|mini|Titel]] nach [[Bild]].\n[[Kategorie:Tiere]]\n[[Category:Animals]]"
    (tmp_path / "a.xml").write_text(HEAD + page(1, "T", text) + TAIL)
    (found,) = articles(tmp_path / "a.xml")
    assert found.text.strip() == "Vor nach Bild."


def test_two_dates_have_ids_of_their_own(tmp_path, pages):
    for date in ("20240101", "20240201"):
        (tmp_path / f"dewiki-{date}-pages-articles.xml").write_text(HEAD + "".join(pages[0]) + TAIL)
    ids = [document.id for document in articles(tmp_path / "*.xml")]
    assert len(set(ids)) == len(ids) == 2 * len(pages[1])


# --- the hub ---


def cached(hub, rows: dict[str, list[dict]]) -> None:
    """What huggingface_hub leaves of a data set's download: a revision, and its files."""
    folder = hub / "datasets--wikimedia--wikipedia"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("0123")
    for name, found in rows.items():
        path = folder / "snapshots/0123" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(found), path, row_group_size=2)


def test_a_config_of_the_hub_is_read_from_what_was_downloaded(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    rows = [{"id": str(i), "url": f"u{i}", "title": f"t{i}", "text": f"text {i}"} for i in range(7)]
    names = [f"20231101.lt/train-0000{i}-of-00002.parquet" for i in range(2)]
    other = {"20231101.de/train-00000-of-00001.parquet": rows}
    cached(tmp_path, {names[0]: rows[:4], names[1]: rows[4:]} | other)
    found = read("wikimedia/wikipedia/20231101.lt")
    assert [document.id for document in found] == [f"ltwiki/20231101/{i}" for i in range(7)]
    # the same files in a folder that somebody copied have the same ids
    os.rename(tmp_path / "datasets--wikimedia--wikipedia/snapshots/0123", tmp_path / "copy")
    assert read(tmp_path / "copy/20231101.lt/*.parquet") == found


def test_a_hub_that_cannot_be_reached_is_one_line_with_what_to_do(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError) as error:
        find_pieces("wikimedia/wikipedia/20231101.en")
    message = str(error.value)
    assert "\n" not in message and "/datasets/wikimedia/wikipedia/tree/main/20231101.en" in message
    assert "--source='20231101.en/*.parquet'" in message
    with pytest.raises(ValueError, match="no such file; give a quoted pattern"):  # a file's name asks no hub
        find_pieces("some/folder/file.jsonl")


# --- several revisions of a page ---


def revision(text: str, number: int | None = None, year: int | None = None, deleted: bool = False) -> str:
    """One revision of a page."""
    identity = "" if number is None else f"<id>{number}</id>"
    timestamp = "" if year is None else f"<timestamp>{year}-01-01T00:00:00Z</timestamp>"
    who = "<contributor><username>A</username><id>999</id></contributor>"
    body = '<text bytes="1" deleted="deleted" />' if deleted else f'<text bytes="1">{text}</text>'
    return f"<revision>{identity}<parentid>1000</parentid>{timestamp}{who}{body}</revision>\n"


@pytest.mark.parametrize(
    "revisions",
    [
        [revision("old", 1, 2001), revision("new", 2, 2024)],
        [revision("new", 2, 2024), revision("old", 3, 2001)],  # a history merged from two pages
        [revision("old", 1, 2001), revision("new", 3, 2024), revision("old", 2, 2024)],  # two in one second
        [revision("old", 9), revision("new", 10), revision("old", 8)],
        [revision("old"), revision("new")],
        [revision("old", 1, 2001), revision("new", 2, 2024), revision("", 3, 2025, deleted=True)],
    ],
)
def test_of_several_revisions_the_newest_is_read(tmp_path, revisions):
    head = "<page><title>T</title><ns>0</ns><id>4</id>"
    path = tmp_path / "a.xml"
    path.write_text(HEAD + head + "".join(revisions) + "</page>" + TAIL)
    assert [(article.id, article.text) for article in articles(path)] == [("dewiki/a/4", "new")]


def test_a_page_that_was_a_redirect_is_what_it_is_now(tmp_path):
    head = "<page><title>T</title><ns>0</ns><id>4</id>"
    old, new = revision("#REDIRECT [[A]]", 1, 2001), revision("Prose.", 2, 2002)
    path = tmp_path / "a.xml"
    path.write_text(
        HEAD + head + old + new + "</page>" + head + new + old + new.replace("2002", "1999") + "</page>" + TAIL
    )
    assert [getattr(found, "text", found) for found in read(path)] == ["Prose.", "Prose."]


# --- real slices ---

# pages, and whether the file is cut off (shared/data/README.md)
SLICES = {
    "enwiki-2016-gensim-shortened": (206, False),
    "enwiki-2014-wp2txt": (361, True),
    "enwiki-table-markup-gensim": (5, False),
    "ltgwiki-2017-complete": (2004, False),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", SLICES)
def test_real_slices_hold_the_pages_that_are_known(name, tmp_path):
    """The counts of a parse of the whole XML."""
    total, cut = SLICES[name]
    path, out = SHARED / f"wiki/xml/{name}.xml.bz2", tmp_path / "data"
    expected: Counter = Counter()
    with bz2.open(path) as file, contextlib.suppress(ElementTree.ParseError):
        for _, node in ElementTree.iterparse(file):
            if node.tag.endswith("}page"):
                main, redirect = (node.find("{*}" + tag) for tag in ("ns", "redirect"))
                expected["other_namespace" if main.text != "0" else "redirect" if redirect is not None else "in"] += 1
    assert expected.total() == total
    settings = {"source": str(path), "data_dir": str(out), "until": "documents", "allow_truncated": cut}
    prepare_wiki.main(prepare_wiki.PrepareConfig(**settings, num_workers=1))
    counts = json.loads((out / "documents.json").read_text())["documents"]
    assert all(counts[key] == expected[key] for key in ("other_namespace", "redirect", "in"))
    assert counts["damaged"] == cut and counts["kept"] >= 0.97 * counts["in"]
