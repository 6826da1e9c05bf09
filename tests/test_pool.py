"""corpus/pool.py: an interrupt stops the workers, also when another one follows."""

import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor

import pytest

from corpus.pool import worker_pool


def test_a_second_interrupt_waits_until_the_workers_have_ended(monkeypatch):
    signals = [signal.SIGINT]
    real = ProcessPoolExecutor.shutdown

    def shutdown(self, *args, **options):
        if signals:
            signal.raise_signal(signals.pop())
        real(self, *args, **options)

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", shutdown)
    with pytest.raises(KeyboardInterrupt, match="the first"), worker_pool(2, "killed") as submit:
        assert submit(abs, -1).result() == 1
        raise KeyboardInterrupt("the first")
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
