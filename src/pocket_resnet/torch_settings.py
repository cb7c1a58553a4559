"""Sets torch's global settings for our computations, and restores the caller's afterwards.

A program that imports this package has its own threads, number formats, defaults and random numbers. They must not
affect our results, and ours must not affect the program.
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

_lock = threading.Lock()
_shared = contextlib.ExitStack()
_num_inside = 0
_program_num_threads = 0  # torch's number of threads when the first thread entered
_our_nums_threads: set[int] = set()  # those set by `set_num_threads` while any thread is inside


class _Thread(threading.local):
    """Whether the current thread is inside `own_settings`."""

    is_inside = False


_thread = _Thread()


@contextlib.contextmanager
def own_settings(*, benchmark: bool = False) -> Iterator[None]:
    """Within this context, torch computes as in a fresh process, in true fp32; then the caller's settings are restored.

    Restored: threads, fp32 precision, default type and device, random generators, gradient modes and autocast.
    Settings that all threads of a program share are restored when the last thread leaves. Also works as a decorator.

    `benchmark` makes cuDNN time its kernels once for each shape and use the fastest, for training, whose shapes repeat.
    It may choose others next time, so repeated work on the same GPU may differ in the last bits.
    """
    with _shared_settings(), _num_threads(), contextlib.ExitStack() as stack:
        if benchmark:
            torch.backends.cudnn.benchmark = True
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):  # a cache across our steps would keep old weights
                stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
        yield


def set_num_threads(number: int) -> None:
    """Set torch's number of threads within `own_settings`."""
    _our_nums_threads.add(number)
    torch.set_num_threads(number)


@contextlib.contextmanager
def _shared_settings() -> Iterator[None]:
    """Settings that all threads share: set by the first thread to enter, restored by the last to leave."""
    global _num_inside, _program_num_threads
    with _lock:
        if _num_inside == 0:
            _program_num_threads = torch.get_num_threads()
            with contextlib.ExitStack() as stack:
                for entered in (_defaults(), _true_fp32(), _generators()):
                    stack.enter_context(entered)
                _shared.push(stack.pop_all())
        _num_inside += 1
    try:
        yield
    finally:
        with _lock:
            _num_inside -= 1
            if _num_inside == 0:
                _shared.close()
                _our_nums_threads.clear()


@contextlib.contextmanager
def _num_threads() -> Iterator[None]:
    """Restore the thread's number of threads, or if that is one of ours the program's.

    A thread that uses torch for the first time gets the number that any thread has set last. If another thread is
    inside, that is our number.
    """
    is_outermost, num_threads = not _thread.is_inside, torch.get_num_threads()
    if is_outermost and num_threads in _our_nums_threads:
        num_threads = _program_num_threads
    _thread.is_inside = True
    try:
        yield
    finally:
        _thread.is_inside = not is_outermost
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)


@contextlib.contextmanager
def _defaults() -> Iterator[None]:
    dtype, benchmark = torch.get_default_dtype(), torch.backends.cudnn.benchmark
    torch.set_default_dtype(torch.float32)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.backends.cudnn.benchmark = benchmark


@contextlib.contextmanager
def _generators() -> Iterator[None]:
    """Restore the random generators, as if no numbers had been drawn within this context.

    Before CUDA starts, torch queues seeds for its generators. They are queued again, or set if CUDA has started.
    """
    queue: Any = torch.cuda._lazy_seed_tracker
    had_started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    queued = vars(queue).copy()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if had_started else ()):
        yield
    if not had_started:
        vars(queue).update(queued)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            for generator in torch.cuda.default_generators:
                generator.seed()  # at random, as in a process that sets no seed
            for set_seed, _ in filter(None, queue.get_calls()):
                set_seed()


@contextlib.contextmanager
def _true_fp32() -> Iterator[None]:
    """Within this context, fp32 means fp32, not TF32 or bf16.

    If the caller has used torch's newer switches, the older ones raise RuntimeError and are left alone.
    """
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    operations = (cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul)
    places = (backends, cudnn, mkldnn, *operations)  # operations without a setting of their own follow the first three
    precisions = [place.fp32_precision for place in places]
    older = _older_switches()
    if older is not None:
        _set_older_switches("highest", False)
    for place in places:
        if place.fp32_precision not in ("none", "ieee"):
            place.fp32_precision = "ieee"
    try:
        yield
    finally:
        if older is not None:
            _set_older_switches(*older)
        for place, precision in zip(places, precisions, strict=True):
            if place.fp32_precision != precision:
                place.fp32_precision = precision


def _older_switches() -> tuple[str, bool] | None:
    try:
        return torch.get_float32_matmul_precision(), bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None


def _set_older_switches(matmul: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = convolutions
