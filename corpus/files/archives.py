"""The files inside a .zip or .tar archive, read where they are: nothing is unpacked to this disk."""

import io
import lzma
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from corpus.pool import read_cached
from errors import one_line

DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)
ENCRYPTED = 1  # bit of a zip member's flags


class MemberStream(io.RawIOBase):
    """The bytes of a member. Damage is an OSError, as it is in a plain file."""

    def __init__(self, stream: io.BufferedIOBase):
        self.stream = stream
        self.position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        try:
            data = self.stream.read(len(buffer))
        except DAMAGE as error:
            raise OSError(str(error)) from None
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


@dataclass(frozen=True)
class Archive:
    """An open archive and what it holds."""

    file: zipfile.ZipFile | tarfile.TarFile
    members: dict[str, zipfile.ZipInfo | tarfile.TarInfo]  # by name; of two with one name the last

    def size_bytes(self, name: str) -> int:
        """How long a member is when it is unpacked."""
        info = self.members[name]
        return info.file_size if isinstance(info, zipfile.ZipInfo) else info.size

    def is_encrypted(self, name: str) -> bool:
        """Whether a password is needed to read a member."""
        info = self.members[name]
        return isinstance(info, zipfile.ZipInfo) and bool(info.flag_bits & ENCRYPTED)

    def open(self, name: str) -> io.BufferedReader:
        """The bytes of a member. Raises OSError where they are damaged."""
        info = self.members[name]
        try:
            if isinstance(self.file, zipfile.ZipFile):
                stream = self.file.open(info)
            else:
                stream = self.file.extractfile(info)
        except DAMAGE as error:
            raise OSError(str(error)) from None
        return io.BufferedReader(MemberStream(stream))


def open_archive(path: str) -> Archive:
    """The archive, opened once in each process. Raises ValueError for what is none."""
    return read_cached(_open_archive, Path(path))


def _open_archive(path: Path) -> Archive:
    with one_line(f"{path}: not an archive, or cut off: ", *DAMAGE, OSError, ValueError):
        if path.suffix.lower() == ".tar":
            tar = tarfile.open(path, "r:")
            return Archive(tar, {info.name: info for info in tar.getmembers() if info.isfile() and is_shown(info.name)})
        packed = zipfile.ZipFile(path)
        return Archive(
            packed,
            {info.filename: info for info in packed.infolist() if not info.is_dir() and is_shown(info.filename)},
        )


def is_shown(name: str) -> bool:
    """Whether no part of a path is hidden, as `.DS_Store`; `__MACOSX/` holds what macOS notes about files."""
    return not any(part == "__MACOSX" or part.startswith(".") and part != ".." for part in PurePosixPath(name).parts)
