"""One process of several: its slice, its sums, its batch norm; tests/faults/test_processes.py runs two of them.

Shapes: B images, C channels, H x W pixels.
"""

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pocket_resnet.errors import EnvironmentFault, UsageError
from pocket_resnet.model.resnet import ResNet
from pocket_resnet.training import distributed
from pocket_resnet.training.distributed import (
    ALONE,
    GlobalBatchNorm2d,
    Processes,
    explained_loss,
    is_writer,
    joined,
    with_global_norms,
)


def test_parts_are_disjoint_and_whole() -> None:
    batch_B = torch.arange(7)
    parts = [Processes(rank, 3).part(batch_B) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert torch.equal(torch.cat(parts).sort().values, batch_B)
    assert torch.equal(ALONE.part(batch_B), batch_B)


def test_sum_gives_each_tensor_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda x: x.mul_(10))
    tensors = [torch.tensor(1.0), torch.ones(2, 3), torch.arange(4.0)]
    expected = [10 * tensor for tensor in tensors]
    Processes(0, 2).sum(tensors)
    assert all(torch.equal(tensor, wanted) for tensor, wanted in zip(tensors, expected, strict=True))


def test_alone_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_reduce", "broadcast_object_list", "init_process_group"):
        monkeypatch.setattr(distributed.dist, name, lambda *_: pytest.fail("nobody is there"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined(torch.device("cpu")) as found:
        found.sum([torch.ones(1)])
        assert found.agree("x") == "x"
        assert [found.any(flag, torch.device("cpu")) for flag in (True, False)] == [True, False]
        assert found.is_writer


def set_launch(monkeypatch: pytest.MonkeyPatch, rank: str) -> None:
    variables = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }
    for name, text in variables.items():
        monkeypatch.setenv(name, text)


@pytest.mark.parametrize(("rank", "writes"), [(None, True), ("0", True), ("1", False)])
def test_the_writer(rank: str | None, writes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        set_launch(monkeypatch, rank)
    assert is_writer() == writes


def test_only_broken_connections_are_explained() -> None:
    with pytest.raises(EnvironmentFault, match="another process of this run has ended"), explained_loss():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(EnvironmentFault, match="another process of this run does not answer"), explained_loss():
        raise RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv operation")
    with pytest.raises(RuntimeError, match="out of memory"), explained_loss():
        raise RuntimeError("out of memory")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_launch(monkeypatch, "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(UsageError, match="process 2 of this machine has no GPU of its own\n  start at most 1 here"),
        joined(torch.device("cuda")),
    ):
        pytest.fail("joined")


@pytest.mark.parametrize("fails", [False, True])
def test_the_caller_s_gpu_is_current_again(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the processes meet."""
    set_launch(monkeypatch, "1")
    chosen = [0]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(distributed, "meet", lambda _: "store")
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)

    def meeting(*_: object, **__: object) -> None:
        if fails:
            raise UsageError("nobody came")

    monkeypatch.setattr(distributed.dist, "init_process_group", meeting)
    with contextlib.suppress(UsageError), joined(torch.device("cuda")) as found:
        assert (found.rank, chosen) == (1, [0, 1])
    assert chosen == [0, 1, 0]


@pytest.fixture
def two_equal_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are as if another process had the same batch."""
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda x: x.mul_(2))


@pytest.mark.usefixtures("two_equal_processes")
def test_global_norm_is_batch_norm_of_the_whole_batch() -> None:
    """Values, running statistics and gradients, against torch's on the doubled batch."""
    torch.manual_seed(0)
    x_BCHW = (3 + 2 * torch.randn(4, 5, 3, 3)).requires_grad_()
    twice_BCHW = torch.cat((x_BCHW, x_BCHW)).detach().requires_grad_()
    norm, reference = GlobalBatchNorm2d(5, momentum=0.3), nn.BatchNorm2d(5, momentum=0.3)
    with torch.no_grad():
        for each in (norm, reference):
            each.weight.copy_(torch.linspace(0.5, 2, 5))
            each.bias.copy_(torch.linspace(-1, 1, 5))
    found, expected = norm(x_BCHW), reference(twice_BCHW)
    torch.testing.assert_close(found, expected[:4])
    slope = torch.randn_like(found)
    (found * slope).sum().backward()
    (expected * torch.cat((slope, slope))).sum().backward()
    assert x_BCHW.grad is not None
    assert twice_BCHW.grad is not None
    torch.testing.assert_close(x_BCHW.grad, twice_BCHW.grad[:4], atol=1e-5, rtol=1e-4)
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("mode", "momentum"), [(False, 0.1), (True, None)])
def test_elsewhere_it_is_batch_norm(mode: bool, momentum: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation, and where statistics are measured anew in each process."""
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda _: pytest.fail("asked another process"))
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
