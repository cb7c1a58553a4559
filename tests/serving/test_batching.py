"""Waiting pictures are classified in batches; each gets its own outcome."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocket_resnet.data.image import ImageError
from pocket_resnet.serving import batching
from pocket_resnet.serving.batching import MAX_BATCH, MAX_NUM_WAITING, Batcher, BusyError

from .conftest import picture

SIZE = 8


class Gate:
    """Classifies by the mean of each picture, once it is open."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        self.sizes: list[int] = []

    def classify(self, images_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.entered.set()
        self.sizes.append(len(images_BSSC))
        assert self.open.wait(20)
        return images_BSSC.reshape(len(images_BSSC), -1).mean(1, keepdims=True).astype(np.float32)


def with_batcher(classify: Any, use: Callable[[Batcher], Awaitable[Any]], num_workers: int = 1) -> Any:
    async def main() -> Any:
        batcher = Batcher(classify, SIZE, num_workers=num_workers)
        try:
            return await use(batcher)
        finally:
            batcher.stop()

    return asyncio.run(main())


async def entered(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 20)


def test_waiting_pictures_are_classified_together() -> None:
    """The first one alone, those that arrive meanwhile in batches of at most 16; each with its own outcome."""
    gate, contents = Gate(), [picture(seed) for seed in range(21)]

    async def use(batcher: Batcher) -> list[Any]:
        tasks = [asyncio.create_task(batcher.outcomes(contents[:1]))]
        await entered(gate)
        tasks += [asyncio.create_task(batcher.outcomes([content])) for content in contents[1:]]
        await asyncio.sleep(0)
        assert batcher.num_waiting == len(contents)
        gate.open.set()
        outcomes = [await task for task in tasks]
        assert batcher.num_waiting == 0
        return outcomes

    outcomes = with_batcher(gate.classify, use)
    assert gate.sizes == [1, MAX_BATCH, 4]
    alone = Gate()
    alone.open.set()
    expected = [with_batcher(alone.classify, lambda batcher, each=each: batcher.outcomes([each])) for each in contents]
    assert [outcome.tolist() for [outcome] in outcomes] == [outcome.tolist() for [outcome] in expected]


def test_bad_pictures_fail_by_themselves() -> None:
    gate = Gate()
    gate.open.set()
    contents = [picture(0), b"no", picture(1), b"", picture(2)[:60]]
    outcomes = with_batcher(gate.classify, lambda batcher: batcher.outcomes(contents))
    assert [isinstance(outcome, ImageError) for outcome in outcomes] == [False, True, False, True, True]
    [only] = with_batcher(gate.classify, lambda batcher: batcher.outcomes([b"no"]))
    assert isinstance(only, ImageError)


@pytest.mark.threat(34)
def test_busy() -> None:
    """The limit counts waiting pictures; pictures within it are classified."""
    gate = Gate()

    async def use(batcher: Batcher) -> None:
        task = asyncio.create_task(batcher.outcomes([picture()] * MAX_NUM_WAITING))
        await entered(gate)
        with pytest.raises(BusyError):
            await batcher.outcomes([picture()])
        gate.open.set()
        assert len(await task) == MAX_NUM_WAITING
        assert len(await batcher.outcomes([picture()])) == 1

    with_batcher(gate.classify, use)


@pytest.mark.threat(36)
def test_a_bug_fails_its_requests_and_not_the_worker() -> None:
    def classify(images_BSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        if len(images_BSSC) > 1:
            raise RuntimeError("bug")
        return np.zeros((1, 3), np.float32)

    async def use(batcher: Batcher) -> list[Any]:
        blocked = await batcher.outcomes([picture()])
        return [*blocked, *await batcher.outcomes([picture()] * MAX_BATCH), *await batcher.outcomes([picture()])]

    outcomes = with_batcher(classify, use)
    assert isinstance(outcomes[0], np.ndarray)
    assert isinstance(outcomes[-1], np.ndarray)
    assert any(isinstance(outcome, RuntimeError) for outcome in outcomes)


def test_stop_with_pictures_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers finish the queue; a worker that hangs is abandoned."""
    monkeypatch.setattr(batching, "STOP_TIMEOUT_S", 0.2)
    gate = Gate()

    async def use(batcher: Batcher) -> None:
        task = asyncio.create_task(batcher.outcomes([picture()] * 3))
        await entered(gate)
        await asyncio.to_thread(batcher.stop)
        gate.open.set()
        assert len(await task) == 3

    with_batcher(gate.classify, use)
