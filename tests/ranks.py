"""Runs of several processes without torchrun: a launch takes a tenth of a second, not eight.

    finished(2, {"max_iters": 20, ...}, {"float64": True})      two ranks of train.py, with a fault of odd_train.py
    finished(0, {"max_iters": 20, ...})                         one process, as under `python train.py`

A server process imports torch and train.py once and computes nothing, so that forking it is safe (the `forkserver` of
the standard library). For each launch it forks a launcher, which does what torchrun does: it forks the ranks, hands
SIGTERM on to them, and ends all when one has failed.
"""

import contextlib
import gc
import multiprocessing
import multiprocessing.forkserver
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import odd_train
import psutil
import torch._dynamo  # noqa: F401  (0.6 s in each process that makes a model)
import torch.distributed as dist
from tqdm import tqdm

import configurator
import train

TESTS = Path(__file__).parent
STOP_WAIT_S = 30  # from SIGTERM to SIGKILL, as torchrun waits
FORKED = multiprocessing.get_context("forkserver")


@dataclass
class Done:
    """A launch that has ended."""

    returncode: int  # of the launcher: 0, 1 when a rank has failed, or -9 when it was killed
    codes: dict[int, int]  # exit code of each rank, as far as the launcher saw it; -9: killed
    stdout: str
    stderr: str


class Launch:
    """`processes` ranks that run task(*args), in the background; 0 is one process without a launcher.

    The task is pickled by name: a function at the top of a module in tests/.
    """

    def __init__(self, processes: int, task: Callable, *args: Any):
        start_server()
        self.folder = Path(tempfile.mkdtemp(prefix="ranks-"))  # what the ranks print, and their exit codes
        self.launcher = FORKED.Process(target=launch, args=(processes, self.folder, task, *args))
        self.launcher.start()

    def wait(self, timeout_s: float = 300) -> Done:
        """Wait for the launcher to end; to be called once. Ranks outlive a launcher that was killed."""
        self.launcher.join(timeout_s)
        if self.launcher.exitcode is None:
            ranks = psutil.Process(self.launcher.pid).children(recursive=True)
            self.launcher.kill()
            for rank in ranks:
                rank.kill()
            raise TimeoutError(f"the ranks did not end in {timeout_s} s: {self.printed('stderr')[-3000:]}")
        codes = {int(path.stem): int(path.read_text()) for path in self.folder.glob("*.code")}
        done = Done(self.launcher.exitcode, codes, self.printed("stdout"), self.printed("stderr"))
        shutil.rmtree(self.folder)
        return done

    def printed(self, stream: str) -> str:
        """What all ranks have written to "stdout" or "stderr" so far."""
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"*.{stream}")))


def start(processes: int, settings: dict[str, Any], faults: dict[str, Any] | None = None) -> Launch:
    """A run of train.py with these settings and faults, in the background."""
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
    return Launch(processes, train_with_faults, plain, faults or {})


def finished(processes: int, settings: dict[str, Any], faults: dict[str, Any] | None = None) -> str:
    """What a run that must succeed prints."""
    done = start(processes, settings, faults).wait()
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def start_server() -> None:
    """Start the process that launches are forked from, unless it runs already."""
    FORKED.set_forkserver_preload(["ranks", "conftest"])
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = f"{TESTS.parent}:{TESTS}"
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def launch(processes: int, folder: Path, task: Callable, *args: Any) -> None:
    """The launcher's process: fork the ranks, and exit with 1 when one has failed.

    A rank returns from here (or raises) as well; multiprocessing makes its exit code of that.
    """
    gc.freeze()  # no collection looks through the modules that all share
    if processes == 0:
        become_rank(0, {}, folder)
        return task(*args)

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    variables = {
        "WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_USE_AGENT_STORE": True,  # the ranks meet at the launcher's store
    }
    ranks: dict[int, int] = {}  # process id -> rank
    for rank in range(processes):
        pid = os.fork()
        if pid == 0:
            become_rank(rank, variables, folder)
            return task(*args)
        ranks[pid] = rank

    # after the forks, for the store has a thread
    store = dist.TCPStore("127.0.0.1", port, None, True, wait_for_workers=False, master_listen_fd=listener.detach())
    failed = supervise(ranks, folder)
    del store
    sys.exit(int(failed))


def supervise(ranks: dict[int, int], folder: Path) -> bool:
    """Wait for all ranks, noting their exit codes, and end the others when one has failed. Returns whether one has."""

    def send(number: int) -> None:
        for pid in ranks:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, number)

    signal.signal(signal.SIGTERM, lambda number, frame: send(signal.SIGTERM))
    signal.signal(signal.SIGALRM, lambda number, frame: send(signal.SIGKILL))

    failed = False
    while ranks:
        pid, status = os.wait()
        rank = ranks.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        (folder / f"{rank}.code").write_text(str(code))
        if code != 0 and not failed:
            failed = True
            send(signal.SIGTERM)
            signal.alarm(STOP_WAIT_S)
    return failed


def become_rank(rank: int, variables: dict[str, Any], folder: Path) -> None:
    """Give this process the environment of a rank, and its output to files of its own."""
    if variables:
        variables = variables | {"RANK": rank, "LOCAL_RANK": rank}
    os.environ.update({name: str(value) for name, value in variables.items()})
    for descriptor, stream in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / f"{rank}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    tqdm.set_lock(threading.RLock())  # its usual one is a semaphore that a killed process leaves behind


def train_with_faults(settings: dict[str, Any], faults: dict[str, Any]) -> None:
    """What `python train.py` does, errors and exit codes included; the settings are not read from a command line."""
    odd_train.apply(faults)
    cfg = train.TrainConfig(**settings)
    configurator.load = lambda *args, **options: (cfg, {})
    configurator.run(train.main, train.TrainConfig)
