"""Compressed files give all that comes before a damaged place, and all of a whole file."""

import bz2
import gzip
import io
import random
import shutil
import subprocess
import zlib
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from corpus.files.compressed import READ_BYTES, WRITE_BYTES, Decompressed, open_compressed

PACK = {
    ".gz": gzip.compress,
    ".bz2": lambda data: bz2.compress(data, 1),
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}
TOOLS = {".gz": ["zcat"], ".bz2": ["bzcat"], ".zst": ["zstd", "-dc", "-q"]}


def sample(size: int) -> bytes:
    """Text of few words: it is packed to a quarter or so."""
    draw = random.Random(size)
    words = [draw.randbytes(draw.randint(1, 4)).hex() for _ in range(5000)]
    return " ".join(draw.choices(words, k=size // 5)).encode()[:size]


def read_all(path: Path, size: int = 4096) -> tuple[bytes, str]:
    """(What is read, why no more is, or "")."""
    parts = []
    raw, stream = open_compressed(str(path))
    with raw, stream:
        try:
            while part := stream.read(size):
                parts.append(part)
        except OSError as error:
            return b"".join(parts), str(error) or "no words"
    return b"".join(parts), ""


def by_single_bytes(data: bytes, suffix: str) -> bytes:
    """What Python's decompressor gives when it gets one byte after the other, up to an error."""
    decompressor = zlib.decompressobj(31) if suffix == ".gz" else bz2.BZ2Decompressor()
    parts = []
    for i in range(len(data)):
        try:
            parts.append(decompressor.decompress(data[i : i + 1]))
        except (zlib.error, OSError):
            break
    return b"".join(parts)


@pytest.mark.parametrize("size", [1, 1000, 5000, 1 << 20])
@pytest.mark.parametrize("suffix", PACK)
def test_a_whole_file_of_several_streams_is_read_in_any_steps(tmp_path, suffix, size):
    texts = [sample(300_000), b"", bytes(3_000_000), b"end"]  # 3 MB of zeros are a few bytes
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"".join(map(PACK[suffix], texts)))
    steps = size if size > 1 else 1000
    assert read_all(path, steps) == (b"".join(texts), "")
    _, stream = open_compressed(str(path))
    with stream:
        assert stream.read() == b"".join(texts) and stream.read() == b""


@pytest.mark.parametrize("zeros", [1, 511, 200_000])
@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_zero_bytes_behind_the_last_stream_are_padding(tmp_path, suffix, zeros):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](b"first ") + PACK[suffix](b"second") + bytes(zeros))
    assert read_all(path) == (b"first second", "")
    path.write_bytes(PACK[suffix](b"first ") + bytes(zeros) + PACK[suffix](b"second"))
    assert read_all(path) == (b"first second", "")


@pytest.mark.parametrize("suffix", PACK)
def test_what_is_no_stream_behind_the_last_one_is_damage(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](b"first") + b"\0\0\0junk that is no stream")
    text, failure = read_all(path)
    assert text == b"first" and failure


@pytest.mark.parametrize("missing", [1, 9, 200, 50_000])
@pytest.mark.parametrize("suffix", PACK)
def test_of_a_file_cut_off_everything_before_the_cut_is_read(tmp_path, suffix, missing):
    """As much as the tool writes that a person would use, and as Python's own decompressor gives."""
    text = sample(500_000)
    data = PACK[suffix](text)[:-missing]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    found, failure = read_all(path)
    assert failure and text.startswith(found)
    if suffix != ".zst":
        assert found == by_single_bytes(data, suffix)
    if shutil.which(TOOLS[suffix][0]):
        tool = subprocess.run([*TOOLS[suffix], str(path)], capture_output=True)
        assert len(found) >= len(tool.stdout) and text.startswith(tool.stdout)


def bz2_blocks(data: bytes) -> list[tuple[int, int]]:
    """Of each block (its end in the file, about; where its text ends)."""
    decompressor = bz2.BZ2Decompressor()
    blocks, text_end = [], 0
    for end in range(16, len(data) + 16, 16):
        text = decompressor.decompress(data[end - 16 : end])
        text_end += len(text)
        if text:
            blocks.append((end, text_end))
    return blocks


@pytest.mark.parametrize("suffix", PACK)
@examples(30)
@given(place=st.floats(0.01, 0.99), steps=st.sampled_from([100, 4096, 1 << 20]))
def test_of_a_file_with_a_flipped_byte_everything_before_it_is_read(tmp_path_factory, suffix, place, steps):
    text = sample(500_000)
    data = bytearray(PACK[suffix](text))
    place = int(place * len(data))
    data[place] ^= 0x55
    path = tmp_path_factory.mktemp("flipped") / f"a{suffix}"
    path.write_bytes(data)
    found, failure = read_all(path, steps)

    if suffix == ".gz":
        assert found == by_single_bytes(data, suffix) and failure
    elif suffix == ".bz2":  # all blocks that end before the damage, and not the block with the damage
        before = [text_end for end, text_end in bz2_blocks(PACK[suffix](text)) if end < place - READ_BYTES["bz2"]]
        whole = before[-1] if before else 0
        assert found.startswith(text[:whole]) and len(found) < whole + 150_000 and failure
    else:  # blocks of 128 kB; the one before may take part of the damage
        whole = int(max(0, place / len(data) * len(text) - (256 << 10)))
        assert found.startswith(text[:whole])


def test_a_stream_raises_its_error_after_what_comes_before_it():
    def pieces():
        yield b"abc"
        yield b"defg"
        raise OSError("damaged here")

    stream = Decompressed(pieces(), io.BytesIO())
    assert stream.read(2) == b"ab" and stream.read(100) == b"cdefg"
    for _ in range(2):
        with pytest.raises(OSError, match="damaged here"):
            stream.read(1)
    with pytest.raises(OSError, match="damaged here"):
        Decompressed(pieces(), io.BytesIO()).read()
    lines = io.TextIOWrapper(Decompressed(pieces(), io.BytesIO()))
    with pytest.raises(OSError, match="damaged here"):
        lines.readline()


def test_few_bytes_that_hold_much_text_are_read_in_small_pieces(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(bytes(50_000_000)))
    assert path.stat().st_size < 60_000
    raw, stream = open_compressed(str(path))
    with raw, stream:
        assert max(map(len, stream.pieces)) <= WRITE_BYTES
