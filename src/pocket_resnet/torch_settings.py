"""Torch's global settings: ours inside, the caller's again afterwards.

A program that imports this package has its own threads, number formats, defaults and random numbers. They must not
reach our results, and ours must not stay behind.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def own_settings() -> Iterator[None]:
    """Inside, torch computes as a fresh process does, in true fp32; on leaving, every setting is the caller's again.

    Restored: threads, fp32 precision, default type and device, random generators, gradient modes and autocast. Works
    as a decorator too.
    """
    num_threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    looks_for_kernels = torch.backends.cudnn.benchmark
    has_generators = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    generators = list(range(torch.cuda.device_count())) if has_generators else []
    try:
        torch.set_default_dtype(torch.float32)
        torch.backends.cudnn.benchmark = True  # a run's shapes repeat: the fastest kernel of each is looked for once
        with contextlib.ExitStack() as stack:
            stack.enter_context(_true_fp32())
            stack.enter_context(torch.random.fork_rng(devices=generators))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):  # a cache across our steps would keep old weights
                    stack.enter_context(torch.autocast(kind, enabled=False, cache_enabled=False))
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.backends.cudnn.benchmark = looks_for_kernels
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)


@contextlib.contextmanager
def _true_fp32() -> Iterator[None]:
    """Inside, fp32 means fp32, not TF32 or bf16: the same results on every device."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    places = (cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn.conv, mkldnn.rnn, mkldnn.matmul)
    found = [place.fp32_precision for place in places]
    matmul, convolutions = torch.get_float32_matmul_precision(), _allows_tf32()
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = False
    for place in places:
        if place.fp32_precision not in ("none", "ieee"):  # set for all backends together
            place.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        if convolutions is not None:
            backends.cudnn.allow_tf32 = convolutions
        for place, precision in zip(places, found, strict=True):
            place.fp32_precision = precision


def _allows_tf32() -> bool | None:
    """Torch's older switch; None where the caller has used the newer ones, which then decide."""
    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return None
