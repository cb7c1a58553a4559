"""The hardware of a run: device, number format, memory layout, and the machine's name for results tables."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.torch_settings import set_num_threads

Network = TypeVar("Network", bound=nn.Module)
Precision = Literal["fp32", "bf16"]

# Options of mallopt(3), and their largest value in bytes.
TRIM_THRESHOLD, MMAP_THRESHOLD, NO_LIMIT = -1, -3, 2**31 - 1

# Linux's names, x86 first, then ARM.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")


@dataclass(frozen=True)
class Hardware:
    """The choices made for one run."""

    device: torch.device
    precision: Precision
    channels_last: bool
    num_threads: int = 0
    """Number of CPU threads; 0 keeps torch's."""
    winograd: bool = False
    """Whether training and teachers use Winograd's algorithm; only on a CPU in fp32 with channels last."""
    side_by_side: bool = False
    """Whether training may put small images side by side; only on a CPU with AMX, in bf16 with channels last."""

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of images and filters."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, model: Network) -> Network:
        """The model on the device, in the memory layout."""
        return model.to(self.device).to(memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    @property
    def is_asynchronous(self) -> bool:
        """Whether the device computes while Python continues."""
        return self.device.type != "cpu"

    def synchronize(self) -> None:
        """Wait until the device has done all of its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def use_threads(self) -> None:
        """Set torch's number of threads; `own_settings` restores the caller's."""
        if self.num_threads:
            set_num_threads(self.num_threads)

    def autocast(self) -> AbstractContextManager[Any]:
        """Within this context, multiply in bf16 if that is the precision; weights stay fp32."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()


def choose(
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    channels_last: bool = True,
    num_threads: int = 0,
    winograd: bool = True,
) -> Hardware:
    """The hardware for these choices; changes no setting. `winograd` has no effect where the algorithm cannot be used.

    `device` is auto, cpu, cuda or mps; raises UsageError for any other, and if this machine does not have it.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device, False):
        usable = [name for name, is_available in available.items() if is_available]
        raise UsageError(f"the device {device} is not available", hint=f"use one of auto, {', '.join(usable)}")
    if not num_threads and "OMP_NUM_THREADS" not in os.environ:
        num_threads = num_cores()
    if precision == "auto":
        precision = "bf16" if _multiplies_bf16(device) else "fp32"
    winograd = winograd and device == "cpu" and precision == "fp32" and channels_last
    has_amx = device == "cpu" and precision == "bf16" and "amx_bf16" in _cpu_features()
    return Hardware(torch.device(device), precision, channels_last, num_threads, winograd, has_amx and channels_last)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; a GPU copies it from pinned memory while Python continues."""
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def num_cores() -> int:
    """Number of cores this process may use: those it is bound to, within a container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(bound, round(int(quota_us) / int(period_us))))
    except (OSError, ValueError):  # no quota
        return bound


def _multiplies_bf16(device: str) -> bool:
    """Whether the device has instructions for bf16, which make a step of `fast` 1.65 times as fast (docs/log.md)."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    features = _cpu_features()
    return device == "cpu" and bool({"avx512_bf16", "amx_bf16"} & features)


def _cpu_features() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    return set(next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split())


@contextmanager
def memory_errors() -> Iterator[None]:
    """Within this context, running out of memory raises EnvironmentFault."""
    try:
        yield
    except RuntimeError as error:  # torch has no error class for this on the CPU
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise EnvironmentFault("out of memory", hint="free some memory, or use a smaller --batch-size") from error


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next step instead of returning it to the system (Linux, glibc).

    A step's activations have tens of megabytes per tensor. Requesting them anew from the system costs a fault per page:
    a fifth of a step of `fast` at full size (docs/log.md). Elsewhere this does nothing. It affects the whole process
    and cannot be undone, so the command does it, not the library.
    """
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, NO_LIMIT)
        libc.mallopt(TRIM_THRESHOLD, NO_LIMIT)


def machine(hardware: Hardware) -> str:
    """One line that names the machine, for results tables: processor or GPU, cores, torch version."""
    if hardware.device.type == "cuda":
        processor = torch.cuda.get_device_name()
    else:
        num_threads = hardware.num_threads or torch.get_num_threads()
        processor = f"{_cpu_name()}, {num_threads} thread{'s' if num_threads != 1 else ''}"
    return f"{processor}, {hardware.precision}, torch {torch.__version__.split('+')[0]}"


def instructions() -> tuple[str, ...]:
    """The processor's instruction sets that determine its speed for small networks, in the order of INSTRUCTIONS."""
    return tuple(name for name in INSTRUCTIONS if name in _cpu_features())


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
