"""Files at addresses: the same documents as from files on this disk, copied once, and every failure is one line."""

import bz2
import functools
import gzip
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PYTHON, REPO
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from corpus.documents import Document
from corpus.files import remote
from corpus.files.copies import copies_folder
from corpus.sources import cut_parts, find_pieces, read_part


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """memory:// is empty, and copies go to a folder of the test."""
    monkeypatch.setenv("NONLLAMA_CACHE", str(tmp_path / "copies"))
    MemoryFileSystem.store.clear()
    yield fsspec.filesystem("memory")
    MemoryFileSystem.store.clear()


def read(source: str) -> list[Document]:
    """All documents of a source."""
    return [document for part in cut_parts(find_pieces(source)[0]) for document in read_part(part)]


def refusal(source: str) -> str:
    """The message of the ValueError that reading this source raises: one line."""
    with pytest.raises(ValueError) as error:
        read(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def rows(count: int, word: str = "row") -> bytes:
    return "".join(json.dumps({"text": f"{word} {i}"}) + "\n" for i in range(count)).encode()


def some_files() -> dict[str, bytes]:
    """Files that are read in different ways: streams, row groups, streams of a dump, an archive."""
    table = io.BytesIO()
    pq.write_table(pa.table({"id": ["7", "8"], "text": ["in parquet", "and more"]}), table, row_group_size=1)
    page = "<page><title>P{0}</title><ns>0</ns><id>{0}</id><revision><text>Page {0}.</text></revision></page>"
    head = "<mediawiki><siteinfo><dbname>xwiki</dbname></siteinfo>"
    streams = [head, page.format(1), page.format(2) + "</mediawiki>"]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inside.txt", "in an archive")
    return {
        "a/rows.jsonl.gz": gzip.compress(rows(100)),
        "20231101.de/train.parquet": table.getvalue(),
        "xwiki-20240101-pages-articles-multistream.xml.bz2": b"".join(bz2.compress(s.encode()) for s in streams),
        "texts.zip": archive.getvalue(),
    }


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


# --- what is read ---


def test_addresses_give_the_documents_of_the_same_files_on_this_disk(tmp_path, memory):
    put(tmp_path / "here", some_files())
    memory.pipe({f"/bucket/{name}": content for name, content in some_files().items()})
    here = read(f"{tmp_path}/here/**/*.*")
    assert read("memory://bucket/**/*.*") == here
    assert {"dewiki/20231101/7", "xwiki/20240101/2"} < {document.id for document in here} and len(here) == 105
    assert read(f"file://{tmp_path}/here/**/*.*") == here
    (piece,) = find_pieces("memory://bucket/a/rows.jsonl.gz")[0]
    assert piece.name == "rows.jsonl.gz"


def test_a_file_is_copied_once_and_anew_when_it_changes(memory, capsys):
    memory.pipe("/bucket/a.jsonl", rows(5, "old"))
    _, first = find_pieces("memory://bucket/*.jsonl")
    assert capsys.readouterr().out == f"copying 1 file, 0.0 MB, to {copies_folder()}\n"
    assert find_pieces("memory://bucket/*.jsonl")[1] == first == json.loads(json.dumps(first))
    assert [document.text for document in read("memory://bucket/*.jsonl")] == [f"old {i}" for i in range(5)]
    assert capsys.readouterr().out == ""

    memory.pipe("/bucket/a.jsonl", rows(5, "new"))  # as many bytes
    assert find_pieces("memory://bucket/*.jsonl")[1] != first
    assert [document.text for document in read("memory://bucket/*.jsonl")] == [f"new {i}" for i in range(5)]
    assert capsys.readouterr().out.count("copying 1 file") == 1


def test_files_of_one_name_are_not_taken_for_each_other(memory):
    memory.pipe({f"/bucket/{name}/x/a.txt": name.encode() for name in ("one", "two", "six")})
    found = read("memory://bucket/*/x/*.txt")
    assert [(document.id.partition("#")[0], document.text) for document in found] == [
        ("one/x/a.txt", "one"),
        ("six/x/a.txt", "six"),
        ("two/x/a.txt", "two"),
    ]


# --- what goes wrong ---


@pytest.mark.parametrize("seekable", [True, False])
def test_an_interrupted_copy_goes_on_and_begins_anew_where_it_cannot(memory, monkeypatch, seekable):
    monkeypatch.setattr(remote, "READ_BYTES", 1000)
    memory.pipe("/bucket/a.jsonl", rows(1000))
    given = []

    def read_some(self, size=-1):
        if sum(given) >= limit:
            raise ConnectionResetError("the other side hung up")
        data = io.BytesIO.read(self, size)
        given.append(len(data))
        return data

    def refuse(self, position, whence=0):
        if position:
            raise ValueError("Cannot seek")
        return io.BytesIO.seek(self, position, whence)

    monkeypatch.setattr(MemoryFile, "read", read_some, raising=False)
    if not seekable:
        monkeypatch.setattr(MemoryFile, "seek", refuse, raising=False)

    limit = 5000
    message = refusal("memory://bucket/a.jsonl")
    assert message == (
        "memory:///bucket/a.jsonl: cannot be read (ConnectionResetError: the other side hung up); check the address, "
        f"your rights and the network; the same command goes on: {copies_folder()} keeps what was copied"
    )
    assert sum(given) == 5000
    given.clear()
    limit = 10**9
    assert [document.text for document in read("memory://bucket/a.jsonl")] == [f"row {i}" for i in range(1000)]
    assert sum(given) == len(rows(1000)) - (5000 if seekable else 0)


def test_a_copy_of_another_version_is_never_continued(memory, monkeypatch):
    memory.pipe("/bucket/a.jsonl", rows(50, "old"))
    (found,) = remote.find_remote("memory://bucket/a.jsonl")
    memory.pipe("/bucket/a.jsonl", rows(50, "new"))
    monkeypatch.setattr(MemoryFile, "read", lambda self, size=-1: b"", raising=False)
    with pytest.raises(ValueError, match=r"a\.jsonl: cannot be read \(EOFError: 0 of [\d,]+ bytes came\)"):
        remote.copy_here([found])


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("memory://bucket/none.jsonl", "memory://bucket/none.jsonl: no such file there"),
        ("memory://bucket/*.txt", "memory://bucket/*.txt: no file has such an address; check it; many web servers"),
        (
            "memory://bucket",
            "memory://bucket is a folder; give a quoted pattern of its files, such as 'memory://bucket/*",
        ),
        ("memory://bucket/page", "memory:///bucket/page: a folder, or a page; give a file by its full address, or"),
        ("memory://bucket/*.o*", "memory:///bucket/b.odd: unknown format; known are .jsonl"),
        ("memory://bucket/a.jsonl", "memory:///bucket/a.jsonl: line 2 cannot be read"),
        ("memory://bucket/c.zip", "memory:///bucket/c.zip/x.jsonl: line 1 cannot be read"),
        ("nosuch://bucket/*", "nosuch://bucket/*: nosuch:// is not known; known are https://, s3://, gs://, hf:// and"),
        ("http://127.0.0.1:9/a.jsonl", "http://127.0.0.1:9/a.jsonl: cannot be read (ConnectionRefusedError: "),
    ],
)
def test_what_cannot_be_had_is_one_line(memory, source, complaint):
    if source.startswith("http"):
        pytest.importorskip("aiohttp", reason="pip install -r requirements-dev.txt")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.jsonl", "no json")
    memory.pipe({"/bucket/a.jsonl": b'{"text": "a"}\nno', "/bucket/b.odd": b"b", "/bucket/c.zip": archive.getvalue()})
    memory.pipe("/bucket/page", b"<html>")
    message = refusal(source)
    assert message.startswith(complaint), message
    if "odd" in complaint:
        assert not list(copies_folder().rglob("*.*")), "nothing is copied before all formats are known"


@pytest.mark.parametrize("protocol", ["s3", "gs", "https", "abfs"])
def test_a_protocol_without_its_package_names_the_line_to_type(monkeypatch, protocol):
    for package in ("s3fs", "gcsfs", "adlfs", "aiohttp"):
        monkeypatch.setitem(sys.modules, package, None)
    message = refusal(f"{protocol}://bucket/*.parquet")
    package = remote.PACKAGES[protocol]
    assert message.endswith(
        f"{protocol}:// needs one more package: pip install '{package}' fsspec=={fsspec.__version__}"
    )
    assert remote.AIOHTTP in (REPO / "requirements-dev.txt").read_text().splitlines()


def test_a_disk_that_is_too_small_is_told_before_anything_is_copied(memory, monkeypatch):
    memory.pipe("/bucket/a.jsonl", rows(5))
    usage = type(shutil.disk_usage("/"))(total=9, used=8, free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    message = refusal("memory://bucket/a.jsonl")
    assert "0.0 GB are free there; make room, or set NONLLAMA_CACHE" in message
    assert not list(copies_folder().rglob("*.*"))


# --- a web server, and the commands ---


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, and its listing; says nothing."""

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def web(tmp_path):
    """(a folder, the address at which a web server shows it)."""
    pytest.importorskip("aiohttp", reason="pip install -r requirements-dev.txt")
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def prepare(data_dir: Path, **settings) -> subprocess.CompletedProcess:
    """Run prepare_wiki.py in two processes."""
    arguments = {"data_dir": data_dir, "vocab_size": 300, "val_fraction": 0.1, "num_workers": 2, "yardsticks": False}
    flags = [f"--{key}={value}" for key, value in {**arguments, **settings}.items()]
    command = [PYTHON, "prepare_wiki.py", *flags]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


@pytest.mark.slow
def test_prepare_wiki_reads_the_web_as_it_reads_the_disk(tmp_path, web):
    folder, address = web
    files = {f"{i}.jsonl.gz": gzip.compress(rows(40, f"some words of file {i} which is number")) for i in range(5)}
    put(folder, files)
    put(tmp_path / "here", files)
    put(folder, {"eval/eval.jsonl": json.dumps({"text": "some words of file 3 which is number 7"}).encode()})

    for name, source, against in (
        ("there", f"{address}/*.jsonl.gz", f"{address}/eval/eval.jsonl"),
        ("local", f"{tmp_path}/here/*.jsonl.gz", f"{folder}/eval/eval.jsonl"),
    ):
        done = prepare(tmp_path / name, source=source, against=against)
        assert done.returncode == 0, done.stderr
    for name in ("documents/part_00000.parquet", "train_00000.bin", "val_00000.bin", "dedup/duplicates.parquet"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()

    assert "against" in pq.read_table(tmp_path / "there/dedup/duplicates.parquet")["kind"].to_pylist()
    shutil.rmtree(copies_folder())  # documents are written: nothing is copied again
    done = prepare(tmp_path / "there", source=f"{address}/*.jsonl.gz", against=f"{address}/eval/eval.jsonl")
    assert done.returncode == 0 and "is complete" in done.stdout
    assert [path.name for path in copies_folder().rglob("*.jsonl*") if path.suffix != ".lock"] == ["eval.jsonl"]

    manifest = json.loads((tmp_path / "there/manifest.json").read_text())
    size, changed = manifest["source"]["files"]["3.jsonl.gz"]
    assert size == len(files["3.jsonl.gz"]) and changed.endswith("GMT")
    os.utime(folder / "3.jsonl.gz", (0, 0))
    done = prepare(tmp_path / "there", source=f"{address}/*.jsonl.gz", against=f"{address}/eval/eval.jsonl")
    assert done.returncode == 1 and "was begun from another state of the source (files: 3.jsonl.gz" in done.stderr


def test_a_file_is_stored_as_the_server_has_it(web):
    """Some call the .gz of a file's name an encoding, others pack what is plain if they may."""
    folder, address = web
    put(folder, {"a.jsonl.gz": gzip.compress(rows(3))})

    class Encoding(Handler):
        def end_headers(self) -> None:
            if ".gz" in self.path:
                self.send_header("Content-Encoding", "gzip")
            super().end_headers()

    handler = functools.partial(Encoding, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = read(f"http://127.0.0.1:{server.server_port}/a.jsonl.gz?download=true")
        server.shutdown()
    assert [document.text for document in found] == ["row 0", "row 1", "row 2"]
    assert found[0].id.startswith("a.jsonl.gz#0-")
