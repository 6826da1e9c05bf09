"""Several processes as one: the process group, DDP and FSDP2, and the numbers on which all have to agree.

torchrun sets RANK, LOCAL_RANK and WORLD_SIZE; without them a run is a world of one process.
"""

import gc
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from model import Llama


class World:
    """The processes of a run: `size` of them, this one is number `rank`."""

    def __init__(self) -> None:
        self.size, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        self.local_rank, self.parent = int(os.environ.get("LOCAL_RANK", "0")), os.getppid()

    def start(self, device: torch.device) -> None:
        """Join the others: nccl between CUDA devices, gloo between CPUs; numbers of the host always go by gloo."""
        if self.size > 1:
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")

    def agree(self, *numbers: float) -> list[float]:
        """The sum of each number over all processes; no device waits for it."""
        return self.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def together(self, work: Callable, *args: Any) -> Any:
        """work(*args) in each process. An OSError or ValueError in one ends all: raised there, others leave quietly."""
        result = failure = None
        try:
            result = work(*args)
        except (OSError, ValueError) as error:
            failure = error
        if any(self.agree(failure is not None)):
            raise failure or SystemExit(1)
        return result

    def orphaned(self) -> bool:
        """Whether the launcher is gone: nobody would stop this process, and the next launch writes the same files."""
        return "TORCHELASTIC_RUN_ID" in os.environ and os.getppid() != self.parent

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor summed over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def stop(self) -> None:
        """Part from the others. DDP must be gone: as the last owner of the group its destructor, which holds the
        interpreter's lock, waits for gloo's thread, and that may wait for the lock (seen once: a run hung at its end).
        """
        if self.size > 1:
            gc.collect()
            dist.destroy_process_group()


def shard(model: Llama, device: torch.device, dtype: torch.dtype) -> None:
    """Divide the parameters of each block, and the rest together, among the processes (FSDP2, `fully_shard`).

    Blocks are gathered in `dtype` while they compute; the master weights, the gradients' sums, and the embedding, head
    and last norm stay float32, as does the stream between blocks: what autocast makes of DDP.
    """
    mesh = dist.device_mesh.init_device_mesh(device.type, (dist.get_world_size(),))
    low = dtype if dtype.itemsize < 4 else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=low and torch.float32, cast_forward_inputs=False)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


def replicate(model: torch.nn.Module, ids: torch.Tensor, precision: Callable) -> DistributedDataParallel:
    """DDP around the model, after a backward pass on `ids`, (B, T), that changes nothing.

    DDP lays out its buckets anew after the first pass, and three numbers or more are summed in an order that depends on
    where they lie: without this pass the first step after a restart would differ in its last bits.
    """
    parallel = DistributedDataParallel(model)
    with precision():
        loss = parallel(ids, ids)
    loss.backward()
    model.zero_grad(set_to_none=True)
    return parallel


def accumulating(model: torch.nn.Module, last: bool) -> AbstractContextManager:
    """Around one forward and backward pass: gradients go to the other processes after the last of a step only."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    if hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(last)
    return nullcontext()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor; of one that is divided every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, whole, in the host memory of process 0, one by one; every process must ask, others get none."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    fulls = ((name, whole(tensor.detach())) for name, tensor in tensors.items())
    return {name: full.cpu().contiguous() for name, full in fulls if first}


def put(target: torch.Tensor, full: torch.Tensor) -> None:
    """Copy a whole tensor, which every process has, into one that may be divided."""
    if isinstance(target, DTensor):
        full = distribute_tensor(full.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(full)
