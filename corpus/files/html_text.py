"""The main text of a web page: without menus, headers, footers, comments and scripts.

trafilatura (Barbaresi 2021, ACL demos 15; FineWeb's extractor) finds it. docs/data.md says what it was compared with.
"""

import codecs
import html
import re

PACKAGES = "trafilatura==2.3.1 lxml_html_clean==0.4.6"  # older pip does not find out that the first needs the second
TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
META_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?([\w:.-]+)""", re.IGNORECASE)
LONGEST_HEAD = 1 << 14  # bytes or characters in which a page says that it is one, and its charset
# What browsers read instead of the name that a page gives: the encoding that holds it (WHATWG, Encoding, 4.2).
BROADER = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
# Blanks and line breaks are of equal meaning in a page, but not here.
AS_WRITTEN = re.compile(r"(<(pre|textarea|script|style)\b.*?</\2\s*>)", re.IGNORECASE | re.DOTALL)


def require_package(path: str) -> None:
    """Raise ValueError with the line to type when the packages that read web pages are not installed."""
    try:
        import trafilatura  # noqa: F401
    except ImportError:
        raise ValueError(f"{path}: web pages need more packages: pip install {PACKAGES}") from None


def decode(page: bytes) -> str:
    """The characters of a page: as its byte-order mark says; UTF-8 if it is that; as <meta> says; else by a guess."""
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if page.startswith(mark):
            return page[len(mark) :].decode(encoding, "replace")

    # Valid UTF-8 is nearly never anything else, whatever <meta> says. ISO-2022-JP is: it has escape characters.
    if b"\x1b" not in page:
        try:
            return page.decode("utf-8")
        except UnicodeDecodeError:
            pass

    match = META_CHARSET.search(page, 0, LONGEST_HEAD)
    if match:
        try:
            name = codecs.lookup(match[1].decode()).name
            return page.decode(BROADER.get(name, name), "replace")
        except (LookupError, ValueError):
            pass  # no name of an encoding

    from charset_normalizer import from_bytes  # installed with trafilatura

    guess = from_bytes(page).best()
    return str(guess) if guess else page.decode("utf-8", "replace")


def collapse_blanks(page: str) -> str:
    """The page with one space for each run of blanks and line breaks, as browsers show it; <pre> stays as written."""
    pieces = AS_WRITTEN.split(page)
    # The groups of the pattern stand between the texts: text, <pre>...</pre>, "pre", text, ...
    texts, kept = pieces[::3], pieces[1::3]
    collapsed = [re.sub(r"\s+", " ", text) for text in texts]
    return "".join(text + between for text, between in zip(collapsed, [*kept, ""], strict=True))


def main_text(page: str) -> tuple[str, str]:
    """(title, main text) of a page; the text is "" where none is found."""
    import trafilatura

    match = TITLE.search(page)
    title = " ".join(html.unescape(match[1]).split()) if match else ""
    page = collapse_blanks(page)
    text = trafilatura.extract(page, include_comments=False)
    if text is None and "<html" not in page[:LONGEST_HEAD].lower():  # a lone <p> is nothing to it
        text = trafilatura.extract(f"<html><body>{page}</body></html>", include_comments=False)
    return title, text or ""
