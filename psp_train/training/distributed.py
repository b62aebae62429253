"""Many processes, one training: torch's DistributedDataParallel as torchrun or `accelerate launch` start it.

BatchNorm sees the whole batch of all processes (`SyncedBatchNorm`), so N processes compute what one process with N
times the batch computes. torch's own SyncBatchNorm runs on GPUs only; this one is plain torch and tested on CPUs.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from psp_runtime.errors import PspError


@dataclass(frozen=True)
class Process:
    """This process, number `rank` of `world` of them, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0


@contextmanager
def joined(device: str = "auto") -> Iterator[Process]:
    """Join the process group the launcher's environment describes (RANK, WORLD_SIZE, LOCAL_RANK), if there is one.

    `device` is "auto", "cuda" or "cpu". Raises `PspError` for "cuda" where there is no GPU.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    chosen = _device(device, local)
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield Process(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Process(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()


@contextmanager
def first_goes_first(process: Process) -> Iterator[None]:
    """Run the block on the first process before the others: it leaves files that they find."""
    if process.world > 1 and not process.is_first:
        dist.barrier()
    yield
    if process.world > 1 and process.is_first:
        dist.barrier()


def _device(name: str, local: int) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise PspError("--device cuda: PyTorch finds no CUDA GPU here; leave the option out to train on the CPU")
    if name == "cpu" or not available:
        return torch.device("cpu")
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def distribute(module: nn.Module, process: Process) -> nn.Module:
    """Wrap a module to train it on every process: gradients are averaged, BatchNorm statistics shared."""
    if process.world == 1:
        return module
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.__class__ = SyncedBatchNorm  # same weights, same buffers, same keys
    ids = [process.device.index] if process.device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # this option gets another name
        return DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)


def mean_over_processes(values: torch.Tensor, process: Process) -> torch.Tensor:
    """Average a tensor of metrics over all processes, in place."""
    if process.world > 1:
        dist.all_reduce(values)
        values /= process.world
    return values


def gathered(values: torch.Tensor, process: Process) -> torch.Tensor:
    """Join the tensors [B,...] of all processes, in the order of their ranks: [world B,...]."""
    if process.world == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(process.world)]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


class SumOfAll(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_, x: torch.Tensor) -> torch.Tensor:
        """Add up x, of any shape, over all processes."""
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_, gradient: torch.Tensor) -> torch.Tensor:
        """Add up the gradients of all processes."""
        return SumOfAll.forward(None, gradient)


class SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the batches of all processes together."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise x [B,C,H,W]; while training, by the batches of all processes."""
        if not self.training:
            return super().forward(x)
        sums = torch.cat([x.float().sum((0, 2, 3)), x.float().square().sum((0, 2, 3))])
        count = x.numel() / x.shape[1] * dist.get_world_size()
        mean, square = (SumOfAll.apply(sums) / count).chunk(2)
        variance = (square - mean.square()).clamp_min(0)
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        # In FP32, as torch's own under autocast: a difference of large numbers where the mean is far from 0.
        return (x * _per_channel(scale) + _per_channel(shift)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def _per_channel(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)
