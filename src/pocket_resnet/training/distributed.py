"""Trains one network in several processes, started by torchrun; only rank 0 writes the run's files.

Each process trains every world_size-th image of the batch, starting at its rank. DistributedDataParallel averages
the gradients, batch norm uses the statistics of the whole batch, and dropout is drawn for the whole batch, so that
a run equals that of one process up to rounding. In a step only this file and global_norm.py talk to other processes.

Shapes: B images of the whole batch, b of them here, C channels, H x W pixels, R numbers of a report.
"""

import contextlib
import logging
import socket
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pocket_resnet.data.loader import Steps
from pocket_resnet.errors import DataError, EnvironmentFault, UsageError
from pocket_resnet.io.progress import print_line
from pocket_resnet.model.blocks import Drop
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training.global_norm import with_global_norms
from pocket_resnet.training.torchrun import Launch, connect_store, launch

T = TypeVar("T")
P = ParamSpec("P")


class Processes(Launch):
    """This process among those of a run, connected; alone by default."""

    @property
    def is_writer(self) -> bool:
        """Whether this is the process that writes files and prints messages."""
        return self.rank == 0

    @property
    def rows(self) -> slice:
        """This process's share of a batch, or of any list."""
        return slice(None) if self.world_size == 1 else slice(self.rank, None, self.world_size)

    def on_writer(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function on rank 0 only, and return its result in every process."""
        values: list[Any] = [work(*args, **kwargs) if self.is_writer else None]
        if self.world_size > 1:
            dist.broadcast_object_list(values)
        value: T = values[0]
        return value

    def gather(self, share: list[T]) -> list[T]:
        """Gather the whole list, of which each process has its `rows`, in every process."""
        if self.world_size == 1:
            return share
        shares: list[list[T]] = [[]] * self.world_size
        dist.all_gather_object(shares, share)
        return [shares[n % self.world_size][n // self.world_size] for n in range(sum(map(len, shares)))]

    def gather_rows(self, share_bK: Tensor) -> Tensor:
        """Like `gather`, for the rows of a matrix on the CPU, float [B, K]."""
        return torch.from_numpy(np.stack(self.gather(list(share_bK.numpy()))))

    def check(self, recipe: Recipe, steps: Steps, fingerprint: str) -> None:
        """Raise UsageError or DataError if these processes cannot train the recipe together."""
        self.refuse_empty_shares(steps)
        self.refuse_freezing(recipe.pretrained.freeze_epochs)
        self.refuse_other_data(fingerprint)

    def refuse_empty_shares(self, steps: Steps) -> None:
        """Raise UsageError if a step trains fewer images than there are processes."""
        fewest = min(map(steps.num_trained, range(steps.per_epoch)))
        if fewest < self.world_size:
            what = f"a step of {fewest} images is too small for {self.world_size} processes"
            raise UsageError(what, hint=f"start at most {fewest} processes, or choose a larger --batch-size")

    def refuse_freezing(self, freeze_epochs: int) -> None:
        """Raise UsageError for a frozen body: DistributedDataParallel waits for the gradient of every parameter."""
        if freeze_epochs and self.world_size > 1:
            raise UsageError("--freeze works with a single process", hint="omit --freeze, or train without torchrun")

    def refuse_other_data(self, fingerprint: str) -> None:
        """Raise DataError in a process whose data differs from that of rank 0."""
        if self.on_writer(lambda: fingerprint) != fingerprint:
            what = f"rank {self.rank}, on {socket.gethostname()}, has other data than rank 0"
            raise DataError(what, hint="copy the same data to every machine")

    def announce_writer(self, folder: Path) -> None:
        """Print on each machine which process writes the run's folder, and where."""
        host, path = self.on_writer(lambda: (socket.gethostname(), folder.absolute()))
        if self.world_size > 1 and self.local_rank == 0:
            print_line(f"rank 0 of {self.world_size}, on {host}, writes {path}")

    @contextlib.contextmanager
    def restoring_norms(self, model: nn.Module) -> Iterator[None]:
        """Inside the block, a lost process raises LostProcess, and batch norm's statistics stay as they were."""
        kept = [buffer.clone() for buffer in model.buffers()] if self.world_size > 1 else []
        try:
            with process_loss_errors():
                yield
        except (RuntimeError, LostProcess):
            for buffer, value in zip(model.buffers() if kept else (), kept, strict=True):
                buffer.copy_(value)
            raise


ALONE = Processes()


class DataParallel:
    """Forward and backward pass of a network whose batches all processes share.

    A step's report, a few numbers, is summed together with the gradients, as the gradient of an extra parameter, so a
    step needs only one exchange.
    """

    def __init__(self, model: nn.Module, network: nn.Module, report_size: int, processes: Processes) -> None:
        """`network` is the model or its compiled form; the model's norms are replaced by global ones."""
        self.network, self.unshared, self.world_size = network, network, processes.world_size
        self.drops: list[Drop] = []  # modules that see only a share of the batch
        self.report_R = nn.Parameter(torch.zeros(report_size, device=next(model.parameters()).device))
        if self.world_size == 1:
            return
        with_global_norms(model)
        self.drops = [module for module in model.modules() if isinstance(module, Drop)]
        for drop in self.drops:
            drop.rows = processes.rows
        with_report = nn.Sequential(network)
        with_report.register_parameter("report_R", self.report_R)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch 2.13 renames it
            self.network = DistributedDataParallel(with_report, broadcast_buffers=False, gradient_as_bucket_view=True)

    def close(self) -> None:
        """Free the exchange of gradients, which must not outlive the process group.

        If it held the group's last reference, the group's destructor would wait for Gloo's threads while it holds
        Python's lock, which they may need: about one run in fifteen would hang at its end.
        """
        self.network = self.unshared

    def forward(self, x_bCHW: Tensor, batch_size: int) -> Tensor:
        """The network's output for this process's share of a batch of that size."""
        for drop in self.drops:
            drop.batch_size = batch_size
        output: Tensor = self.network(x_bCHW)
        return output

    def backward(self, loss: Tensor, report_R: Tensor) -> Tensor:
        """Compute the gradients of the sum of all processes' losses, and return the sum of their reports."""
        if self.world_size == 1:
            loss.backward()  # type: ignore[no-untyped-call]
            return report_R
        # DistributedDataParallel averages.
        torch.autograd.backward((self.world_size * loss, self.report_R), (None, self.world_size * report_R))
        assert self.report_R.grad is not None
        summed_R = self.report_R.grad.clone()
        self.report_R.grad = None
        return summed_R


def is_writer() -> bool:
    """Whether this process writes files and prints messages, for use before or after the run."""
    return launch().rank == 0


@contextlib.contextmanager
def only_rank_0_logs() -> Iterator[None]:
    """Inside the block, other processes log only errors. Raises UsageError if torchrun's variables are invalid."""
    logger = logging.getLogger("pocket_resnet")
    level = logger.level
    if not is_writer():
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started, connected inside the block; without torchrun, only this process.

    Raises UsageError if torchrun's variables are invalid or there are more processes than GPUs, EnvironmentFault if a
    process does not connect, LostProcess if one exits early or stops answering.
    """
    started = launch()
    if started.world_size == 1:
        yield ALONE
        return
    with _own_gpu(started.local_rank, device), process_loss_errors():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=connect_store(started),
            rank=started.rank,
            world_size=started.world_size,
            timeout=timedelta(seconds=started.wait_s),
        )
        try:
            yield Processes(**vars(started))
        finally:
            dist.destroy_process_group()


@contextlib.contextmanager
def _own_gpu(rank: int, device: torch.device) -> Iterator[None]:
    """Inside the block, CUDA's current device is this process's own; afterwards the caller's is restored."""
    if device.type != "cuda":
        yield
        return
    if rank >= (num_gpus := torch.cuda.device_count()):
        hint = f"start at most {num_gpus} here, or train with --hardware.device cpu"
        raise UsageError(f"local rank {rank} has no GPU of its own", hint=hint)
    callers = torch.cuda.current_device()
    torch.cuda.set_device(rank)
    try:
        yield
    finally:
        torch.cuda.set_device(callers)


class LostProcess(EnvironmentFault):
    """Another process of the run has exited early or does not answer."""


@contextlib.contextmanager
def process_loss_errors() -> Iterator[None]:
    """Turn errors from a connection that another process broke into LostProcess inside the block."""
    try:
        yield
    except RuntimeError as error:  # gloo has no error class for this
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        happened = "does not answer" if "timed out" in str(error).lower() else "has ended"
        raise LostProcess(f"another process of this run {happened}", hint="check its messages") from error
