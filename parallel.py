"""Several processes as one: the process group, DDP and FSDP2, and the numbers on which all have to agree.

torchrun sets RANK, LOCAL_RANK and WORLD_SIZE; without them a run is a world of one process.
"""

import gc
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from model import Llama

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class World:
    """The processes of a run: `size` of them, this one is number `rank`."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.launcher = os.getppid()  # under torchrun

    def start(self, device: torch.device) -> None:
        """Join the other processes: nccl between CUDA devices, gloo between CPUs and for numbers of the host."""
        if self.size > 1:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend)

    def stop(self) -> None:
        """Leave the other processes.

        DDP must be gone before: its destructor, as the last owner of the group, holds the interpreter's lock and waits
        for gloo's thread, which may wait for that lock (seen once: a run hung at its end).
        """
        if self.size > 1:
            gc.collect()
            dist.destroy_process_group()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor summed over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_numbers(self, *numbers: float) -> list[float]:
        """The sum of each number over all processes. It goes through the host: no device is waited for."""
        totals = self.sum(torch.tensor(numbers, dtype=torch.float64))
        return totals.tolist()

    def gather(self, value: Any) -> list[Any]:
        """The value of each process, in the order of ranks; every process must call it."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def all_succeed(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """work(*args, **kwargs) in each process; every process must call it.

        An OSError or ValueError in one process ends all of them: it is raised where it happened, the others exit with
        code 1 and no message, instead of waiting for a process that will not come.
        """
        result = failure = None
        try:
            result = work(*args, **kwargs)
        except (OSError, ValueError) as error:
            failure = error

        (failures,) = self.sum_numbers(failure is not None)
        if failure is not None:
            raise failure
        if failures > 0:
            raise SystemExit(1)
        return result

    def orphaned(self) -> bool:
        """Whether torchrun is gone: nobody would stop this process, and the next launch writes the same files."""
        launched = "TORCHELASTIC_RUN_ID" in os.environ
        return launched and os.getppid() != self.launcher


def shard(model: Llama, device: torch.device, dtype: torch.dtype) -> None:
    """Divide the parameters of each block, and the rest together, among the processes (FSDP2, `fully_shard`).

    Blocks are gathered in `dtype` while they compute. The master weights, the sums of gradients, the embedding, head
    and last norm stay float32, as does the stream between blocks: what autocast makes of DDP.
    """
    mesh = dist.device_mesh.init_device_mesh(device.type, (dist.get_world_size(),))
    if dtype.itemsize < 4:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    else:
        policy = MixedPrecisionPolicy(cast_forward_inputs=False)

    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)


def replicate(
    model: torch.nn.Module, ids: torch.Tensor, precision: Callable[[], AbstractContextManager]
) -> DistributedDataParallel:
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
    """Around each forward and backward pass of a step: only after the `last` one are the gradients summed over all."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
    elif isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def own_share(tensor: torch.Tensor) -> torch.Tensor:
    """The rows that this process has of a tensor that FSDP divides, of another one all; the memory is shared."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return tensor


def full_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor, also where FSDP divides it; then every process must ask for it."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    return tensor


def gather(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The full tensors in the host memory of process 0, gathered one by one. The others, which must ask too, get {}."""
    first = not dist.is_initialized() or dist.get_rank() == 0
    gathered = {}
    for name, tensor in tensors.items():
        full = full_tensor(tensor.detach())
        if not first:
            continue

        full = full.cpu().contiguous()
        if full.untyped_storage().nbytes() > full.nbytes:
            # Processes that do not divide the rows gather padded ones, and this is a view of them. No file takes that.
            full = full.clone()
        gathered[name] = full
    return gathered


def copy_full(target: torch.Tensor, full: torch.Tensor) -> None:
    """Copy a full tensor, which every process has, into `target`, which FSDP may divide."""
    if isinstance(target, DTensor):
        full = full.to(target.device)
        full = distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(full)
