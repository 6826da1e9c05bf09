"""Compressed files, read to the last byte before a damaged place: .gz, .bz2 and .zst, of one stream or many.

`zcat`, `bzcat` and `zstd -dc` write what they can of a file that is cut off, and so do these. (pyarrow's stream, and
Python's gzip module, lose what is in their hands when they meet the damage.) Zero bytes behind the last stream of a
.gz or .bz2 file are padding, which some writers and tapes leave.
"""

import bz2
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

COMPRESSION = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
# Compressed bytes that are read at once. Of bz2 few: a damaged place costs the blocks (100 to 900 kB of text) that end
# in the same bytes. Nearly always that is the damaged block alone, which is left out: its checksum is wrong.
READ_BYTES = {"gzip": 1 << 16, "bz2": 1 << 11, "zstd": 1 << 16}
WRITE_BYTES = 1 << 18  # decompressed at once, of gzip: few bytes can hold gigabytes of zeros
SIPS = 1 << 18  # compressed bytes before a damaged place of a .zst file, which are read again one by one


def open_compressed(path: str) -> tuple[IO[bytes], IO[bytes]]:
    """(the file itself, a stream of its bytes, decompressed as its name says).

    A read of the stream raises OSError at a damaged place, but not before all that stands before it was read.
    """
    raw = open(path, "rb")
    return raw, decompressed(raw, path)


def decompressed(raw: IO[bytes], name: str) -> IO[bytes]:
    """A stream of the bytes of the file `raw`, decompressed as `name` says. Closing it closes the file."""
    codec = COMPRESSION.get(Path(name).suffix.lower())
    if codec is None:
        return raw
    pieces = zstd_pieces(raw) if codec == "zstd" else Streams(raw, codec).pieces()
    return Decompressed(pieces, raw)


# --- gzip and bz2 ---


class Streams:
    """The streams of a .gz file (its format calls them members) or a .bz2 file, one after the other."""

    def __init__(self, file: IO[bytes], codec: str):
        self.file = file
        self.codec = codec
        self.ahead = b""  # what was read and is not decompressed yet

    def position(self) -> int:
        """The place in the file up to which it is decompressed."""
        return self.file.tell() - len(self.ahead)

    def pieces(self) -> Iterator[bytes]:
        """The decompressed bytes of all streams. Raises OSError at a damaged place."""
        while self.more():
            yield from self.stream()

    def more(self) -> bool:
        """Whether the file goes on with something else than zero bytes."""
        while True:
            self.ahead = self.ahead or self.file.read(READ_BYTES[self.codec])
            if not self.ahead:
                return False
            if self.ahead[0]:  # before lstrip, which copies
                return True
            self.ahead = self.ahead.lstrip(b"\0")

    def stream(self) -> Iterator[bytes]:
        """The decompressed bytes of the next stream. Raises OSError at a damaged place."""
        begin = {"gzip": begin_gzip, "bz2": begin_bz2}[self.codec]
        decompressor, decompress_some = begin()
        while not decompressor.eof:
            self.ahead = self.ahead or self.file.read(READ_BYTES[self.codec])
            if not self.ahead:
                raise OSError(f"it ends inside a {self.codec} stream")
            yield from decompress_some(decompressor, self.ahead)
            self.ahead = decompressor.unused_data


def begin_gzip() -> tuple[Any, Callable]:
    """A decompressor of one gzip stream, and the function that feeds it."""
    return zlib.decompressobj(wbits=31), inflate


def begin_bz2() -> tuple[Any, Callable]:
    """A decompressor of one bz2 stream, and the function that feeds it."""
    return bz2.BZ2Decompressor(), decompress_bz2


def inflate(decompressor: Any, data: bytes) -> Iterator[bytes]:
    """Feed `data` to a decompressor of gzip. What an error would lose is decompressed again, byte by byte."""
    is_full = False
    while (data or is_full) and not decompressor.eof:
        before = decompressor.copy()  # some 40 kB, 1 % of the time
        try:
            piece = decompressor.decompress(data, WRITE_BYTES)
        except zlib.error:
            yield from inflate_bytes(before, data)
            raise AssertionError("no error the second time") from None
        is_full = len(piece) == WRITE_BYTES  # there may be more, also when all data was taken
        data = decompressor.unconsumed_tail
        yield piece


def inflate_bytes(decompressor: Any, data: bytes) -> Iterator[bytes]:
    """Feed `data` byte by byte, up to the one that raises OSError."""
    for i in range(len(data)):
        try:
            piece = decompressor.decompress(data[i : i + 1])
        except zlib.error as error:
            raise OSError(str(error)) from None
        yield piece


def decompress_bz2(decompressor: bz2.BZ2Decompressor, data: bytes) -> Iterator[bytes]:
    """Feed `data` to a decompressor of bz2, which gives whole blocks. Raises OSError at a damaged one."""
    yield decompressor.decompress(data)


# --- zstd ---


class Source:
    """A file that pyarrow's stream reads and does not close.

    single_from: the place behind which it gives single bytes, so that who decompresses them is never far ahead.
    """

    closed = False

    def __init__(self, file: IO[bytes], single_from: int | None = None):
        self.file = file
        self.single_from = single_from

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        if self.single_from is not None:
            size = min(size, max(1, self.single_from - self.file.tell()))
        return self.file.read(size)

    def close(self) -> None:
        """Nothing."""


def zstd_pieces(file: IO[bytes]) -> Iterator[bytes]:
    """The decompressed bytes of a .zst file. Raises OSError at a damaged place, after all that is before it.

    pyarrow's stream loses what it holds when it meets the damage. Then the file is read again from its beginning (a
    gigabyte takes a second or two), in single bytes where the damage is near. Inside an archive that cannot be done.
    """
    stream = pa.CompressedInputStream(pa.PythonFile(Source(file), "r"), "zstd")
    given = 0
    try:
        while piece := stream.read(READ_BYTES["zstd"]):
            given += len(piece)
            yield piece
        return
    except OSError:
        if not file.seekable():
            raise
        damaged = file.tell()  # or somewhat before

    file.seek(0)
    stream = pa.CompressedInputStream(pa.PythonFile(Source(file, damaged - SIPS), "r"), "zstd")
    while given:
        given -= len(stream.read(min(given, READ_BYTES["zstd"])))
    while piece := stream.read(1):
        yield piece


# --- as a file ---


class Decompressed(io.BufferedIOBase):
    """Pieces of bytes, read as a file. An OSError of theirs comes when all pieces before it were read."""

    def __init__(self, pieces: Iterator[bytes], file: IO[bytes]):
        self.pieces = pieces
        self.file = file  # closed with this one
        self.piece = io.BytesIO()  # what is read now
        self.error: OSError | None = None

    def readable(self) -> bool:
        """True."""
        return True

    def read1(self, size: int = -1) -> bytes:
        """Some bytes, at most `size` if it is not below 0; none at the end."""
        while True:
            data = self.piece.read(size)
            if data or size == 0 or not self._next_piece():
                return data

    def read(self, size: int | None = -1) -> bytes:
        """`size` bytes, less at the end or before a damaged place; all if `size` is below 0 or None."""
        if size is None or size < 0:
            return b"".join(iter(self.read1, b""))
        data = self.piece.read(size)
        if len(data) == size:  # nearly always
            return data

        parts = [data]
        missing = size - len(data)
        while missing:
            try:
                data = self.read1(missing)
            except OSError:
                if missing == size:
                    raise
                break
            if not data:
                break
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Close the file that the pieces come from as well."""
        self.file.close()
        super().close()

    def _next_piece(self) -> bool:
        if self.error is not None:
            raise self.error
        try:
            piece = next(self.pieces, None)
        except OSError as error:
            self.error = error
            raise
        self.piece = io.BytesIO(piece or b"")
        return piece is not None
