"""One process, alone or among several: its share, the values all agree on, its GPU; tests/faults/ has whole runs.

Shapes: N rows, K columns, R numbers of a report.
"""

import contextlib
import itertools
import socket
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from pocket_resnet.errors import DataError, EnvironmentFault, UsageError
from pocket_resnet.model.spec import NetworkSpec
from pocket_resnet.recipe.schema import Recipe
from pocket_resnet.training import distributed
from pocket_resnet.training.distributed import (
    ALONE,
    DataParallel,
    Processes,
    is_writer,
    process_group,
    process_loss_errors,
)
from pocket_resnet.training.run import train


def test_shares_are_disjoint_and_whole() -> None:
    batch = list(range(7))
    shares = [batch[Processes(rank, 3).rows] for rank in range(3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert sorted(itertools.chain(*shares)) == batch
    assert batch[ALONE.rows] == batch


def test_freezing_needs_a_single_process() -> None:
    ALONE.refuse_freezing(3)
    Processes(0, 2).refuse_freezing(0)
    with pytest.raises(UsageError, match="single process"):
        Processes(1, 2).refuse_freezing(3)


def test_a_single_process_does_not_communicate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("all_reduce", "all_gather_object", "broadcast_object_list", "init_process_group"):
        monkeypatch.setattr(distributed.dist, name, lambda *_: pytest.fail("nobody is there"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with process_group(torch.device("cpu")) as processes:
        assert processes.on_writer(lambda: "x") == "x"
        assert processes.gather([1, 2]) == [1, 2]
        processes.refuse_other_data("one")
        processes.announce_writer(Path("runs/r"))
        assert processes.is_writer
        network = nn.Linear(2, 1)
        parallel = DataParallel(network, network, 1, processes)
        assert parallel.network is network
        report_R = torch.ones(1)
        assert parallel.backward(parallel.forward(torch.ones(1, 2), 1).sum(), report_R) is report_R
        assert torch.equal(network.weight.grad, torch.ones(1, 2))
    assert capsys.readouterr().err == ""


@pytest.mark.threat(68)
def test_three_processes_agree(start_ranks: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On rank 0's value, a list gathered from all, the gradient of a batch, and a sum."""

    def work(rank: int) -> None:
        with process_group(torch.device("cpu")) as processes:
            assert (processes.rank, processes.world_size, processes.local_rank) == (rank, 3, rank)
            assert processes.on_writer(lambda: f"of {rank}") == "of 0"
            assert processes.gather(list("abcdefg")[processes.rows]) == list("abcdefg")
            assert processes.gather(["a"][processes.rows]) == ["a"]
            matrix_NK = torch.arange(14.0).view(7, 2)
            assert torch.equal(processes.gather_rows(matrix_NK[processes.rows]), matrix_NK)
            processes.announce_writer(tmp_path / "r")
            network = nn.Linear(2, 1)
            parallel = DataParallel(network, network, 2, processes)
            for factor in (1.0, 10.0):
                loss = factor * parallel.forward(matrix_NK[processes.rows], 7).sum() / 7
                summed_R = parallel.backward(loss, torch.tensor([1.0, factor * rank]))
                torch.testing.assert_close(summed_R, torch.tensor([3.0, 3 * factor]))
                torch.testing.assert_close(network.weight.grad, factor * matrix_NK.mean(0, keepdim=True))
                network.zero_grad()
            parallel.close()

    assert [rank.wait() for rank in start_ranks(work, 3)] == [0, 0, 0]
    assert capfd.readouterr().err == f"rank 0 of 3, on {socket.gethostname()}, writes {tmp_path / 'r'}\n"


@pytest.mark.threat(68)
def test_other_data_on_another_machine_are_refused(start_ranks: Any) -> None:
    def work(rank: int) -> None:
        with process_group(torch.device("cpu")) as processes:
            if rank == 0:
                processes.refuse_other_data("one")
            else:
                with pytest.raises(DataError, match=r"rank 1, on .*, has other data than rank 0"):
                    processes.refuse_other_data("another")

    assert [rank.wait() for rank in start_ranks(work)] == [0, 0]


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
    with pytest.raises(EnvironmentFault, match="another process of this run has ended"), process_loss_errors():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    with pytest.raises(EnvironmentFault, match="another process of this run does not answer"), process_loss_errors():
        raise RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms for recv operation")
    with pytest.raises(RuntimeError, match="out of memory"), process_loss_errors():
        raise RuntimeError("out of memory")


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_launch(monkeypatch, "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(UsageError, match="local rank 1 has no GPU of its own\n  start at most 1 here"),
        process_group(torch.device("cuda")),
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
    monkeypatch.setattr(distributed, "connect_store", lambda _: "store")
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)

    def meeting(*_: object, **__: object) -> None:
        if fails:
            raise UsageError("nobody came")

    monkeypatch.setattr(distributed.dist, "init_process_group", meeting)
    with contextlib.suppress(UsageError), process_group(torch.device("cuda")) as processes:
        assert (processes.rank, chosen) == (1, [0, 1])
    assert chosen == [0, 1, 0]


@pytest.mark.threat(73)
def test_the_gradients_exchange_is_freed_before_the_process_group(
    make_recipe: Callable[..., Recipe],
    tiny_spec: NetworkSpec,
    synthetic: Any,  # noqa: ARG001
    start_ranks: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Otherwise a process may hang at its end."""
    made: list[weakref.ref[DistributedDataParallel]] = []
    begin, end = DistributedDataParallel.__init__, dist.destroy_process_group

    def note(exchange: DistributedDataParallel, *arguments: Any, **named: Any) -> None:
        made.append(weakref.ref(exchange))
        begin(exchange, *arguments, **named)

    def check() -> None:
        assert [exchange() for exchange in made] == [None]
        end()

    monkeypatch.setattr(DistributedDataParallel, "__init__", note)
    monkeypatch.setattr(dist, "destroy_process_group", check)
    recipe = make_recipe(model=tiny_spec, max_steps=1)
    ranks = start_ranks(lambda _: train(recipe, runs_dir=tmp_path, run="r"))
    assert [rank.wait() for rank in ranks] == [0, 0]
