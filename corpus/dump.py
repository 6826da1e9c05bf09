"""MediaWiki XML dumps (*-pages-articles*.xml, plain or compressed): cut into blocks of whole pages, read page by page.

A dump of one stream is decompressed and cut here, in one process, without being parsed; others parse and clean the
blocks. A multistream .bz2 is cut where its streams begin, and who parses a piece decompresses it.
"""

import bz2
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote
from xml.etree import ElementTree

import pyarrow as pa

from corpus.documents import Document
from corpus.wikitext import hidden_namespaces, is_redirect

COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
READ_BYTES = 1 << 12  # what a damaged place can cost of the text before it
STREAM = re.compile(rb"BZh[1-9]1AY&SY")  # how a bz2 stream begins: its level, and the mark of its first block
PAGE, PAGE_END, DUMP_END = b"<page>", b"</page>", b"</mediawiki>"
DATED = re.compile(r"(\w+)-(\d{8})-")  # enwiki-20231101-pages-articles.xml.bz2


@dataclass(frozen=True)
class Site:
    """What the head of a dump says: how ids and urls begin, and the namespaces whose links are no text."""

    prefix: str
    base: str
    hidden: frozenset[str]


def open_compressed(path: str) -> tuple[pa.NativeFile, pa.NativeFile]:
    """(the file itself, a stream of its bytes, decompressed as its name says)."""
    raw, kind = pa.OSFile(path), COMPRESSION.get(Path(path).suffix.lower())
    return raw, pa.CompressedInputStream(raw, kind) if kind else raw


def blocks(path: str, size: int, mark: bytes, closing: bytes) -> Iterator[tuple[bytes, int, str]]:
    """Cut the decompressed bytes of a file into blocks of about `size` bytes, each up to the end of a `mark`.

    Yields (block, position in the file, failure): failure, in the last block only, says why the file ends there; it
    must hold `closing`. Of a damaged file all records before the damage are in the blocks.
    """
    raw, stream = open_compressed(path)
    offset, chunks, waiting, failure = 0, [b""], 0, ""
    with raw, stream:
        while True:
            try:
                chunk = stream.read(READ_BYTES)
            except OSError as error:
                chunk, failure = b"", f"damaged near byte {offset + waiting:,} of its text: {error}"
            chunks.append(chunk)
            waiting += len(chunk)
            if chunk and (waiting < size or mark not in chunk):
                continue
            data = b"".join(chunks)
            end = data.rfind(mark) + len(mark) if chunk or failure else len(data)
            if not chunk and not failure and closing not in data:
                failure = cut_off(offset, data)
            if end > 0 or failure:
                yield data[: max(end, 0)], raw.tell(), failure
            if not chunk:
                return
            offset, chunks, waiting = offset + end, [data[end:]], len(data) - end


def cut_off(offset: int, data: bytes) -> str:
    """Says where a dump that has no end stops: `data`, at byte `offset` of the text, is the last of it."""
    titles = re.findall(rb"<title>(.*?)</title>", data)
    after = f", in or after the page '{titles[-1].decode(errors='replace')}'" if titles else ""
    return f"cut off at byte {offset + len(data):,} of its text{after}: there is no {DUMP_END.decode()}"


def read_site(path: str) -> Site:
    """The Site that the head of a dump describes. Raises ValueError for what is no dump, or not UTF-8."""
    head, (raw, stream) = b"", open_compressed(path)
    with raw, stream:
        try:
            while len(head) < 1 << 20 and PAGE not in head and (chunk := stream.read(READ_BYTES)):
                head += chunk
        except OSError as error:
            raise ValueError(f"{path}: damaged near byte {len(head)}, before its first page: {error}") from None
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:64]:
        raise ValueError(f"{path}: UTF-16 from byte 0; convert it first: iconv -f UTF-16 -t UTF-8")
    if b"<mediawiki" not in head[:4096]:
        raise ValueError(f"{path}: not a MediaWiki dump: no <mediawiki> at its beginning")
    info = re.search(rb"<siteinfo>.*?</siteinfo>", head, re.DOTALL)
    found = ElementTree.fromstring(info[0] if info else b"<siteinfo/>")
    dated = DATED.match(Path(path).name)
    wiki, date = dated.groups() if dated else ("wiki", Path(path).name.split(".")[0])
    local = [i.text or "" for i in found.iter("namespace") if i.get("key") in ("-2", "6", "14")]
    base = (found.findtext("base") or "").rpartition("/")[0]
    return Site(f"{found.findtext('dbname') or wiki}/{date}/", base, hidden_namespaces(local))


def streams(path: str, size: int) -> list[tuple[int, int]]:
    """(start, end) of the compressed bytes of runs of bz2 streams, each of `size` bytes or more but the last."""
    starts, end, data = [], 0, b""
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            data, end = data[-9:] + chunk, end + len(chunk)  # a mark has 10 bytes
            starts += [end - len(data) + match.start() for match in STREAM.finditer(data)]
    cuts = [0]
    for start in starts:
        if start - cuts[-1] >= size:
            cuts.append(start)
    return list(zip(cuts, [*cuts[1:], end], strict=True)) if len(starts) > 1 else []


def read_streams(path: str, start: int, end: int) -> tuple[bytes, int, str]:
    """(data, limit, failure): the decompressed streams of [start, end), whose pages begin before data[limit].

    More streams follow in `data` where the last page goes on in them: pbzip2 and its like cut anywhere. failure: why
    the file ends there, or "".
    """
    data, limit, size, failure = bytearray(), None, os.path.getsize(path), ""
    with open(path, "rb") as file:
        file.seek(start)
        try:
            while file.tell() < size:
                if file.tell() >= end:
                    limit = len(data) if limit is None else limit
                    last = data.rfind(PAGE, 0, limit + len(PAGE) - 1)
                    straddles = len(data) == limit and any(data.endswith(PAGE[:k]) for k in range(1, len(PAGE)))
                    if not straddles and (last < 0 or data.find(PAGE_END, last) >= 0):
                        return bytes(data), limit, ""
                _read_stream(file, data)
            if DUMP_END not in data and not DUMP_END.endswith(data.strip()):
                failure = cut_off(0, bytes(data))
        except (OSError, EOFError) as error:
            failure = f"damaged near byte {file.tell():,}: {error}"
    return bytes(data), len(data) if limit is None else limit, failure


def _read_stream(file: IO[bytes], data: bytearray) -> None:
    """Append one bz2 stream, and leave the file behind it."""
    decompressor = bz2.BZ2Decompressor()
    while not decompressor.eof:
        if not (chunk := file.read(READ_BYTES)):
            raise EOFError("it ends inside a bz2 stream")
        data += decompressor.decompress(chunk)
    file.seek(-len(decompressor.unused_data), os.SEEK_CUR)


def pages(data: bytes, limit: int, site: Site) -> Iterator[Document | str]:
    """The articles among the pages that begin before data[limit], in wikitext; the name of what else a page is.

    Raises ValueError for a page that is no XML.
    """
    position = 0
    while 0 <= (start := data.find(PAGE, position)) < limit:
        if (end := data.find(PAGE_END, start)) < 0:
            return  # the file is cut off here
        position = end + len(PAGE_END)
        try:
            page = ElementTree.fromstring(data[start:position])
        except ElementTree.ParseError as error:
            raise ValueError(f"damaged XML in the page that begins {data[start : start + 80]!r}: {error}") from None
        title, text = page.findtext("title") or "", page.findtext("revision/text") or ""
        url = f"{site.base}/{quote(title.replace(' ', '_'))}" if site.base else ""
        if page.findtext("ns", "0") != "0":
            yield "other_namespace"
        elif page.find("redirect") is not None or is_redirect(text):  # dumps before 2012 say it in the text only
            yield "redirect"
        else:
            yield Document(f"{site.prefix}{page.findtext('id')}", title, url, text)
