"""MediaWiki XML dumps (*-pages-articles*.xml, plain or compressed): cut into blocks of whole pages, read page by page.

A dump of one stream is decompressed and cut here, in one process, without being parsed; others parse and clean the
blocks. A multistream .bz2 is cut where its streams begin, and who parses a piece decompresses it.
"""

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from corpus.documents import Document
from corpus.files.compressed import Streams, open_compressed
from corpus.templates.expand import template_body
from corpus.templates.template_pages import TemplatePage, page_name
from corpus.wikitext import hidden_namespaces, is_redirect

READ_BYTES = 1 << 12  # of text, at once: where blocks are cut depends on it
STREAM = re.compile(rb"BZh[1-9]1AY&SY")  # how a bz2 stream begins: its level, and the mark of its first block
PAGE = b"<page>"
PAGE_END = b"</page>"
DUMP_END = b"</mediawiki>"
LANGUAGE = re.compile(rb"<mediawiki\b[^<>]*\bxml:lang=\"([\w-]+)\"")
FIRST_LINK = re.compile(r"\[\[([^\[\]|#]*)")
DATED = re.compile(r"(\w+)-(\d{8})-")  # enwiki-20231101-pages-articles.xml.bz2


@dataclass(frozen=True)
class Site:
    """What the head of a dump says: how ids and urls begin, and the namespaces whose links are no text."""

    prefix: str  # of ids: enwiki/20231101/
    wiki: str  # whose pages explain each other: enwiki/20231101, or enwiki where the files have no date
    base: str  # of urls: https://en.wikipedia.org/wiki
    hidden: frozenset[str]  # lower-case names of namespaces
    language: str = "en"  # of the wiki, as in its address
    template_names: frozenset[str] = frozenset({"template"})  # lower-case names of namespace 10
    date: datetime.date | None = None  # of the dump, as its file name says


# --- dumps of one stream, and other long files ---


def blocks(opened: tuple[Any, Any], size: int, mark: bytes, closing: bytes) -> Iterator[tuple[bytes, int, str]]:
    """Cut the decompressed bytes of a file into blocks of about `size` bytes, each up to the end of a `mark`.

    opened: (the file itself, a stream of its decompressed bytes); both are closed at the end.
    Yields (block, position in the file, failure): failure, in the last block only, says why the file ends there; it
    must hold `closing`. Of a damaged file all records before the damage are in the blocks.

    The text is read in chunks. When enough bytes wait and a mark is among them, a block ends after the last mark, and
    the rest waits for the next one:

        chunks       <page>a</pa | ge><page>b</page><pa | ge>c</page>...
        block 1      <page>a</page><page>b</page>
        waiting                                  <pa
    """
    raw, stream = opened
    offset = 0  # of what waits, in the decompressed text
    chunks: list[bytes] = []  # what waits
    waiting = 0  # bytes in them
    failure = ""
    with raw, stream:
        while True:
            try:
                chunk = stream.read(READ_BYTES)
            except OSError as error:
                chunk = b""
                failure = f"damaged near byte {offset + waiting:,} of its text: {error}"
            chunks.append(chunk)
            waiting += len(chunk)
            is_last = not chunk
            if not is_last and (waiting < size or mark not in chunk):
                continue

            data = b"".join(chunks)
            if is_last and not failure:
                end = len(data)
                if closing not in data:
                    failure = cut_off(offset, data)
            else:
                end = end_of_last(mark, data)
            if end > 0 or failure:
                yield data[:end], raw.tell(), failure
            if is_last:
                return

            offset += end
            chunks = [data[end:]]
            waiting = len(data) - end


def end_of_last(mark: bytes, data: bytes) -> int:
    """Where the last `mark` in `data` ends; 0 without one."""
    start = data.rfind(mark)
    return start + len(mark) if start >= 0 else 0


def cut_off(offset: int, data: bytes) -> str:
    """Says where a dump that has no end stops: `data`, at byte `offset` of the text, is the last of it."""
    titles = re.findall(rb"<title>(.*?)</title>", data)
    after = f", in or after the page '{titles[-1].decode(errors='replace')}'" if titles else ""
    return f"cut off at byte {offset + len(data):,} of its text{after}: there is no {DUMP_END.decode()}"


# --- the head of a dump ---


def read_site(path: str) -> Site:
    """The Site that the head of a dump describes. Raises ValueError for what is no dump, or not UTF-8."""
    head = read_head(path)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in head[:64]:
        raise ValueError(f"{path}: UTF-16 from byte 0; convert it first: iconv -f UTF-16 -t UTF-8")
    if b"<mediawiki" not in head[:4096]:
        raise ValueError(f"{path}: not a MediaWiki dump: no <mediawiki> at its beginning")

    match = re.search(rb"<siteinfo>.*?</siteinfo>", head, re.DOTALL)
    info = ElementTree.fromstring(match[0] if match else b"<siteinfo/>")
    file_name = Path(path).name
    dated = DATED.match(file_name)
    if dated:
        wiki, date = dated.groups()
    else:
        wiki, date = "wiki", file_name.split(".")[0]
    wiki = info.findtext("dbname") or wiki
    state = f"{wiki}/{date}" if dated else wiki

    base = (info.findtext("base") or "").rpartition("/")[0]
    names = [(entry.get("key"), entry.text or "") for entry in info.iter("namespace")]
    hidden = [name for key, name in names if key in ("-2", "6", "14")]
    template_names = {name.lower() for key, name in names if key == "10"}
    return Site(
        prefix=f"{wiki}/{date}/",
        wiki=state,
        base=base,
        hidden=hidden_namespaces(hidden),
        language=language_of(head, wiki),
        template_names=frozenset({"template", *template_names}),
        date=day(date),
    )


def language_of(head: bytes, wiki: str) -> str:
    """The language of a wiki as its dump says, or its name: "zhwiki" -> "zh"."""
    match = LANGUAGE.search(head)
    if match:
        return match[1].decode(errors="replace").lower()
    return wiki.removesuffix("wiki").replace("_", "-") or "en"


def day(date: str) -> datetime.date | None:
    """The day that "20231101" means; None for what means none."""
    try:
        return datetime.datetime.strptime(date, "%Y%m%d").date()
    except ValueError:
        return None


def read_head(path: str) -> bytes:
    """The beginning of a dump, up to its first page or 1 MB."""
    head = b""
    raw, stream = open_compressed(path)
    with raw, stream:
        try:
            while len(head) < 1 << 20 and PAGE not in head:
                chunk = stream.read(READ_BYTES)
                if not chunk:
                    break
                head += chunk
        except OSError as error:
            raise ValueError(f"{path}: damaged near byte {len(head)}, before its first page: {error}") from None
    return head


# --- multistream dumps ---


def streams(path: str, size: int) -> list[tuple[int, int]]:
    """(start, end) of the compressed bytes of runs of bz2 streams, each of `size` bytes or more but the last.

    A file of one stream has none.
    """
    starts = []  # of the streams
    end = 0  # of what was read
    data = b""
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            data = data[-9:] + chunk  # the ten bytes that begin a stream may be cut by the reading
            end += len(chunk)
            data_start = end - len(data)
            starts += [data_start + match.start() for match in STREAM.finditer(data)]
    if len(starts) < 2:
        return []

    cuts = [0]
    for start in starts:
        if start - cuts[-1] >= size:
            cuts.append(start)
    return list(zip(cuts, [*cuts[1:], end], strict=True))


def read_streams(path: str, start: int, end: int) -> tuple[bytes, int, str]:
    """(data, limit, failure): the decompressed streams of [start, end), whose pages begin before data[limit].

    More streams follow in `data` where the last page goes on in them: pbzip2 and its like cut anywhere. failure: why
    the file ends there, or "".

        data       ...</page> <page> ... | ... </page> <page> ...
                              ^          ^ limit: here the streams of [start, end) end
                              the last page of this piece; the one behind the limit belongs to the next piece
    """
    data = bytearray()
    limit = None
    failure = ""
    with open(path, "rb") as file:
        file.seek(start)
        streams = Streams(file, "bz2")
        try:
            while streams.more():
                if streams.position() >= end:
                    if limit is None:
                        limit = len(data)
                    if not goes_on(data, limit):
                        return bytes(data), limit, ""
                for text in streams.stream():
                    data += text
            # At the end of the file. What is left of a dump's last stream may be no more than "wiki>".
            if DUMP_END not in data and not DUMP_END.endswith(data.strip()):
                failure = cut_off(0, bytes(data))
        except OSError as error:
            failure = f"damaged near byte {streams.position():,}: {error}"
    if limit is None:
        limit = len(data)
    return bytes(data), limit, failure


def goes_on(data: bytearray, limit: int) -> bool:
    """Whether a page that begins before data[limit] does not end in `data`, or may begin with the last bytes of it."""
    for k in range(1, len(PAGE)):  # <, <p, <pa ... at the end: it may become <page> in the next stream
        if data.endswith(PAGE[:k]) and len(data) - k < limit:
            return True
    last_page = data.rfind(PAGE, 0, limit + len(PAGE) - 1)  # it may begin right before the limit
    return last_page >= 0 and data.find(PAGE_END, last_page) < 0


# --- pages ---


def pages(data: bytes, limit: int, site: Site) -> Iterator[Document | TemplatePage | str]:
    """The pages that begin before data[limit]: articles, in wikitext, templates, or the name of what else a page is.

    Raises ValueError for a page that is no XML.
    """
    position = 0
    while True:
        start = data.find(PAGE, position)
        if not 0 <= start < limit:
            return
        end = data.find(PAGE_END, start)
        if end < 0:
            return  # the file is cut off here
        position = end + len(PAGE_END)
        try:
            page = ElementTree.fromstring(newest_revision(data[start:position]))
        except ElementTree.ParseError as error:
            raise ValueError(f"damaged XML in the page that begins {data[start : start + 80]!r}: {error}") from None
        yield article_or_kind(page, site)


def newest_revision(page: bytes) -> bytes:
    """`page` without its older revisions, if it has several; one whose text was deleted counts only without another.

    They are cut before anything is parsed: a page's whole history as a tree would take some five times its bytes.

        <page><title>T</title> <revision>of 2001</revision> <revision>of 2024</revision> </page>
                               ^ starts[0]                  ^ starts[1]                  ^ end
    """
    starts = [match.start() for match in re.finditer(b"<revision>", page)]
    if len(starts) < 2:
        return page
    end = page.rindex(b"</revision>") + len(b"</revision>")
    revisions = [page[start:stop] for start, stop in zip(starts, [*starts[1:], end], strict=True)]
    newest = max(enumerate(revisions), key=lambda numbered: (revision_order(numbered[1]), numbered[0]))[1]
    return page[: starts[0]] + newest + page[end:]


def revision_order(revision: bytes) -> tuple[bool, bytes, int]:
    """What is greater for a newer revision: whether it has its text, its timestamp, its number."""
    deleted = re.search(rb'<text[^>]* deleted="deleted"', revision)
    timestamp = re.search(rb"<timestamp>([^<]*)", revision)
    number = re.search(rb"<id>(\d+)", revision)
    return (
        deleted is None,
        timestamp[1].strip() if timestamp else b"",  # 2024-01-01T00:00:00Z: in the order of time as text
        int(number[1]) if number else 0,
    )


def article_or_kind(page: ElementTree.Element, site: Site) -> Document | TemplatePage | str:
    """The article or the template of a <page>; for another page "other_namespace" or "redirect"."""
    title = page.findtext("title") or ""
    text = page.findtext("revision/text") or ""
    namespace = page.findtext("ns", "0")
    if namespace == "10":
        return template_page(page, title, text)
    if namespace != "0":
        return "other_namespace"
    if page.find("redirect") is not None or is_redirect(text):  # dumps before 2012 say it in the text only
        return "redirect"
    url = f"{site.base}/{quote(title.replace(' ', '_'))}" if site.base else ""
    edited = (page.findtext("revision/timestamp") or "").strip()[:10]
    return Document(f"{site.prefix}{page.findtext('id')}", title, url, text, edited=edited)


def template_page(page: ElementTree.Element, title: str, text: str) -> TemplatePage:
    """The page of a template, without the name of its namespace."""
    name = page_name(title.partition(":")[2])
    redirect = page.find("redirect")
    if redirect is not None:
        target = redirect.get("title", "")
    elif is_redirect(text):  # dumps before 2012 say it in the text only
        target = FIRST_LINK.search(text)[1]
    else:
        return TemplatePage(name, template_body(text), "")
    return TemplatePage(name, "", page_name(target.partition(":")[2]))
