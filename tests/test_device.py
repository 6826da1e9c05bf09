"""Which device, and how fast it is."""

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
