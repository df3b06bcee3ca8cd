"""What the service counts, for Prometheus."""

from __future__ import annotations

#: Limits in seconds of the classes of the histogram of latencies.
SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: Limits of the classes of the histogram of batches.
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters, histograms and gauges of one service.

    Raises:
        ImportError: The library is not installed.
    """

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
        except ModuleNotFoundError as error:
            raise ImportError("objemb serve needs pip install 'objemb[serve]'") from error

        self._registry = CollectorRegistry()
        self._generate = generate_latest
        here = self._registry
        self._requests = Counter("objemb_requests", "Answered requests.", ("route", "method", "status"), registry=here)
        text = "Seconds from the head of a request to its answer."
        self._seconds = Histogram("objemb_request_seconds", text, ("route",), buckets=SECONDS, registry=here)
        text = "Queries that shared a pass over the index."
        self._batch = Histogram("objemb_batch_size", text, buckets=BATCHES, registry=here)
        text = "Queries that shared a forward pass."
        self._pass = Histogram("objemb_pass_size", text, buckets=BATCHES, registry=here)
        self._reloads = Counter("objemb_index_reloads", "Newer publications of the index.", ("outcome",), registry=here)
        self._gauges = {
            name: Gauge(f"objemb_{name}", text, registry=here)
            for name, text in (
                ("queue", "Requests with photos that are being answered or wait for it."),
                ("held_bytes", "Bytes of bodies of requests that are held."),
                ("index_generation", "Number of the publication that is served."),
                ("index_stale", "1 while a newer publication cannot be served, such as one whose model is not there."),
                ("index_images", "Images of the index."),
                ("index_rows", "Rows of the index."),
            )
        }

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, count: int) -> None:
        """Count a pass over the index, and its queries."""
        self._batch.observe(count)

    def forward_pass(self, count: int) -> None:
        """Count a forward pass, and its queries."""
        self._pass.observe(count)

    def reload(self, served: bool) -> None:
        """Count a newer publication, and whether it is served."""
        self._reloads.labels("served" if served else "refused").inc()

    def text(self, **gauges: float) -> bytes:
        """All figures in the text format of Prometheus; ``gauges`` are set to what is given."""
        for name, value in gauges.items():
            self._gauges[name].set(value)
        return bytes(self._generate(self._registry))
