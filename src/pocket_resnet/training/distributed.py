"""Several processes training one network together, started by torchrun; rank 0 alone writes files.

Every process prepares the same global batch and trains on its slice, every world_size-th image from its rank on.
Gradients are summed over the processes, and batch norm uses the statistics of the whole batch, so that a run is that of
one process up to rounding. (Dropout and stochastic depth draw in each process for its own images.)

Shapes: B images, C channels, H x W pixels.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pocket_resnet.data.loader import Steps
from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.training.torchrun import launch, meet


@dataclass(frozen=True)
class Processes:
    """This process among those of a run; alone by default."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_writer(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def part(self, x_B: Tensor) -> Tensor:
        """This process's share of a batch."""
        return x_B[self.rank :: self.world_size] if self.world_size > 1 else x_B

    def refuse_empty_parts(self, steps: Steps) -> None:
        """Raise UsageError where a step trains fewer images than there are processes."""
        fewest = min(map(steps.num_trained, range(steps.per_epoch)))
        if fewest < self.world_size:
            what = f"a step of {fewest} images is too small for {self.world_size} processes"
            raise UsageError(what, hint=f"start at most {fewest} processes, or choose a larger --batch-size")

    def sum(self, tensors: list[Tensor]) -> None:
        """Replace each tensor, all of one dtype, by its sum over all processes."""
        if self.world_size > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            start = 0
            for tensor in tensors:
                tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
                start += tensor.numel()

    def agree(self, value: Any) -> Any:
        """Rank 0's value, in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(float(flag), device=device)
        dist.all_reduce(flags)
        return bool(flags)

    @contextlib.contextmanager
    def undoing(self, model: nn.Module) -> Iterator[None]:
        """Inside, a step that fails because another process is lost leaves batch norm's statistics as they were."""
        kept = [buffer.clone() for buffer in model.buffers()] if self.world_size > 1 else []
        try:
            yield
        except RuntimeError:
            for buffer, value in zip(model.buffers() if kept else (), kept, strict=True):
                buffer.copy_(value)
            raise


ALONE = Processes()


def is_writer() -> bool:
    """Whether this process writes files and speaks, asked before or after the run."""
    return launch().rank == 0


@contextlib.contextmanager
def only_rank_0_logs() -> Iterator[None]:
    """Inside, other processes log nothing but errors. Raises UsageError where torchrun's variables make no sense."""
    logger = logging.getLogger("pocket_resnet")
    level = logger.level
    if not is_writer():
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started, connected inside; without torchrun this process alone.

    Raises UsageError where torchrun's variables make no sense or the processes are more than the GPUs,
    EnvironmentFault where one does not come, LostProcess where one ends before the end or stops answering.
    """
    started = launch()
    if started.world_size == 1:
        yield ALONE
        return
    with _own_gpu(started.local_rank, device), explained_loss():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=meet(started),
            rank=started.rank,
            world_size=started.world_size,
            timeout=timedelta(seconds=started.wait_s),
        )
        try:
            yield Processes(started.rank, started.world_size)
        finally:
            dist.destroy_process_group()


@contextlib.contextmanager
def _own_gpu(rank: int, device: torch.device) -> Iterator[None]:
    """Inside, CUDA's current device is this process's own; afterwards it is the caller's again."""
    if device.type != "cuda":
        yield
        return
    if rank >= (num_gpus := torch.cuda.device_count()):
        hint = f"start at most {num_gpus} here, or train with --hardware.device cpu"
        raise UsageError(f"process {rank + 1} of this machine has no GPU of its own", hint=hint)
    callers = torch.cuda.current_device()
    torch.cuda.set_device(rank)
    try:
        yield
    finally:
        torch.cuda.set_device(callers)


class LostProcess(EnvironmentFault):
    """Another process of the run has ended before it, or does not answer."""


@contextlib.contextmanager
def explained_loss() -> Iterator[None]:
    """Inside, a connection that another process broke becomes a LostProcess."""
    try:
        yield
    except RuntimeError as error:  # gloo has no class of its own for it
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        happened = "does not answer" if "timed out" in str(error).lower() else "has ended"
        raise LostProcess(f"another process of this run {happened}", hint="check its messages") from error


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: Any, x: Tensor) -> Tensor:
        summed = x.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return SumOverProcesses.forward(None, gradient)


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over the batches of all processes together; torch's SyncBatchNorm is for GPUs alone.

    Every process must run it equally often in training. With `momentum` None, and in evaluation, it is
    BatchNorm2d.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.momentum is None:
            return super().forward(input)
        x_BCHW = input.float()
        count = x_BCHW.new_tensor([x_BCHW.numel() / x_BCHW.shape[1]])
        here = torch.cat((x_BCHW.sum(dim=(0, 2, 3)), x_BCHW.square().sum(dim=(0, 2, 3)), count))
        sums: Tensor = SumOverProcesses.apply(here)  # type: ignore[no-untyped-call]
        C, total = x_BCHW.shape[1], sums[-1]
        mean_C = sums[:C] / total
        var_C = (sums[C:-1] / total - mean_C.square()).clamp(min=0)
        self._update(mean_C.detach(), var_C.detach() * total / (total - 1))
        gain_C = self.weight * torch.rsqrt(var_C + self.eps)
        shift_C = self.bias - mean_C * gain_C
        y_BCHW: Tensor = x_BCHW * gain_C.view(1, C, 1, 1) + shift_C.view(1, C, 1, 1)
        return y_BCHW.to(input.dtype)

    @torch.no_grad()
    def _update(self, mean_C: Tensor, unbiased_var_C: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(unbiased_var_C, self.momentum)
        self.num_batches_tracked.add_(1)


def with_global_norms(model: nn.Module) -> None:
    """Replace every BatchNorm2d in the model by one over all processes, with the same weights and names."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = GlobalBatchNorm2d(child.num_features, child.eps, child.momentum)
            norm.__dict__.update(child.__dict__)
            setattr(model, name, norm)
        else:
            with_global_norms(child)
