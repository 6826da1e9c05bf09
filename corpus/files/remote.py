"""Files at an address, s3://, gs://, hf://, https:// or whatever else fsspec knows: each is copied to this disk once.

A copy (corpus/files/copies.py) is used again while the address gives the same size and version. An interrupted copy is
continued where the other side can begin in the middle of a file, and begun anew where it cannot.
"""

import posixpath
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from corpus.files.copies import begin_anew, copies_folder, copy_path, local_copy

READ_BYTES = 8 << 20
SILENCE_S = 60  # after so many seconds without a byte the other side is given up
LONGEST_REASON = 200  # characters of the library's own message
AIOHTTP = "aiohttp==3.14.5"
# What a protocol needs beside fsspec.
PACKAGES = {
    "http": AIOHTTP,
    "https": AIOHTTP,
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "webdav": "webdav4[fsspec]",
}
# Where the protocols say which state of a file it is: a hash of its bytes, or when it was changed.
VERSION_KEYS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "blob_id"),
    *("LastModified", "Last-Modified", "last_modified", "mtime", "created"),
)


@dataclass(frozen=True)
class RemoteFile:
    """A file at an address."""

    address: str
    size_bytes: int | None  # None: the other side does not say
    version: str  # changes with the content; "": the other side does not say

    @property
    def state(self) -> list:
        """JSON that changes when the file does."""
        return [self.size_bytes, self.version]

    @property
    def copy_key(self) -> tuple[str, list]:
        """What names the copy on this disk: see copies.copy_path."""
        return address_path(self.address), [self.address, *self.state]


def is_address(source: str) -> bool:
    """Whether `source` is no path of this disk."""
    return "://" in source


def address_path(address: str) -> str:
    """The path in an address: "https://host/a/b.jsonl?x=1" -> "host/a/b.jsonl"."""
    parts = urlsplit(address)
    return f"{parts.netloc}{parts.path}"


def names_below(addresses: list[str]) -> list[str]:
    """The path of each address below the folder that all have in common."""
    paths = [address_path(address) for address in addresses]
    folder = posixpath.commonpath([posixpath.dirname(path) for path in paths])
    return [posixpath.relpath(path, folder) for path in paths]


@contextmanager
def one_line_for(address: str) -> Iterator[None]:
    """Turn whatever a protocol raises into a ValueError that names the address and the way out."""
    try:
        yield
    except Exception as error:
        while error.__cause__ is not None:  # fsspec calls a web server that does not answer a missing file
            error = error.__cause__
        if isinstance(error, FileNotFoundError) or getattr(error, "status", None) == 404:
            raise ValueError(f"{address}: no such file there") from None
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:LONGEST_REASON]
        advice = f"check the address, your rights and the network; the same command goes on: {copies_folder()} keeps"
        raise ValueError(f"{address}: cannot be read ({reason}); {advice} what was copied") from None


def open_system(source: str) -> tuple[Any, str]:
    """(fsspec's file system, the path in it) of an address. Raises ValueError that names the package to install."""
    import fsspec

    protocol = source.partition("://")[0].rpartition("::")[2]
    options: dict[str, Any] = {}
    try:
        if protocol in ("http", "https"):
            import aiohttp

            # A file is stored as it is: a server may call a .gz file an encoding, or pack what is plain.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
            headers = {"Accept-Encoding": "identity"}
            options["client_kwargs"] = {"auto_decompress": False, "headers": headers, "timeout": timeout}
        return fsspec.url_to_fs(source, **options)
    except ImportError as error:
        package = PACKAGES.get(protocol)
        # With its version, so that pip takes the package that fits fsspec, and not another fsspec.
        advice = f"pip install '{package}' fsspec=={fsspec.__version__}" if package else str(error)
        raise ValueError(f"{source}: {protocol}:// needs one more package: {advice}") from None
    except ValueError:
        known = ", ".join(f"{name}://" for name in ("https", "s3", "gs", "hf"))
        raise ValueError(f"{source}: {protocol}:// is not known; known are {known} and others of fsspec") from None


def find_remote(source: str) -> list[RemoteFile]:
    """The files that an address, or a pattern where the other side lists its folders, stands for, sorted."""
    system, path = open_system(source)
    with one_line_for(source):
        system.invalidate_cache()  # what was listed before may have changed
        is_pattern = "*" in path or "[" in path
        paths = sorted(system.glob(path)) if is_pattern else [path]
        infos = [system.info(path) for path in paths]

    files = [remote_file(system, info) for info in infos if info["type"] == "file"]
    if not files and is_pattern:
        advice = "check it; many web servers do not list their folders: there give one file by its full address"
        raise ValueError(f"{source}: no file has such an address; {advice}")
    if not files:
        folder = source.rstrip("/")
        raise ValueError(f"{source} is a folder; give a quoted pattern of its files, such as '{folder}/*.jsonl'")
    return files


def remote_file(system: Any, info: dict[str, Any]) -> RemoteFile:
    """The RemoteFile that fsspec describes."""
    versions = [str(info[key]) for key in VERSION_KEYS if info.get(key)]
    version = versions[0] if versions else ""
    return RemoteFile(system.unstrip_protocol(info["name"]), info.get("size"), version)


def copy_here(files: list[RemoteFile]) -> list[str]:
    """The paths of complete copies of `files`. Raises ValueError when the disk is too small, or a file is not had."""
    missing = [file for file in files if not copy_path(*file.copy_key).is_file()]
    if missing:
        needed = sum(file.size_bytes or 0 for file in missing)
        check_room(missing[0].address, needed)
        files_missing = "1 file" if len(missing) == 1 else f"{len(missing):,} files"
        print(f"copying {files_missing}, {needed / 1e6:,.1f} MB, to {copies_folder()}", flush=True)
    return [copy_file(file) for file in files]


def check_room(address: str, needed: int) -> None:
    """Raise ValueError unless `needed` bytes fit on the disk of the copies."""
    folder = copies_folder()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"{needed / 1e9:,.1f} GB are to be copied to {folder}, {free / 1e9:,.1f} GB are free there"
        raise ValueError(f"{address}: {sizes}; make room, or set NONLLAMA_CACHE to a folder on another disk")


def copy_file(file: RemoteFile) -> str:
    """The path of a complete copy of one file."""
    system, path = open_system(file.address)

    def write(copy: IO[bytes]) -> None:
        with one_line_for(file.address):
            with system.open(path, "rb", block_size=READ_BYTES) as remote:
                if copy.tell() and not (file.version and can_seek(remote, copy.tell())):
                    begin_anew(copy)
                bar = tqdm(total=file.size_bytes, desc="copy", unit="B", unit_scale=True, disable=None)
                with bar:
                    bar.update(copy.tell())
                    while chunk := remote.read(READ_BYTES):
                        copy.write(chunk)
                        bar.update(len(chunk))
            if file.size_bytes not in (None, copy.tell()):
                copied = copy.tell()
                if copied > file.size_bytes:
                    begin_anew(copy)
                raise EOFError(f"{copied:,} of {file.size_bytes:,} bytes came")

    return local_copy(*file.copy_key, write)


def can_seek(remote: Any, position: int) -> bool:
    """Go to a position of an open file, if that works."""
    try:
        return remote.seek(position) == position
    except (OSError, ValueError, NotImplementedError):
        return False
