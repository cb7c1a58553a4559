"""Torch's settings inside of a call and after it; tests/faults/test_caller.py looks at whole programs."""

from collections.abc import Callable

import pytest
import torch

from pocket_resnet.torch_settings import own_settings

PRECISIONS: dict[str, Callable[[], object]] = {
    "as it is": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "convolutions": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "all backends": lambda: setattr(torch.backends, "fp32_precision", "tf32"),
    "newer switch": lambda: setattr(torch.backends.cudnn.conv, "fp32_precision", "tf32"),
}


@pytest.fixture(autouse=True)
def _restored() -> object:
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def precisions() -> list[str]:
    backends = torch.backends
    places = (backends.cudnn, backends.mkldnn)
    found = [place.fp32_precision for each in places for place in (each.conv, each.rnn)]
    return [*found, backends.mkldnn.matmul.fp32_precision, backends.cuda.matmul.fp32_precision]


@pytest.mark.parametrize("case", PRECISIONS)
def test_fp32_is_fp32(case: str) -> None:
    PRECISIONS[case]()
    before = precisions(), torch.get_float32_matmul_precision()
    with own_settings():
        assert set(precisions()) <= {"none", "ieee"}
        if case != "all backends":
            assert not torch.backends.cudnn.allow_tf32
    assert (precisions(), torch.get_float32_matmul_precision()) == before


@own_settings()
def fail() -> None:
    assert torch.ones(2, requires_grad=True).dtype == torch.float32
    assert torch.rand(2).device.type == "cpu"
    torch.set_num_threads(2)
    torch.manual_seed(7)
    raise ZeroDivisionError


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
