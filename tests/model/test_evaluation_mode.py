"""Evaluation mode, and the modes afterwards."""

import contextlib

import pytest

from pocket_resnet.model.evaluation_mode import evaluation_mode
from pocket_resnet.model.resnet import ResNet


def modes(model: ResNet) -> dict[str, bool]:
    return {name: module.training for name, module in model.named_modules()}


@pytest.mark.parametrize("frozen", [True, False])
def test_each_module_has_its_mode_again(frozen: bool, tiny_model: ResNet) -> None:
    """Also one whose body is frozen, after an error, and if blocks are nested."""
    tiny_model.train()
    for part in tiny_model.body():
        part.train(not frozen)
    before = modes(tiny_model)
    assert any(before.values())
    with contextlib.suppress(RuntimeError), evaluation_mode(tiny_model):
        with evaluation_mode(tiny_model):
            assert not any(modes(tiny_model).values())
        assert not any(modes(tiny_model).values())
        raise RuntimeError
    assert modes(tiny_model) == before
