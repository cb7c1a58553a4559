"""Batch norm over processes that share a batch unevenly, against torch's over the whole batch.

Shapes: B images, C channels, H x W pixels.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pocket_resnet.model.resnet import ResNet
from pocket_resnet.training import global_norm
from pocket_resnet.training.distributed import process_group
from pocket_resnet.training.global_norm import GlobalBatchNorm2d, with_global_norms

NUM_CHANNELS = 5


def batch(mean: float, deviation: float) -> tuple[Tensor, Tensor]:
    """Seven images whose channels differ, and the slope of the loss at each output."""
    draws = torch.Generator().manual_seed(0)
    x_BCHW = torch.randn(7, NUM_CHANNELS, 6, 6, generator=draws) * deviation + mean + torch.arange(5.0).view(5, 1, 1)
    x_BCHW += deviation * torch.arange(7.0).view(7, 1, 1, 1)  # so do the images, and with them the processes
    return x_BCHW, torch.randn(x_BCHW.shape, generator=draws)


def trained(norm: nn.BatchNorm2d, x_BCHW: Tensor, slope_BCHW: Tensor) -> dict[str, Tensor]:
    """The results of a training step: output, gradients, statistics."""
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, NUM_CHANNELS))
        norm.bias.copy_(torch.linspace(-1, 1, NUM_CHANNELS))
    x_BCHW = x_BCHW.clone().requires_grad_()
    y_BCHW = norm(x_BCHW)
    (y_BCHW * slope_BCHW).sum().backward()
    gradients = {"x": x_BCHW.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    tensors = {"y": y_BCHW.detach()} | dict(norm.named_buffers()) | gradients
    return {name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}


@pytest.mark.threat(67)
@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(("mean", "deviation"), [(3.0, 2.0), (100.0, 0.03)])
def test_matches_batch_norm_of_the_whole_batch(
    mean: float, deviation: float, world_size: int, start_ranks: Any, tmp_path: Path
) -> None:
    """Far from 0 too, where E[x²] - E[x]² lost a twentieth of the deviation."""
    x_BCHW, slope_BCHW = batch(mean, deviation)

    def work(rank: int) -> None:
        with process_group(torch.device("cpu")) as processes:
            share = (x_BCHW[processes.rows], slope_BCHW[processes.rows])
            save_file(trained(GlobalBatchNorm2d(NUM_CHANNELS, momentum=0.3), *share), tmp_path / str(rank))

    assert [rank.wait() for rank in start_ranks(work, world_size)] == [0] * world_size
    shares = [load_file(tmp_path / str(rank)) for rank in range(world_size)]
    expected = trained(nn.BatchNorm2d(NUM_CHANNELS, momentum=0.3), x_BCHW, slope_BCHW)
    exact = trained(nn.BatchNorm2d(NUM_CHANNELS, momentum=0.3).double(), x_BCHW.double(), slope_BCHW.double())
    whole = {name: torch.empty_like(expected[name]) for name in ("x", "y")}
    for rank, share in enumerate(shares):
        for name, value_BCHW in whole.items():
            value_BCHW[rank::world_size] = share[name]
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            torch.testing.assert_close(share[name], expected[name], atol=1e-6, rtol=1e-5)
    whole |= {name: sum((share[name] for share in shares), torch.tensor(0.0)) for name in ("weight", "bias")}
    torch.testing.assert_close(whole["y"].std((0, 2, 3)), expected["y"].std((0, 2, 3)), atol=1e-5, rtol=1e-4)
    for name, value in whole.items():
        lost, torch_lost = ((each[name] - exact[name]).abs().max() for each in (whole, expected))
        assert lost <= 2 * torch_lost + 1e-5 * exact[name].abs().max(), (name, lost, torch_lost, value.shape)


@pytest.mark.parametrize(("mode", "momentum"), [(False, 0.1), (True, None)])
def test_in_evaluation_it_is_plain_batch_norm(
    mode: bool, momentum: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In evaluation, and while each process measures statistics again."""
    for name in ("all_gather", "all_reduce"):
        monkeypatch.setattr(global_norm.dist, name, lambda *_: pytest.fail("asked another process"))
    norm, reference = GlobalBatchNorm2d(5, momentum=momentum), nn.BatchNorm2d(5, momentum=momentum)
    x_BCHW = torch.randn(4, 5, 3, 3)
    torch.testing.assert_close(norm.train(mode)(x_BCHW), reference.train(mode)(x_BCHW))


def test_replacing_keeps_parameters_and_names(tiny_model: ResNet) -> None:
    before: dict[str, Any] = dict(tiny_model.state_dict(keep_vars=True))
    with_global_norms(tiny_model)
    after: dict[str, Tensor] = dict(tiny_model.state_dict(keep_vars=True))
    assert list(before) == list(after)
    assert all(after[name] is value for name, value in before.items())
    norms = [module for module in tiny_model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(isinstance(norm, GlobalBatchNorm2d) for norm in norms)
