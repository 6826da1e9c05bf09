"""What is read ahead of the loop, in a thread."""

import threading

import pytest
import torch

from batches import ReadAhead

CPU = torch.device("cpu")


def test_the_next_step_is_read_while_this_one_computes_and_no_further():
    read, done = [], threading.Event()

    def note(step):
        assert threading.current_thread() is not threading.main_thread()
        read.append(step)
        if step == 6:
            done.set()
        return 10 * step

    ahead = ReadAhead(note, 8, CPU)
    assert ahead.take(5) == 50
    assert done.wait(60), "step 6 is read before it is asked for"
    assert [ahead.take(step) for step in (6, 7)] == [60, 70]
    assert ahead.coming is None
    ahead.close()
    assert read == [5, 6, 7], "each once, and nothing after the last"


def test_an_error_is_that_of_the_step_that_it_is_in():
    def fail_at_2(step):
        if step == 2:
            raise ValueError("the shard is damaged")
        return step

    ahead = ReadAhead(fail_at_2, 5, CPU)
    assert ahead.take(1) == 1
    with pytest.raises(ValueError, match="the shard is damaged"):
        ahead.take(2)
    ahead.close()


def test_another_step_than_the_next_is_read_when_it_is_asked_for():
    ahead = ReadAhead(lambda step: step, 100, CPU)
    assert [ahead.take(step) for step in (3, 9, 4)] == [3, 9, 4]
    ahead.close()
