"""C++ of this repository for Python: compiled at first use, and kept.

    library = native.library("cpu_ops.cpp")      # a ctypes.CDLL, or None where it cannot be compiled
    library.attention_forward(...)

The machine's own instructions are used, so a compiled file is for one processor, compiler and version of the source;
its name says which, and files of several machines may share a folder: NONLLAMA_CACHE, or ~/.cache/nonllama. Without a
C++ compiler (what CXX names, g++ or clang++) there is a note, and torch computes the same more slowly.
NONLLAMA_NATIVE=off has torch compute on purpose.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

import atomic

FOLDER = Path(__file__).resolve().parent
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-Wno-psabi")
COMPILERS = ("g++", "clang++")
LONGEST_S = 300  # it takes some seconds


@functools.cache
def library(source: str) -> ctypes.CDLL | None:
    """The functions of a source file of this folder; None, with a note on standard error, where it cannot be compiled.

    They release Python's lock while they run.
    """
    if os.environ.get("NONLLAMA_NATIVE") == "off":
        return None
    try:
        return ctypes.CDLL(str(compiled(FOLDER / source)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())[:300]
        print(f"note: {source} cannot be compiled here, torch computes instead: {reason}", file=sys.stderr)
        return None


def functions(source: str, arguments: dict[str, list]) -> ctypes.CDLL | None:
    """`library`, with the ctypes of each function's arguments: it then takes Python's numbers, and None for no address.

    No function returns anything.
    """
    loaded = library(source)
    if loaded is not None:
        for name, types in arguments.items():
            function = getattr(loaded, name)
            function.argtypes = types
            function.restype = None
    return loaded


def compiled(source: Path) -> Path:
    """The compiled file, made if it is not there. Raises OSError or SubprocessError when it cannot be made."""
    compiler = find_compiler()
    if compiler is None:
        raise OSError(f"there is no {' and no '.join(COMPILERS)}")
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=LONGEST_S, check=True).stdout
    made_of = [source.read_bytes(), version, " ".join(FLAGS).encode(), processor().encode()]
    digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()
    path = cache_folder() / f"{source.stem}-{digest[:16]}.so"

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # one of the processes of a node compiles, the others wait for it
        if path.is_file():
            return path
        with atomic.new_file(path) as temporary:
            command = [compiler, *FLAGS, str(source), "-o", str(temporary)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S)
            if done.returncode:
                raise OSError(f"{compiler}: {done.stderr.strip()}")
    return path


def find_compiler() -> str | None:
    """The C++ compiler of this machine; None when there is none."""
    for name in (os.environ.get("CXX"), *COMPILERS):
        if name and shutil.which(name):
            return name
    return None


def cache_folder() -> Path:
    """Where compiled files are kept."""
    chosen = os.environ.get("NONLLAMA_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache/nonllama"


def processor() -> str:
    """What -march=native depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return f"{platform.machine()} {platform.processor()}"
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    telling = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(telling)}))
