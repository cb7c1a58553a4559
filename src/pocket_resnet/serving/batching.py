"""Classifies pictures from many requests together: a worker takes all waiting ones, up to MAX_BATCH.

No picture waits for a batch to fill: an idle worker starts with the first one, and others queue while it works.

Shapes: B images per batch, S x S pixels of the network, K classes.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

import numpy as np
from numpy.typing import NDArray

from pocket_resnet.data.image import ImageError, decode
from pocket_resnet.serving.served_model import Classify

MAX_BATCH = 16
MAX_NUM_WAITING = 64
MAX_NUM_WORKERS = 8  # each may hold a picture of 50 megapixels; one event loop cannot feed more
STOP_TIMEOUT_S = 3.0

ProbabilitiesOrError = NDArray[np.float32] | Exception
"""The probabilities [K] of a picture, or the error."""


class BusyError(Exception):
    """Too many pictures are already waiting."""


@dataclass(frozen=True)
class _Job:
    content: bytes
    future: asyncio.Future[ProbabilitiesOrError]


class Batcher:
    """Decodes and classifies pictures in worker threads. Its coroutine is for use in one event loop."""

    def __init__(
        self,
        classify: Classify,
        image_size: int,
        *,
        num_workers: int,
        on_batch: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Start the workers. `on_batch` is called with the size of each batch."""
        self._classify, self._image_size = classify, image_size
        self._on_batch = on_batch
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._num_waiting = 0
        self._workers = [threading.Thread(target=self._work, daemon=True) for _ in range(num_workers)]
        for worker in self._workers:
            worker.start()

    @property
    def num_waiting(self) -> int:
        """Number of pictures that have no outcome yet."""
        return self._num_waiting

    async def outcomes(self, contents: Sequence[bytes]) -> list[ProbabilitiesOrError]:
        """The outcome of each encoded picture. Raises BusyError if too many would wait."""
        if self._num_waiting + len(contents) > MAX_NUM_WAITING:
            raise BusyError
        loop = asyncio.get_running_loop()
        jobs = [_Job(content, loop.create_future()) for content in contents]
        self._num_waiting += len(jobs)
        for job in jobs:
            job.future.add_done_callback(self._count_off)
            self._jobs.put(job)
        return await asyncio.gather(*(job.future for job in jobs))

    def stop(self) -> None:
        """Stop the workers after their current batch; a very slow one is abandoned."""
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            worker.join(STOP_TIMEOUT_S / len(self._workers))

    def _count_off(self, _: asyncio.Future[ProbabilitiesOrError]) -> None:
        self._num_waiting -= 1

    def _work(self) -> None:
        while batch := self._next_batch():
            outcomes = self._outcomes([job.content for job in batch])
            with contextlib.suppress(RuntimeError):  # the loop and its requests have ended
                batch[0].future.get_loop().call_soon_threadsafe(_deliver, batch, outcomes)

    def _next_batch(self) -> list[_Job]:
        """The waiting jobs, at least one; an empty list when it is time to stop."""
        job, batch = self._jobs.get(), []
        while job is not None:
            batch.append(job)
            if len(batch) == MAX_BATCH:
                return batch
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return batch
        if batch:
            self._jobs.put(None)  # to stop after this batch
        return batch

    def _outcomes(self, contents: Sequence[bytes]) -> list[ProbabilitiesOrError]:
        decoded = [self._decode(content) for content in contents]
        images = [image for image in decoded if not isinstance(image, Exception)]
        if not images:
            return [image for image in decoded if isinstance(image, Exception)]
        try:
            self._on_batch(len(images))
            rows = iter(self._classify(np.stack(images)))
        except Exception as error:  # a bug, or no memory: the requests fail, the worker continues
            return [error] * len(contents)
        return [image if isinstance(image, Exception) else next(rows) for image in decoded]

    def _decode(self, content: bytes) -> NDArray[np.uint8] | Exception:
        try:
            return decode(content, self._image_size)
        except ImageError as error:
            return error


def _deliver(batch: Sequence[_Job], outcomes: Sequence[ProbabilitiesOrError]) -> None:
    for job, outcome in zip(batch, outcomes, strict=True):
        if not job.future.done():  # cancelled when the server stops
            job.future.set_result(outcome)
