"""The metrics of /metrics: requests, their times, batch sizes, waiting pictures."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
BATCH_SIZES = (1, 2, 4, 8, 16)


class Metrics:
    """The server's metrics, in a separate registry so that two servers in one program do not share them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "pocket_resnet_requests", "Requests by route and status.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "pocket_resnet_request_seconds", "Time to answer a request.", ("route",), registry=self._registry
        )
        self._batches = Histogram(
            "pocket_resnet_batch_size", "Pictures classified together.", buckets=BATCH_SIZES, registry=self._registry
        )
        self._waiting = Gauge(
            "pocket_resnet_waiting_pictures", "Pictures that wait or are being classified.", registry=self._registry
        )

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request; `route` is one of the API's, never a path chosen by a client."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def observe_batch(self, num_pictures: int) -> None:
        """Count a batch."""
        self._batches.observe(num_pictures)

    def watch_waiting(self, count: Callable[[], int]) -> None:
        """Read the number of waiting pictures from `count`."""
        self._waiting.set_function(count)

    def text(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self._registry)
