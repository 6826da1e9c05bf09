"""Which device, and how fast it is."""

import pytest
import torch

from device import free_memory, keep_freed_memory, peak_flops, pick_device


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


def test_freed_memory_is_kept_on_a_cpu_alone(allocator_calls):
    keep_freed_memory(torch.device("cuda"), same_sizes=True)
    assert not allocator_calls
    keep_freed_memory(torch.device("cpu"), same_sizes=True)
    assert allocator_calls == [(-4, 0), (-1, 2**31 - 1)]
    allocator_calls.clear()
    keep_freed_memory(torch.device("cpu"), same_sizes=False)
    assert allocator_calls == [(-3, 32 * 2**20), (-1, 2**31 - 1)]


def test_free_memory_is_the_least_that_the_system_says_or_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("device.CGROUP", tmp_path)
    whole = free_memory()
    assert whole is None or 10**6 < whole < 10**14

    (tmp_path / "memory.current").write_text("1000\n")
    for limit, expected in (("max\n", whole), ("5000\n", 4000), ("900\n", 0)):
        (tmp_path / "memory.max").write_text(limit)
        found = free_memory()
        assert found == expected or limit == "max\n"  # the machine's changes from moment to moment

    def refuse(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", refuse)
    (tmp_path / "memory.max").unlink()
    assert free_memory() is None
