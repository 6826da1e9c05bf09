"""Which device, and how fast it is."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from device import peak_flops, pick_device


def test_a_device_without_numbers_is_refused():
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="--device=meta holds shapes and no numbers; choose cpu"):
        pick_device("meta")


def test_peaks_go_by_the_name_of_the_device(monkeypatch):
    peaks = {
        "NVIDIA H100 80GB HBM3": 989e12,
        "NVIDIA H100 PCIe": 756e12,
        "NVIDIA A100-SXM4-40GB": 312e12,
        "NVIDIA A10": 125e12,
        "Tesla K80": None,
    }
    for name, peak in peaks.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        assert peak_flops(torch.device("cuda")) == peak
    assert peak_flops(torch.device("cpu")) is None


FREED_AGAIN_AND_AGAIN = """
import resource
import sys

import torch

from device import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory(torch.device("cpu"))
for turn in range(8):
    if turn == 3:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [torch.ones(5_000_000) for _ in range(6)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is kept by a call of glibc")
def test_freed_memory_is_kept_for_the_next_arrays():
    """Six arrays of 20 MB are 29,000 pages of 4 KiB; by default five turns of them are given new ones each time."""
    faults = {}
    for how in ("kept", "given back"):
        command = [sys.executable, "-c", FREED_AGAIN_AND_AGAIN, how]
        root = Path(__file__).parents[1]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        faults[how] = int(done.stdout)
    assert 10 * faults["kept"] < faults["given back"], faults
