"""Kill a data job with kill -9 before each rename, in forked processes, and compare what a rerun leaves behind."""

import contextlib
import io
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import atomic
import dedup
from corpus import sources


def in_child(run: Callable[[Path], None], out: Path, kill_at: int | None = None) -> int:
    """run(out) in a forked process that kills itself before its kill_at-th rename; returns the wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    rmtree = shutil.rmtree
    calls = 0

    def counted(real):
        def rename(*args, **kwargs):
            nonlocal calls
            calls += real is not rmtree or Path(args[0]).name == "tokens"
            if calls == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return rename

    os.replace, os.rename, shutil.rmtree = map(counted, (os.replace, os.rename, rmtree))
    with contextlib.redirect_stdout(io.StringIO()):
        run(out)
    os._exit(0)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the one with the seconds."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "times.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def kill_everywhere(run: Callable[[Path], None], base: Path, part_bytes: int = 1) -> None:
    """Print a line for each kill after which the rerun leaves other bytes, and at last the number of kills."""
    sources.PART_BYTES = part_bytes
    atomic._fsync = lambda path: None
    dedup.plot = lambda report, path: path.write_text("no picture")

    assert in_child(run, base / "reference") == 0
    wanted = tree(base / "reference")
    kills = 0
    for k in range(1, 1000):
        out = base / f"{k}"
        status = in_child(run, out, kill_at=k)
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        kills += 1
        complete = (out / "meta.json").exists()
        assert in_child(run, out) == 0, f"the rerun after kill {k} failed"
        found = tree(out)
        differing = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
        if differing:
            print(f"after kill {k} (meta.json there: {complete}): {differing}")
    print("kills", kills)
