"""Torch's settings inside of a call and after it; tests/faults/test_caller.py looks at whole programs."""

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pocket_resnet.torch_settings import own_settings, set_num_threads

BACKENDS: Any = torch.backends
PRECISIONS: dict[str, Callable[[], object]] = {
    "as it is": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "convolutions": lambda: setattr(BACKENDS.cudnn, "allow_tf32", False),
    "all backends": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
    "newer switch": lambda: setattr(BACKENDS.cudnn.conv, "fp32_precision", "tf32"),
    "cuDNN": lambda: setattr(BACKENDS.cudnn, "fp32_precision", "tf32"),
    "CUDA's products": lambda: setattr(BACKENDS.cuda.matmul, "fp32_precision", "tf32"),
    "oneDNN": lambda: setattr(BACKENDS.mkldnn, "fp32_precision", "bf16"),
    "oneDNN's products": lambda: setattr(BACKENDS.mkldnn.matmul, "fp32_precision", "bf16"),
    "newer switch, as fp32": lambda: setattr(BACKENDS, "fp32_precision", "ieee"),
}


@pytest.fixture(autouse=True)
def _restored() -> object:
    yield
    for place in places():
        place.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def places() -> list[Any]:
    cudnn, mkldnn = BACKENDS.cudnn, BACKENDS.mkldnn
    of_operations = [cudnn.conv, cudnn.rnn, mkldnn.conv, mkldnn.rnn, mkldnn.matmul, BACKENDS.cuda.matmul]
    return [BACKENDS, cudnn, mkldnn, *of_operations]


def precisions() -> list[str]:
    return [place.fp32_precision for place in places()]


def older_switches() -> list[object]:
    """Each raises where the newer ones have been used otherwise."""
    values: list[object] = []
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
        try:
            values.append(read())
        except RuntimeError:
            values.append(None)
    return values


@pytest.mark.threat(56)
@pytest.mark.parametrize("case", PRECISIONS)
def test_fp32_is_fp32(case: str) -> None:
    """Whichever of torch's switches the caller uses, also if the older ones can no longer be read."""
    PRECISIONS[case]()
    before = precisions(), older_switches()
    with own_settings():
        assert set(precisions()) <= {"none", "ieee"}
        assert older_switches()[0] == "highest"
        assert not older_switches()[1]
    assert (precisions(), older_switches()) == before


@pytest.mark.threat(56)
def test_settings_for_all_operations_still_reach_each_operation() -> None:
    """Also afterwards: inherited settings are not fixed per operation."""
    everywhere, products = places()[0], places()[-1]
    everywhere.fp32_precision = "tf32"
    with own_settings():
        pass
    everywhere.fp32_precision = "ieee"
    assert products.fp32_precision == "ieee"


@own_settings()
def fail() -> None:
    assert torch.ones(2, requires_grad=True).dtype == torch.float32
    assert torch.rand(2).device.type == "cpu"
    torch.set_num_threads(2)
    torch.manual_seed(7)
    raise ZeroDivisionError


@pytest.mark.threat(56)
def test_everything_comes_back_after_an_error() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    try:
        torch.set_default_dtype(torch.float64)
        with pytest.raises(ZeroDivisionError), torch.device("meta"), torch.inference_mode():
            fail()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.threat(56)
def test_weights_trained_under_the_caller_s_autocast_are_not_cached() -> None:
    """Autocast keeps its copies of weights until the outermost one ends: the caller's."""
    layer, x = torch.nn.Linear(4, 4, bias=False), torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16), own_settings():
        for value in (1.0, 2.0):
            with torch.no_grad():
                layer.weight.fill_(value)
            with torch.autocast("cpu", torch.bfloat16):
                assert layer(x)[0, 0] == 4 * value
        assert layer(x).dtype == torch.float32


@pytest.mark.threat(56)
def test_two_threads_at_once() -> None:
    """The first to enter leaves first, while the other keeps our settings; then the caller's are back."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    entered, left = threading.Event(), threading.Event()
    seen: list[torch.dtype] = []

    def other() -> None:
        with own_settings():
            torch.manual_seed(9)
            entered.set()
            left.wait(10)
            seen.append(torch.get_default_dtype())

    thread = threading.Thread(target=other)
    try:
        with own_settings():
            thread.start()
            assert entered.wait(10)
        left.set()
        thread.join()
        assert seen == [torch.float32]
        assert torch.get_default_dtype() == torch.float64
        assert torch.equal(torch.random.get_rng_state(), before)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.threat(56)
@pytest.mark.parametrize("first_leaves_first", [True, False])
def test_number_of_threads_of_two_threads_at_once(first_leaves_first: bool) -> None:
    """The second uses torch for the first time, so it begins with our number; both get the program's."""
    entered, left = threading.Event(), threading.Event()
    seen: list[int] = []

    def other() -> None:
        with own_settings():
            seen.append(torch.get_num_threads())
            set_num_threads(2)
            with own_settings():
                set_num_threads(3)
            seen.append(torch.get_num_threads())
            entered.set()
            if first_leaves_first:
                assert left.wait(10)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    with own_settings():
        set_num_threads(before + 3)
        thread.start()
        assert entered.wait(10)
        if not first_leaves_first:
            thread.join()
    left.set()
    thread.join()
    assert torch.get_num_threads() == before
    new.start()
    new.join()
    assert seen == [before + 3, 2, before, before]


@pytest.mark.threat(56)
def test_threads_that_overlap_keep_their_own_numbers() -> None:
    entered, left = threading.Event(), threading.Event()
    before = torch.get_num_threads()
    seen: list[int] = []

    def other() -> None:
        torch.set_num_threads(before + 1)
        with own_settings():
            set_num_threads(before + 3)
            entered.set()
            assert left.wait(10)
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    torch.set_num_threads(before)
    with own_settings():
        set_num_threads(before + 4)
    assert torch.get_num_threads() == before
    left.set()
    thread.join()
    assert seen == [before + 1]


@pytest.mark.threat(56)
def test_seeds_that_wait_for_cuda_are_the_caller_s() -> None:
    """Torch keeps the last seed until CUDA starts: without a GPU, or before its first use."""
    torch.manual_seed(random.randrange(2**32))
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        pytest.skip("CUDA has started")
    before = list(torch.cuda._lazy_seed_tracker.get_calls())
    with own_settings():
        torch.manual_seed(7)
        torch.cuda.manual_seed(8)
        assert torch.cuda._lazy_seed_tracker.get_calls() != before
    assert torch.cuda._lazy_seed_tracker.get_calls() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_seeds_of_a_cuda_that_starts_inside_are_the_caller_s() -> None:
    torch.cuda.manual_seed_all(5)
    expected = torch.Generator("cuda").manual_seed(5)
    with own_settings():
        torch.manual_seed(7)
        torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), torch.rand(3, device="cuda", generator=expected))


@pytest.mark.threat(56)
@pytest.mark.parametrize("callers", [False, True])
def test_cudnn_benchmark_is_on_only_in_training(callers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training only; elsewhere results are reproducible."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", callers)
    with own_settings():
        assert not torch.backends.cudnn.benchmark
    with own_settings(benchmark=True):
        assert torch.backends.cudnn.benchmark
        with own_settings():
            assert torch.backends.cudnn.benchmark
    assert torch.backends.cudnn.benchmark == callers
