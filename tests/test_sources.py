"""Documents from files: every format, every mistake, and the same ids every time."""

import bz2
import csv
import gzip
import io
import itertools
import json
import math
import os
import random
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SHARED, examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from corpus import documents as documents_module
from corpus import sources
from corpus.documents import Document, DocumentWriter, read_counts, read_documents, short_hash
from corpus.files import html_text, json_objects
from corpus.pool import map_parts
from corpus.sources import Piece, cut_parts, find_pieces, read_part

PACK = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
ROWS = [
    {"id": "a/1", "title": "One", "url": "https://x/1", "text": "first\ntext"},
    {"id": "a/2", "title": "Zwei ü", "url": "https://x/2", "text": "机器学习\u2028line separator"},
    {"id": "a/3", "title": "", "url": "", "text": "  indented\r\nand \U0001f600 "},
]


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def parts_of(*args) -> list[list[Piece]]:
    """The parts of a source."""
    return list(cut_parts(find_pieces(*args)[0]))


def read(source: str | Path, text_column: str = "text", id_column: str | None = "id") -> list[Document]:
    """All documents of a source."""
    parts = parts_of(str(source), text_column)
    return [document for part in parts for document in read_part(part, text_column, id_column)]


def refusal(*args, **settings) -> str:
    """The message of the ValueError that reading this source raises: one line."""
    with pytest.raises(ValueError) as error:
        read(*args, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- formats ---


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".JSONL"])
def test_json_lines_give_their_rows(tmp_path, suffix, pack):
    path = tmp_path / f"rows{suffix}{pack.upper() if suffix.isupper() else pack}"
    path.write_bytes(PACK[pack](lines(ROWS)))
    assert read(path) == [Document(**row) for row in ROWS]


@pytest.mark.parametrize("pack", PACK)
def test_a_text_file_is_one_document_with_its_name_as_title(tmp_path, pack):
    text = "Line one.\r\n\r\n机器学习\ttabbed  \n"
    path = tmp_path / f"essay.v1.txt{pack}"
    path.write_bytes(PACK[pack](text.encode()))
    (document,) = read(path)
    assert (document.text, document.title, document.url) == (text, path.name, "")
    assert path.name in document.id


@pytest.mark.parametrize("codec", ["snappy", "zstd", "none"])
@pytest.mark.parametrize("rows_per_group", [1, 2, 100])
def test_parquet_gives_its_rows_whatever_its_row_groups(tmp_path, rows_per_group, codec):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=rows_per_group, compression=codec)
    assert read(path) == [Document(**row) for row in ROWS]
    without_ids = [document.id for document in read(path, id_column=None)]
    pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=100)
    assert [document.id for document in read(path, id_column=None)] == without_ids


@pytest.mark.parametrize("pack", [".gz", ".bz2", ".zst"])
def test_several_compressed_streams_in_one_file_are_all_read(tmp_path, pack):
    """As `cat a.gz b.gz`, pigz and Wikipedia's multistream dumps write them."""
    path = tmp_path / f"rows.jsonl{pack}"
    path.write_bytes(b"".join(PACK[pack](lines([row])) for row in ROWS))
    assert read(path) == [Document(**row) for row in ROWS]


def test_blank_lines_and_a_missing_last_newline_do_no_harm(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n" + lines(ROWS).replace(b"\n", b"\r\n\r\n").rstrip())
    assert read(path) == [Document(**row) for row in ROWS]


def test_other_fields_are_ignored_and_absent_ones_are_empty(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines([{"text": "a", "id": 7, "extra": {"b": [1]}}, {"text": "", "id": 0}]))
    assert read(tmp_path / "rows.jsonl") == [Document("7", "", "", "a"), Document("0", "", "", "")]


def test_text_column_names_the_field_with_the_text(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines([{"content": "a", "text": "no"}]))
    pq.write_table(pa.table({"content": ["b"], "text": ["no"]}), tmp_path / "rows.parquet")
    assert [document.text for document in read(tmp_path / "rows.*", text_column="content")] == ["a", "b"]


def test_a_pattern_takes_all_its_files_below_any_folder_in_order(tmp_path, monkeypatch):
    for name in ("b/2.jsonl", "a/1.jsonl", "a/c/3.jsonl", "a/other.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(lines([{"text": name}]))
    (tmp_path / "a/folder.jsonl").mkdir()
    texts = [document.text for document in read(f"{tmp_path}/**/*.jsonl")]
    assert texts == ["a/1.jsonl", "a/c/3.jsonl", "b/2.jsonl"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [document.text for document in read("~/b/*")] == ["b/2.jsonl"]


# --- csv and tsv ---

DELIMITERS = {".csv": ",", ".tsv": "\t"}
HARD = [  # every cell that needs quotes, and what must not be taken for the end of a line
    {"id": "c/1", "title": "a, b\tc", "url": "", "text": 'He said "no", then\r\nleft\n\nthe room'},
    {"id": "c/2", "title": "Zwei ü", "url": "u", "text": "机器学习\u2028line separator\x85next"},
    {"id": "c/3", "title": '"', "url": "", "text": "x" * 200_000},  # beyond the limit of Python's csv
    {"id": "c/4", "title": "", "url": "", "text": ""},
]


def table(rows: list[dict], suffix: str, **options) -> bytes:
    """The rows as Python's csv writes them, with a header."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0].keys(), delimiter=DELIMITERS[suffix], **options)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("suffix", DELIMITERS)
def test_tables_give_their_rows_also_when_a_cell_spans_lines(tmp_path, monkeypatch, suffix, pack):
    """However small the parts are, a table is never cut: the newline may be part of a cell."""
    monkeypatch.setattr(sources, "PART_BYTES", 1)
    path = tmp_path / f"rows{suffix}{pack}"
    for head, options in ((b"", {}), (b"\xef\xbb\xbf", {"lineterminator": "\n\n", "quoting": csv.QUOTE_ALL})):
        path.write_bytes(PACK[pack](head + table(HARD, suffix, **options)))
        assert read(path) == [Document(**row) for row in HARD]
    assert len(parts_of(str(path))) == 1
    assert [document.id for document in read(path, id_column=None)][2].startswith(f"rows{suffix}{pack}#2-")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9), min_size=1, max_size=9))
@examples(100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_comes_back_from_a_table(tmp_path, texts):
    for suffix in DELIMITERS:
        (tmp_path / f"rows{suffix}").write_bytes(table([{"n": "x", "text": text} for text in texts], suffix))
        assert [document.text for document in read(tmp_path / f"rows{suffix}")] == texts


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("2,c,d", "row 1 (line 3) has 3 cells, the header names 2; cells that hold a delimiter or a newline"),
        ("2", "row 1 (line 3) has 1 cells, the header names 2"),
        ('2,"never closed', "row 1 (which ends on line 4) cannot be read: unexpected end of data"),
        ('2,"a "b" c"', "row 1 (which ends on line 3) cannot be read: ',' expected after '\"'; a quote inside"),
        ("2,a\0b", "row 1 (line 3) holds null bytes"),
        ("2,caf\udce9", "not UTF-8 text near row "),
    ],
    ids=["extra", "missing", "open", "quote", "nul", "latin"],
)
def test_a_row_of_a_table_that_cannot_be_read_is_one_line_with_its_place(tmp_path, row, complaint):
    path = tmp_path / "rows.csv"
    path.write_bytes(f"id,text\n1,b\n{row}\n3,d\n".encode("utf-8", "surrogateescape"))
    message = refusal(path)
    assert message.startswith(f"{path}: {complaint}"), message


def test_a_table_without_its_text_column_lists_the_columns_before_anything_is_read(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("body,id\na,1\n")
    for text_column, complaint in (("text", "no column 'text' (columns: body, id); set --text_column"), (None, "")):
        if complaint:
            with pytest.raises(ValueError) as error:
                find_pieces(str(path), text_column)
            assert str(error.value) == f"{path}: {complaint}"
        else:
            assert len(find_pieces(str(path), text_column)[0]) == 1
    path.write_text("id;text\n1;a, b\n")  # as spreadsheets write where the comma is the decimal point
    assert "(columns: id;text); another delimiter is used: .csv wants commas, .tsv tabs" in refusal(path)
    path.write_text("text,id,text\na,1,b\n")
    assert refusal(path).startswith(f"{path}: two columns are named 'text'")


@pytest.mark.parametrize("content", ["", "\n\n", "text,id\n"])
def test_a_table_without_rows_has_no_documents(tmp_path, content):
    (tmp_path / "rows.csv").write_text(content)
    assert read(tmp_path / "rows.csv") == []


def test_a_table_that_is_cut_off_keeps_the_rows_before(tmp_path):
    texts = [random.Random(i).randbytes(500).hex() for i in range(300)]
    data = gzip.compress(table([{"text": text} for text in texts], ".csv"))
    (tmp_path / "rows.csv.gz").write_bytes(data[: len(data) // 2])
    found = []
    with pytest.raises(sources.Truncated, match="rows.csv.gz: damaged after row"):
        for part in parts_of(str(tmp_path / "rows.csv.gz")):
            for document in read_part(part):
                found.append(document.text)
    assert len(found) > 100 and found == texts[: len(found)]


# --- json ---


def written(rows: list, way: str) -> str:
    """The rows as files named .json have them."""
    if way == "array":
        return json.dumps(rows)
    if way == "pretty array":
        return "\ufeff\n" + json.dumps(rows, indent=4, ensure_ascii=False) + "\n"
    if way == "lines":
        return lines(rows).decode()
    return "\n\n".join(json.dumps(row, indent=1) for row in rows)


@pytest.mark.parametrize("pack", PACK)
@pytest.mark.parametrize("way", ["array", "pretty array", "lines", "objects"])
@pytest.mark.parametrize(("read_chars", "part_bytes"), [(1, 1), (7, 50), (1 << 20, 100), (1 << 20, 8 << 20)])
def test_a_json_file_is_an_array_or_one_object_after_the_other(
    tmp_path, monkeypatch, way, pack, read_chars, part_bytes
):
    """The same documents whether it is read in one piece or in blocks, and however the reading cuts it."""
    monkeypatch.setattr(json_objects, "READ_CHARS", read_chars)
    monkeypatch.setattr(sources, "PART_BYTES", part_bytes)
    rows = [*ROWS, {"text": '}], {"text": "\\"', "n": [-1.5e-7, 12, True, None, {"a": []}]}, {"text": "last"}]
    path = tmp_path / f"rows.json{pack}"
    path.write_bytes(PACK[pack](written(rows, way).encode()))
    found = read(path)
    assert [document.text for document in found] == [row["text"] for row in rows]
    assert [document.title for document in found[:3]] == [row["title"] for row in ROWS]
    assert found[4].id.startswith(f"rows.json{pack}#4-")
    assert (len(parts_of(str(path))) > 2) == (part_bytes < 1000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=3), max_size=5), st.integers(1, 30), st.data())
@examples(200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_objects_are_what_json_reads_and_every_cut_is_noticed(monkeypatch, rows, read_chars, data):
    """The reference is json.loads of the whole file. A file that is cut off gives the objects before the cut."""
    monkeypatch.setattr(json_objects, "READ_CHARS", read_chars)
    text = json.dumps(rows, indent=data.draw(st.sampled_from([None, 0, 2])))
    wanted = [json.dumps(row) for row in json.loads(text)]  # as text: NaN is not equal to itself
    found = [json.dumps(fields) for _, fields in json_objects.read_objects(io.StringIO(text))]
    assert found == wanted

    cut = data.draw(st.integers(1, len(text) - 1))
    found = []
    with pytest.raises(EOFError):
        for _, fields in json_objects.read_objects(io.StringIO(text[:cut])):
            found.append(json.dumps(fields))
    assert found == wanted[: len(found)]


@pytest.mark.parametrize("part_bytes", [1, 8 << 20])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('[{"text": "a"}, 5]', "object 1 cannot be read: '5]' is no object; an array of objects is wanted"),
        ('["a", "b"]', 'object 0 cannot be read: \'"a", "b"]\' is no object'),
        ("plain words", "object 0 cannot be read: 'plain words' is no object"),
        ('[{"text": "a"}, {"text" "b"}' + " " * 50, "object 1 cannot be read: Expecting ':' delimiter before '\"b\"}"),
        ('[{"text": "a"} {"text": "b"}]', "object 1 cannot be read: '{' stands where ',' or ']' is wanted"),
        ('[{"text": "a"}] []', "object 1 cannot be read: there is text behind the array"),
        ('[{"text": "a"}, ' + '{"a": ' * 100_000, "object 1 cannot be read: maximum recursion"),
        ('[{"text": "a"}, {"text": "b', "damaged after 1 objects: the file ends inside an object"),
        ('[{"text": "a"}, {"text": "b"}', "damaged after 2 objects: the file ends inside its array"),
        ('{"text": [{"text": "a"}]}', "row 0: 'text' is no text but list; it holds rows: write them to a file of"),
        ('{"data": [{"text": "a"}]}', "row 0 has no 'text' (keys: data); 'data' holds rows: write them to a file of"),
        ('{"data": ["a"]}', "row 0 has no 'text' (keys: data); set --text_column"),
    ],
    ids=["number", "strings", "words", "colon", "comma", "behind", "deep", "cut", "open", "rows", "wrapped", "other"],
)
def test_a_json_file_that_cannot_be_read_is_one_line_with_its_place(
    tmp_path, monkeypatch, content, complaint, part_bytes
):
    monkeypatch.setattr(sources, "PART_BYTES", part_bytes)
    path = tmp_path / "rows.json"
    path.write_text(content)
    message = refusal(path)
    assert message.startswith(f"{path}: {complaint}"), message
    path.write_bytes(b'[{"text": "a"}, {"text": "caf\xe9"}]')
    assert "'utf-8'" in refusal(path) or "not UTF-8 text" in refusal(path)


@pytest.mark.parametrize("part_bytes", [1000, 8 << 20])
def test_a_json_file_that_is_cut_off_keeps_the_objects_before(tmp_path, monkeypatch, part_bytes):
    monkeypatch.setattr(sources, "PART_BYTES", part_bytes)
    rows = [{"text": random.Random(i).randbytes(500).hex()} for i in range(300)]
    data = gzip.compress(json.dumps(rows).encode())
    for name, content in (("a.json", json.dumps(rows).encode()[:-700]), ("b.json.gz", data[: len(data) // 2])):
        (tmp_path / name).write_bytes(content)
        found = []
        with pytest.raises(sources.Truncated, match=f"{name}: damaged after [0-9]+ objects"):
            for part in parts_of(str(tmp_path / name)):
                for document in read_part(part):
                    found.append(document.text)
        assert len(found) > 100 and found == [row["text"] for row in rows[: len(found)]]


def test_of_a_long_array_only_the_object_that_is_read_is_in_memory(tmp_path, monkeypatch):
    """And a mistake at its beginning is told before the rest is read."""
    monkeypatch.setattr(json_objects, "READ_CHARS", 100)

    class Endless(io.StringIO):
        def __init__(self, head: str):
            self.rest = itertools.chain([head], itertools.repeat('{"text": "abc"}, '))
            self.given = 0

        def read(self, size: int) -> str:
            text = next(self.rest)
            self.given += len(text)
            return text

    reader = json_objects.Reader(Endless("["))
    assert reader.skip("[")
    for _ in range(1000):
        assert reader.read_object()[1] == {"text": "abc"} and reader.skip(",")
        assert len(reader.text) < 300
    wrong = Endless('[{"text": oh no, ')
    with pytest.raises(ValueError, match="Expecting value before 'oh no"):
        list(json_objects.read_objects(wrong))
    assert wrong.given < 300


# --- markdown and web pages ---


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("---\ntitle: Notes: on rain\ntags:\n  - a\n- b\n\n# comment\ndraft: true\n---\n", "Notes: on rain"),
        ('---\ndate: 2024-05-01\ntitle: "Quoted"\n---\n', "Quoted"),
        ("+++\ntitle = 'Toml'\n[extra]\n+++\n".replace("[extra]\n", ""), "Toml"),
        ("---\ndate: 2024-05-01\n---\n", "a.md"),
        ("", "a.md"),
    ],
)
def test_markdown_is_kept_as_it_is_without_its_front_matter(tmp_path, front, title, end):
    body = "\n# Rain\n\n* falls *down*, [see](x.md)\n\n---\nlast: line\n---\n".replace("\n", end)
    (tmp_path / "a.md").write_bytes((front.replace("\n", end) + body).encode())
    (document,) = read(tmp_path / "a.md")
    assert (document.text, document.title) == (body, title)
    assert document.id.startswith("a.md#0-")


@pytest.mark.parametrize(
    "text",
    [
        "---\nA line of words.\n---\nMore.\n",
        "---\n- a\n- b\n---\n",
        "---\ntitle: never closed\nwords\n",
        "---\n",
        "",
        "x: 1\n",
    ],
)
def test_rules_and_lists_of_markdown_are_no_front_matter(tmp_path, text):
    (tmp_path / "a.markdown").write_text(text)
    assert [document.text for document in read(tmp_path / "a.markdown")] == [text]


PAGE = """<!DOCTYPE html><html><head>{meta}<title>
 Caf\u00e9 &amp; rain</title><style>p {{ color: red }}</style><script>var hidden = 1;</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/about">About the site</a></li></ul></nav>
<article><h1>Rain in the caf\u00e9</h1><p>The rain falls
on the <code>roof</code> of the caf\u00e9, and nobody leaves before it ends.</p>
<ul><li>one cup</li><li>two cups</li></ul><pre>def rain():
    return 1</pre><p>In the evening the square is dry again &mdash; until tomorrow.</p></article>
<footer>Copyright and cookies</footer></body></html>"""
MAIN = [
    "Rain in the caf\u00e9",
    "The rain falls on the roof of the caf\u00e9, and nobody leaves before it ends.",
    "one cup",
    "two cups",
    "def rain():\n    return 1",
    "In the evening the square is dry again \u2014 until tomorrow.",
]


@pytest.mark.parametrize("name", ["a.html", "a.htm", "a.HTML.gz"])
@pytest.mark.parametrize(
    ("encoding", "meta"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-8", '<meta charset="iso-8859-1">'),  # says what it is not, as many pages do
        ("cp1252", '<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1">'),
        ("utf-16", ""),
        ("cp1252", ""),
    ],
)
def test_of_a_web_page_the_main_text_and_the_title_are_read(tmp_path, name, encoding, meta):
    pytest.importorskip("trafilatura", reason="pip install -r requirements-dev.txt")
    pack = PACK[".gz"] if name.endswith(".gz") else PACK[""]
    (tmp_path / name).write_bytes(pack(PAGE.format(meta=meta).encode(encoding)))
    (document,) = read(tmp_path / name)
    assert document.title == "Caf\u00e9 & rain"
    found = [document.text.find(sentence) for sentence in MAIN]
    assert -1 not in found and found == sorted(found), document.text
    for left_out in ("About the site", "cookies", "hidden", "color"):
        assert left_out not in document.text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb2312", "机器学习是人工智能的一个分支。"),
        ("shift_jis", "これは日本語の文章です。"),
        ("koi8-r", "Дождь идёт."),
    ],
)
def test_pages_in_old_encodings_say_which(tmp_path, encoding, text):
    pytest.importorskip("trafilatura", reason="pip install -r requirements-dev.txt")
    page = f'<html><head><meta charset="{encoding}"><title>{text}</title></head><body><p>{text}</p></body></html>'
    (tmp_path / "a.html").write_bytes(page.encode(encoding))
    (document,) = read(tmp_path / "a.html")
    assert (document.text, document.title) == (text, text)


def test_a_piece_of_a_page_is_read_too(tmp_path):
    pytest.importorskip("trafilatura", reason="pip install -r requirements-dev.txt")
    (tmp_path / "a.html").write_text("<p>The rain falls on\nthe roof.</p>")
    (document,) = read(tmp_path / "a.html")
    assert (document.text, document.title) == ("The rain falls on the roof.", "a.html")


def test_web_pages_without_their_packages_name_the_line_to_type(tmp_path, monkeypatch):
    (tmp_path / "a.html").write_text("<p>text")
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(ValueError) as error:
        find_pieces(str(tmp_path / "a.html"))  # before anything is read
    assert str(error.value) == f"{tmp_path}/a.html: web pages need more packages: pip install {html_text.PACKAGES}"
    pinned = (Path(sources.__file__).parents[1] / "requirements-dev.txt").read_text().splitlines()
    assert set(html_text.PACKAGES.split()) <= set(pinned)


def test_a_binary_file_called_html_is_refused_by_name(tmp_path):
    pytest.importorskip("trafilatura", reason="pip install -r requirements-dev.txt")
    (tmp_path / "a.html").write_bytes(b"\x89PNG\0\0")
    assert refusal(tmp_path / "a.html") == f"{tmp_path}/a.html: holds null bytes; a binary file is not a web page"
    (tmp_path / "a.html").write_bytes(b"")
    assert [document.text for document in read(tmp_path / "a.html")] == [""]


# --- archives ---


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tarred(path: Path, files: dict[str, bytes]) -> None:
    """Write a tar archive, packed as its name says."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    suffix = ".gz" if path.suffix == ".tgz" else path.suffix
    path.write_bytes(PACK.get(suffix, PACK[""])(file.getvalue()))


def one_of_each() -> dict[str, bytes]:
    """A file of each format: its name and content."""
    parquet = io.BytesIO()
    pq.write_table(pa.table({"text": ["in parquet", "and more"]}), parquet, row_group_size=1)
    page = "<page><title>P{0}</title><ns>0</ns><id>{0}</id><revision><text>Page {0}.</text></revision></page>"
    pages = "".join(page.format(i) for i in range(9))
    dump = f'<mediawiki xmlns="x"><siteinfo><dbname>xwiki</dbname></siteinfo>{pages}</mediawiki>'.encode()
    return {
        "a.txt": b"plain",
        "deep/folder/b.jsonl": lines([{"text": f"line {i}"} for i in range(50)]),
        "c.jsonl.gz": gzip.compress(lines([{"text": f"packed {i}"} for i in range(50)])),
        "d.json": json.dumps([{"text": f"object {i}"} for i in range(50)]).encode(),
        "e.csv": b"text\nin a table\n",
        "f.md.zst": PACK[".zst"](b"---\ntitle: T\n---\n# Marks\n"),
        "g.parquet": parquet.getvalue(),
        "20231101.de/h.parquet": parquet.getvalue(),
        "xwiki-20240101-pages-articles.xml.bz2": bz2.compress(dump[:700]) + bz2.compress(dump[700:]),
        "i.txt": b"",
    }


@pytest.fixture(autouse=True)
def no_copies_at_home(tmp_path_factory, monkeypatch):
    """Copies of what is packed or far away go to a folder of the test."""
    monkeypatch.setenv("NONLLAMA_CACHE", str(tmp_path_factory.mktemp("copies")))


@pytest.mark.parametrize("part_bytes", [1, 8 << 20])
@pytest.mark.parametrize("name", ["t.zip", "T.ZIP", "t.tar", "t.tar.gz", "t.tgz", "t.tar.bz2", "t.tar.zst"])
def test_an_archive_gives_the_documents_of_its_files(tmp_path, monkeypatch, name, part_bytes):
    """The reference is the same files in a folder. Ids begin with the name of the archive."""
    monkeypatch.setattr(sources, "PART_BYTES", part_bytes)
    monkeypatch.setattr(sources, "STREAM_BYTES", part_bytes)
    files = one_of_each()
    for file_name, content in files.items():
        path = tmp_path / "folder" / file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    pack = zipped if name.lower().endswith(".zip") else tarred
    pack(tmp_path / name, files)

    in_folder = {document.id: document for document in read(f"{tmp_path}/folder/**/*.*")}
    made_up = re.compile(r".*#\d+-[0-9a-f]+")
    wanted = {f"{name}/{key}" if made_up.fullmatch(key) else key: value for key, value in in_folder.items()}
    found = read(tmp_path / name)
    assert len(found) == len(wanted) == 167
    assert {d.id: (d.title, d.text) for d in found} == {key: (d.title, d.text) for key, d in wanted.items()}
    assert "xwiki/20240101/3" in wanted and f"{name}/a.txt#0-{short_hash('plain')}" in wanted
    assert len(parts_of(str(tmp_path / name))) == len(parts_of(f"{tmp_path}/folder/**/*.*"))


def test_what_is_no_text_in_an_archive_is_left_out_and_told(tmp_path, capsys):
    files = {"a.txt": b"a", "logo.png": b"\x89PNG", "b/LICENSE": b"", "__MACOSX/._a.txt": b"\0", "b/.hidden.txt": b"h"}
    zipped(tmp_path / "t.zip", files)
    assert [document.text for document in read(tmp_path / "t.zip")] == ["a"]
    assert capsys.readouterr().out == f"{tmp_path}/t.zip: of unknown formats and not read: 2 (.png, b/LICENSE)\n"


@pytest.mark.parametrize("name", ["../../up.txt", "/etc/absolute.txt", "a/../../b.txt"])
def test_names_that_lead_out_of_an_archive_are_only_names(tmp_path, monkeypatch, name):
    """What has to be unpacked goes where copies are, and two such names are not taken for each other."""
    monkeypatch.setenv("NONLLAMA_CACHE", str(tmp_path / "room/cache"))
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["in parquet"]}), table)
    other = io.BytesIO()
    pq.write_table(pa.table({"text": ["other"]}), other)
    as_parquet = name.replace(".txt", ".parquet")
    files = {name: b"text", as_parquet: table.getvalue(), os.path.normpath(as_parquet): other.getvalue()}
    for archive, pack in (("t.zip", zipped), ("t.tar", tarred)):
        pack(tmp_path / archive, files)
        texts = {document.text for document in read(tmp_path / archive)}
        assert texts == ({"text", "in parquet", "other"} if name.startswith("a/") else {"text", "other"})
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert sorted(path.name for path in outside) == ["t.tar", "t.zip"]


def test_an_archive_that_changed_is_read_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("NONLLAMA_CACHE", str(tmp_path / "cache"))
    for text in ("first", "other"):
        table = io.BytesIO()
        pq.write_table(pa.table({"text": [text]}), table)
        for archive, pack in (("t.zip", zipped), ("t.tar.gz", tarred)):
            pack(tmp_path / archive, {"a.parquet": table.getvalue(), "b.txt": text.encode()})
            os.utime(tmp_path / archive, ns=(0, ord(text[0])))
            assert [document.text for document in read(tmp_path / archive)] == [text, text]


def damaged_zip() -> bytes:
    """A zip archive whose first member has a wrong byte; that a sum over all its bytes is wrong shows at its end."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jsonl", lines([{"text": f"row {i} " + "x" * 100} for i in range(1000)]))
        archive.writestr("b.txt", "fine")
    data = bytearray(file.getvalue())
    data[data.index(b"row 999")] ^= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "files", "complaint"),
    [
        ("t.zip", b"no archive", ": not an archive, or cut off: File is not a zip file"),
        ("t.tar", b"no archive", ": not an archive, or cut off: "),
        ("t.tar.gz", b"no archive", ": damaged: "),
        ("t.tar.gz", gzip.compress(b"no archive" * 99, mtime=0), ": not an archive, or cut off: "),
        ("t.tar.gz", gzip.compress(random.Random(0).randbytes(10_000), mtime=0)[:5000], ": damaged: "),
        ("t.zip", {}, ": the archive holds no files; known formats are .jsonl"),
        ("t.zip", {"a.png": b"", "b.pdf": b""}, ": the archive holds only .pdf, .png; known formats are .jsonl"),
        ("t.zip", {"a.txt": b"", "b/c.zip": b""}, "/b/c.zip: an archive inside an archive; unpack "),
        ("t.zip", {"a.txt": b"", "b.tar.gz": b""}, "/b.tar.gz: an archive inside an archive; unpack "),
        ("t.zip", {"a/b.jsonl": b'{"text": "a"}\n{"text'}, "/a/b.jsonl: line 2 cannot be read: "),
        ("t.zip", {"a/b.csv": b"body\na\n"}, "/a/b.csv: no column 'text' (columns: body); set --text_column"),
        ("t.zip", {"b.parquet": b"no"}, "/b.parquet: not a parquet file: "),
        ("t.tar", {"a.xml": b"<html>"}, "/a.xml: not a MediaWiki dump: "),
        ("t.zip", {"a.txt": b"\0"}, "/a.txt: holds null bytes; a binary file is not text"),
        ("t.zip", {"a.jsonl": lines([{"body": 1}])}, "/a.jsonl: row 0 has no 'text' (keys: body); set --text_column"),
        ("t.zip", damaged_zip(), "/a.jsonl: damaged after line "),
    ],
)
def test_an_archive_that_cannot_be_read_is_one_line_with_the_file_in_it(tmp_path, monkeypatch, name, files, complaint):
    monkeypatch.setenv("NONLLAMA_CACHE", str(tmp_path / "cache"))
    if isinstance(files, bytes):
        (tmp_path / name).write_bytes(files)
    else:
        (zipped if name.endswith(".zip") else tarred)(tmp_path / name, files)
    message = refusal(tmp_path / name)
    assert message.startswith(f"{tmp_path}/{name}{complaint}"), message
    assert "cache" not in message


def test_a_member_with_a_password_is_refused_before_anything_is_read(tmp_path):
    zipped(tmp_path / "t.zip", {"a.txt": b"fine", "b.txt": b"secret"})
    data = bytearray((tmp_path / "t.zip").read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # of b.txt in the list at the end: its flags are at byte 8
    data[entry + 8] |= 1
    (tmp_path / "t.zip").write_bytes(data)
    with pytest.raises(ValueError) as error:
        find_pieces(f"{tmp_path}/t.zip")
    assert str(error.value).startswith(f"{tmp_path}/t.zip/b.txt: a password is needed; unpack {tmp_path}/t.zip")


def test_the_rows_before_damage_in_a_member_and_all_other_members_are_kept(tmp_path):
    """As --allow_truncated=True does: each piece by itself."""
    (tmp_path / "t.zip").write_bytes(damaged_zip())
    found = []
    for piece in parts_of(str(tmp_path / "t.zip"))[0]:
        try:
            for document in read_part([piece]):
                found.append(document.text)
        except sources.Truncated as error:
            assert "t.zip/a.jsonl: damaged after line 9" in str(error) and "Bad CRC-32" in str(error)
    *rows, fine = found
    assert fine == "fine" and len(rows) > 900
    assert rows == [f"row {i} " + "x" * 100 for i in range(len(rows))]


def test_evaluation_texts_may_be_in_an_archive(tmp_path):
    zipped(tmp_path / "t.zip", {"a.jsonl": lines([{"q": "one", "a": "two"}]), "b.txt": b"three"})
    pieces, _ = find_pieces(f"{tmp_path}/t.zip", None)
    assert [row for piece in pieces for row in sources.read_rows(piece)] == [
        (0, {"q": "one", "a": "two"}),
        (0, {"text": "three", "title": "b.txt"}),
    ]


# --- a format of one's own ---


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ([], "*.jsonl"),
        (["a.md", "b.TXT", "c.md"], "*.md"),
        (["x/y/a.jsonl.gz", "b.jsonl.gz", "c.txt", "d.png", "e.png", "f.png"], "**/*.jsonl.gz"),
    ],
)
def test_a_folder_is_named_with_the_pattern_of_its_files(tmp_path, names, pattern):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    assert refusal(f"{folder}/") == (
        f"{folder}/ is a folder; give a quoted pattern of its files, such as '{folder}/{pattern}'"
    )
    if names:
        find_pieces(f"{folder}/{pattern}")


def test_a_folder_may_have_brackets_in_its_name(tmp_path):
    (tmp_path / "data [1]").mkdir()
    (tmp_path / "data [1]/a.txt").write_text("a")
    assert [document.text for document in read(f"{tmp_path}/data [1]/*.txt")] == ["a"]
    assert [document.text for document in read(f"{tmp_path}/data*/[a-c].txt")] == ["a"]


def test_a_source_is_described_by_its_files_of_each_format(tmp_path):
    """So that a README.md that a pattern takes by accident is seen."""
    put = {"a.jsonl": lines(ROWS), "b.jsonl": b"", "README.md": b"# About"}
    for name, content in put.items():
        (tmp_path / name).write_bytes(content)
    zipped(tmp_path / "t.zip", {"c.txt": b"c", "d.txt": b"d", "e.md": b"e"})
    pq.write_table(pa.table({"text": ["x"] * 10}), tmp_path / "f.parquet", row_group_size=1)
    assert sources.describe(find_pieces(f"{tmp_path}/*")[0]) == "7 files, 0.0 MB: 2 md, 2 jsonl, 2 txt, 1 parquet"


def test_a_new_format_is_a_function_and_one_entry(tmp_path, monkeypatch):
    """All that knows formats follows: names, packed files, the text column, messages, --against."""

    def read_lines(piece: Piece):
        with sources.open_text(piece) as file:
            for row, line in enumerate(file):
                yield row, {"text": line.rstrip("\n")}

    (tmp_path / "a.lines").write_text("one\ntwo\n")
    (tmp_path / "b.lines.gz").write_bytes(gzip.compress(b"three\n"))
    (tmp_path / "c.odd").write_text("x")
    assert "unknown format" in refusal(tmp_path / "a.lines")
    monkeypatch.setitem(sources.FORMATS, "lines", sources.Format((".lines",), read_lines))
    assert [document.text for document in read(tmp_path / "*.lines*")] == ["one", "two", "three"]
    assert ", .lines, .gz" in refusal(tmp_path / "c.odd")
    (piece,) = find_pieces(str(tmp_path / "a.lines"), None)[0]
    assert list(sources.read_rows(piece)) == [(0, {"text": "one"}), (1, {"text": "two"})]


# --- ids ---


def test_the_id_column_gives_the_ids_and_rows_without_one_get_theirs(tmp_path):
    rows = [{"text": "a", "id": "x", "key": 5}, {"text": "b", "id": "", "key": None}, {"text": "c"}]
    (tmp_path / "rows.jsonl").write_bytes(lines(rows))
    by_id = [document.id for document in read(tmp_path / "rows.jsonl")]
    assert by_id[0] == "x" and all(i.startswith("rows.jsonl#") for i in by_id[1:])
    assert [document.id for document in read(tmp_path / "rows.jsonl", id_column="key")][0] == "5"
    assert all(document.id.startswith("rows.jsonl#") for document in read(tmp_path / "rows.jsonl", id_column=None))


def test_made_up_ids_are_unique_even_for_equal_texts_in_equally_named_files(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_bytes(lines([{"text": "same"}] * 5))
        (tmp_path / folder / "same.txt").write_text("same")
    ids = [document.id for document in read(f"{tmp_path}/*/*")]
    assert len(ids) == 12 == len(set(ids))


def test_ids_do_not_depend_on_where_the_folder_lies_or_how_it_is_named(tmp_path, monkeypatch):
    found = []
    for root in ("here", "there/deep"):
        folder = tmp_path / root
        (folder / "x").mkdir(parents=True)
        (folder / "x/rows.jsonl").write_bytes(lines([{"text": "a"}, {"text": "b"}]))
        (folder / "y.txt").write_text("c")
        found.append([document.id for document in read(f"{folder}/**/*.*")])
        monkeypatch.chdir(folder)
        found.append([document.id for document in read("**/*.*")])
    assert len(set(map(tuple, found))) == 1 and len(found[0]) == 3


def test_made_up_ids_change_with_the_text(tmp_path):
    ids = []
    for text in "ab":
        (tmp_path / "rows.jsonl").write_bytes(lines([{"text": text}]))
        ids += [document.id for document in read(tmp_path / "rows.jsonl")]
    assert ids[0] != ids[1]


# --- parts ---


def test_parts_hold_every_file_once_and_about_the_wanted_size(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 1000)
    sizes = [300, 300, 300, 300, 5000, 10, 990, 10]
    for i, size in enumerate(sizes):
        (tmp_path / f"{i}.txt").write_text("x" * size)
    parts = parts_of(f"{tmp_path}/*.txt")
    names = [[piece.name for piece in part] for part in parts]
    assert names == [["0.txt", "1.txt", "2.txt"], ["3.txt"], ["4.txt"], ["5.txt", "6.txt"], ["7.txt"]]


def test_row_groups_of_one_parquet_file_are_work_for_several_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 1)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet", row_group_size=1)
    parts = parts_of(f"{tmp_path}/*.parquet")
    assert [[document.id for document in read_part(part)] for part in parts] == [["a/1"], ["a/2"], ["a/3"]]


def test_identity_changes_with_the_files_and_is_json(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)

    def identity() -> dict:
        return find_pieces(f"{tmp_path}/*.txt")[1]

    first = identity()
    assert identity() == first == json.loads(json.dumps(first))
    (tmp_path / "a.txt").write_text("longer")
    second = identity()
    os.utime(tmp_path / "b.txt", ns=(1, 1))
    third = identity()
    (tmp_path / "c.txt").write_text("c")
    assert len({json.dumps(i) for i in (first, second, third, identity())}) == 4


# --- mistakes ---


def test_a_pattern_without_files_says_what_a_source_is(tmp_path):
    for source in (f"{tmp_path}/*.jsonl", tmp_path / "none.txt"):
        message = refusal(source)
        assert str(source) in message and "path/*.jsonl" in message and "pydocs" not in message


def test_a_file_of_docstrings_that_is_not_there_names_the_source(tmp_path):
    """Until lately they were written to data/pydocs.jsonl first."""
    message = refusal(f"{tmp_path}/data/pydocs.jsonl")
    assert message.endswith("no such file; the docstrings of the installed packages are --source=pydocs")


@pytest.mark.parametrize("name", ["rows.xlsx", "rows", "rows.docx", "rows.txt.xz", ".gz"])
def test_an_unknown_format_lists_the_known_ones(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    message = refusal(tmp_path / name)
    assert message.startswith(f"{tmp_path / name}: unknown format") and ".jsonl" in message and ".zst" in message


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00binary", b"text and \0 then", bytes(range(256)), b"caf\xe9 in latin-1"]
)
@pytest.mark.parametrize("pack", PACK)
def test_a_binary_file_called_txt_is_refused_by_name(tmp_path, content, pack):
    path = tmp_path / f"file.txt{pack}"
    path.write_bytes(PACK[pack](content))
    message = refusal(path)
    assert message.startswith(f"{path}: ") and "binary" in message


@pytest.mark.parametrize(
    "line",
    [b"{'text': 'python'}", b'{"text": "cut', b"[1, 2]", b'"text"', b"plain words", b'{"text": "a"} {"text": "b"}']
    + [b"[" * 100_000],
    ids=["python", "cut", "list", "string", "words", "two", "deep"],
)
@pytest.mark.parametrize("pack", ["", ".gz"])
def test_a_line_that_is_no_json_object_is_refused_with_its_number(tmp_path, line, pack):
    path = tmp_path / f"rows.jsonl{pack}"
    path.write_bytes(PACK[pack](lines(ROWS[:1]) + b"\n" + line + b"\n" + lines(ROWS[1:])))
    assert refusal(path).startswith(f"{path}: line 3 ")


def test_a_binary_file_called_jsonl_is_refused_by_name(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b"\x93NUMPY\xff\xfe")
    assert refusal(tmp_path / "rows.jsonl").startswith(f"{tmp_path}/rows.jsonl: not UTF-8 text")


@pytest.mark.parametrize("kind", ["jsonl", "txt"])
@pytest.mark.parametrize("pack", [".gz", ".bz2", ".zst"])
def test_a_truncated_or_damaged_file_is_refused_by_name(tmp_path, kind, pack):
    draw = random.Random(0)
    data = PACK[pack](lines([{"text": draw.randbytes(500).hex()} for _ in range(200)]))
    path = tmp_path / f"rows.{kind}{pack}"
    for damaged in (data[: len(data) // 2], data[:-1], b"not compressed at all\n" * 9):
        path.write_bytes(damaged)
        message = refusal(path)
        assert message.startswith(f"{path}: ") and "damaged" in message


def test_a_text_file_that_is_cut_off_keeps_what_comes_before(tmp_path):
    """Its whole lines; of WikiExtractor's output the whole documents."""
    text = "".join(f"line {i} {random.Random(i).random()}\n" for i in range(3000))
    (tmp_path / "plain.txt.gz").write_bytes(gzip.compress(text.encode())[:-900])
    documents = "".join(f'<doc id="{i}" url="u" title="t">\nt\n\nText {i}.\n</doc>\n' for i in range(3000))
    (tmp_path / "wiki.txt.gz").write_bytes(gzip.compress(documents.encode())[:-900])
    for name in ("plain.txt.gz", "wiki.txt.gz"):
        found = []
        with pytest.raises(sources.Truncated, match=f"{name}: damaged: it ends inside a gzip stream"):
            for part in parts_of(str(tmp_path / name)):
                for document in read_part(part):
                    found.append(document)
        if name == "plain.txt.gz":
            assert len(found) == 1 and len(found[0].text) > 80_000
            assert text.startswith(found[0].text) and found[0].text.endswith("\n")
        else:
            assert [document.id for document in found] == [str(i) for i in range(len(found))]
            assert len(found) > 2000


def test_a_parquet_file_without_the_text_column_lists_its_columns(tmp_path):
    pq.write_table(pa.table({"body": ["a"], "id": ["1"]}), tmp_path / "rows.parquet")
    message = refusal(tmp_path / "rows.parquet")
    assert message.startswith(f"{tmp_path}/rows.parquet: no column 'text'")
    assert "body, id" in message and "--text_column" in message


def test_a_row_without_text_is_refused_with_its_number_and_keys(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines([{"text": "a", "id": "1"}, {"id": "2", "body": "b"}]))
    message = refusal(tmp_path / "rows.jsonl")
    assert message.startswith(f"{tmp_path}/rows.jsonl: row 1 ") and "body, id" in message and "--text_column" in message


@pytest.mark.parametrize("value", [3, 1.5, ["a"], {"a": "b"}, True])
def test_text_of_another_type_is_refused_with_its_row_and_type(tmp_path, value):
    (tmp_path / "rows.jsonl").write_bytes(lines([{"text": "a"}, {"text": value}]))
    message = refusal(tmp_path / "rows.jsonl")
    assert message.startswith(f"{tmp_path}/rows.jsonl: row 1") and type(value).__name__ in message
    assert "--text_column" in message
    pq.write_table(pa.table({"text": [value] * 3}), tmp_path / "rows.parquet", row_group_size=2)
    assert refusal(tmp_path / "rows.parquet").startswith(f"{tmp_path}/rows.parquet: row 0")


def test_null_is_an_empty_text(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(lines([{"text": None, "id": "1"}, {"text": "a", "id": "2"}]))
    pq.write_table(pa.table({"text": ["b", None], "id": ["3", "4"]}), tmp_path / "rows.parquet")
    assert [(d.id, d.text) for d in read(tmp_path / "rows.*")] == [("1", ""), ("2", "a"), ("3", "b"), ("4", "")]


def test_what_is_no_parquet_file_is_refused_by_name(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a" * 1000]}), path)
    whole = path.read_bytes()
    for content in (b"", b"no", b"not a parquet file at all", whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert refusal(path).startswith(f"{path}: ")


def test_damage_inside_a_parquet_file_is_refused_by_name(tmp_path):
    path, draw = tmp_path / "rows.parquet", random.Random(0)
    pq.write_table(pa.table({"text": [draw.randbytes(500).hex() for _ in range(100)]}), path, compression="snappy")
    data = bytearray(path.read_bytes())
    data[500:20000] = bytes(255 - byte for byte in data[500:20000])
    path.write_bytes(data)
    assert refusal(path).startswith(f"{path}: ")


# --- documents on disk ---

FIELD = st.text(max_size=20)


@given(st.lists(st.builds(Document, FIELD, FIELD, FIELD, FIELD), max_size=20), st.integers(1, 50))
@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_are_read_back_as_they_were_written(tmp_path, monkeypatch, documents, row_group_bytes):
    monkeypatch.setattr(documents_module, "ROW_GROUP_BYTES", row_group_bytes)
    writer = DocumentWriter(tmp_path / "part.parquet")
    for document in documents:
        writer.add(document)
    writer.close({"in": 7, "kept": len(documents)})
    columns = ("id", "title", "url", "text")
    assert [Document(*row) for row in read_documents(tmp_path / "part.parquet", columns)] == documents
    assert list(read_documents(tmp_path / "part.parquet")) == [(d.id, d.text) for d in documents]
    assert read_counts(tmp_path / "part.parquet") == {"in": 7, "kept": len(documents)}
    table = pq.read_table(tmp_path / "part.parquet")
    assert table.column_names == list(columns) and set(table.schema.types) == {pa.string()}


class Huge(str):
    """As if it had 3 GB."""

    def encode(self, *args) -> range:
        return range(3_000_000_000)


def test_a_document_too_large_for_a_row_group_is_refused(tmp_path):
    writer = DocumentWriter(tmp_path / "part.parquet")
    with pytest.raises(ValueError, match=r"a document of 3\.0 GB: 2 GB is the most; cut the file up"):
        writer.add(Document("a", "", "", Huge("x" * documents_module.ROW_GROUP_BYTES)))


def test_a_row_group_holds_no_more_text_than_it_should(tmp_path, monkeypatch):
    monkeypatch.setattr(documents_module, "ROW_GROUP_BYTES", 1000)
    writer = DocumentWriter(tmp_path / "part.parquet")
    for i in range(100):
        writer.add(Document(str(i), "", "", "x" * 99))
        assert writer.waiting_bytes < 1000
    writer.close({})
    metadata = pq.read_metadata(tmp_path / "part.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [11] * 9 + [1]


def test_any_row_that_can_be_read_can_be_written(tmp_path):
    """JSON may spell lone surrogates, which no UTF-8 file can hold."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a\\ud800", "title": "\\udfff", "id": "\\ud800x", "url": "\\udc00"}\n')
    writer = DocumentWriter(tmp_path / "part.parquet")
    for document in read(path):
        writer.add(document)
    writer.close({})
    assert len(list(read_documents(tmp_path / "part.parquet"))) == 1


# --- processes ---


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs_for_any_number_of_workers(num_workers):
    jobs = [3, 20, 1, 0, 7, 150]
    assert map_parts(math.factorial, [(job, job) for job in jobs], num_workers, "work", sum(jobs)) == [
        math.factorial(job) for job in jobs
    ]
    assert map_parts(math.factorial, [], num_workers, "work", 0) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_in_a_worker_arrives_as_it_is(num_workers):
    with pytest.raises(ValueError, match="invalid literal for int.*'seven'"):
        map_parts(int, [(job, 1) for job in ("1", "2", "seven", "4")], num_workers, "work", 4)


def test_a_killed_worker_is_an_error_that_says_what_to_try():
    with pytest.raises(ValueError, match="work: a worker process was killed.*--num_workers=1"):
        map_parts(os._exit, [(9, 1), (9, 1)], 2, "work", 2)


def test_a_byte_order_mark_and_brackets_in_a_name_do_no_harm(tmp_path):
    path = tmp_path / "part [1].jsonl"
    path.write_text('{"text": "hello"}\n', encoding="utf-8-sig")
    parts = parts_of(str(path))
    assert [document.text for document in read_part(parts[0])] == ["hello"]


# --- long files, and the output of WikiExtractor ---


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_long_file_is_cut_into_blocks_of_whole_rows(tmp_path, monkeypatch, suffix, size):
    """The same documents, with the same ids and rows, as in one piece; an id of its own where a row has none."""
    monkeypatch.setattr(documents_module, "ROW_GROUP_BYTES", 1000)
    rows = [{"text": f"row {i} " + "ü" * (i % 50)} | ({"id": f"own {i}"} if i % 3 else {}) for i in range(2000)]
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACK[suffix](b"\xef\xbb\xbf" + lines(rows).replace(b"\n", b"\n\n", 100).rstrip(b"\n")))
    whole = read(path)
    assert len(parts_of(str(path))) == 1 and len(whole) == 2000
    monkeypatch.setattr(sources, "PART_BYTES", size)
    parts = parts_of(str(path))
    assert len(parts) > 3 and all(part[0].block is not None for part in parts)
    assert read(path) == whole
    broken = path.with_name(f"b.jsonl{suffix}")
    broken.write_bytes(PACK[suffix](lines(rows[:1500]) + b"{broken\n" + lines(rows)))
    assert "line 1501 cannot be read" in refusal(broken)


def test_a_long_file_that_is_damaged_keeps_what_comes_before(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PART_BYTES", 5000)
    rows = [{"text": f"row {i} {random.Random(i).random()}"} for i in range(5000)]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(rows))[:-9000])
    found = []
    with pytest.raises(sources.Truncated, match="a.jsonl.gz: damaged near byte [0-9,]+ of its text"):
        for part in parts_of(str(tmp_path / "a.jsonl.gz")):
            for document in read_part(part):
                found.append(document.text)
    assert len(found) > 4000 and found == [row["text"] for row in rows[: len(found)]]


def test_what_wikiextractor_writes_are_documents(tmp_path):
    text = '<doc id="12" url="https://x/12" title="A "b"">\nA "b"\n\nText of <it>.\n\n</doc>\n'
    text += '<doc id="13" url="u" title="">\n\n</doc>\n'
    (tmp_path / "wiki_00.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert read(tmp_path / "*.txt.gz") == [
        Document("12", 'A "b"', "https://x/12", 'A "b"\n\nText of <it>.'),
        Document("13", "", "u", ""),
    ]


# documents and characters, or those of more than 100 characters, in each real file (shared/data/README.md)
REAL = {
    "text_en/dsl_wiki_00.jsonl.gz": (37, 1_003_411),
    "text_en/dsl_wiki_01.jsonl.gz": (48, 1_028_204),
    "text_en/dsl_wiki_02.jsonl.gz": (39, 977_936),
    "text_en/dsl_wiki_03.jsonl.gz": (36, 1_029_817),
    "text_en/dsl_wiki_04.jsonl.gz": (65, 998_518),
    "text_en/dsl_wiki_05.jsonl.gz": (64, 1_028_885),
    "text_zh/zhwiki_wiki_00.doc.txt.gz": (1138, 433),
    "text_zh/zhwiki_wiki_07.doc.txt.gz": (1022, 386),
    "text_zh/zhwiki_wiki_13.doc.txt.gz": (1199, 436),
    "text_zh/zhwiki_wiki_18.doc.txt.gz": (1045, 407),
    "text_zh/zhwiki_wiki_45.doc.txt.gz": (1166, 366),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_files_hold_the_documents_that_are_known(name):
    found = read(SHARED / "wiki" / name)
    chars = [len(document.text) for document in found]
    second = sum(chars) if "text_en" in name else sum(count > 100 for count in chars)
    assert (len(found), second) == REAL[name]
    assert len({document.id for document in found}) == len(found)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "count"),
    [("cmrc2018_dev", 848), ("DRCD_dev", 1000)],
)
def test_real_paragraphs_of_questions_and_answers_become_jsonl(name, count, tmp_path):
    """SQuAD's form is one JSON object of all: a line of Python makes rows of it."""
    articles = json.loads(gzip.open(SHARED / f"wiki/text_zh/{name}.json.gz").read())["data"]
    rows = [{"text": p["context"], "title": a.get("title", "")} for a in articles for p in a["paragraphs"]]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    assert [document.text for document in read(tmp_path / "a.jsonl")] == [row["text"] for row in rows]
    assert len(rows) == count


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("path", "lines_in"),
    [
        ("wikitext-2/wiki.valid.tokens.gz", 60),
        ("wikitext-2/wiki.train.reexport.tokens.gz", 629),
        ("text_en/llamafactory_wiki_demo.txt.gz", 0),
    ],
)
def test_real_texts_are_one_document(path, lines_in, tmp_path):
    (tmp_path / "a.txt.gz").write_bytes((SHARED / "wiki" / path).read_bytes())
    (document,) = read(tmp_path / "a.txt.gz")
    assert len(re.findall(r"^ = [^=].*[^=] = ?$", document.text, re.MULTILINE)) == lines_in
