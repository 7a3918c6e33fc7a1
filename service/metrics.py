"""Prometheus metrics: what the case book says is read at every scrape, so it is right however many processes there are.

Counts of HTTP requests are each process's own, as Prometheus expects of processes it scrapes one by one.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import Unavailable
from service.records import Book
from service.records.finished import finished_after
from service.store import Store

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
STAGE_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
HTTP_BUCKETS_S: Final = (0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0)


class HttpCounts:
    """Requests by method, route and status, and how long each route took."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "leukoscope_http_requests", "HTTP requests answered by this process", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "leukoscope_http_request_seconds", "Time to answer", ["route"], buckets=HTTP_BUCKETS_S, registry=self.registry
        )

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class StageTimes:
    """
    How long the stages of finished cases took, as histograms.

    Every finish in the case book's history is counted once, and each scrape reads only those since the last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._after = 0
        self._counts: dict[str, list[int]] = defaultdict(lambda: [0] * (len(STAGE_BUCKETS_S) + 1))
        self._sums: dict[str, float] = defaultdict(float)

    def read(self, book: Book) -> HistogramMetricFamily:
        """Take in what finished since the last call, and give the histograms. Raises Unavailable."""
        with self._lock:
            for line, stages in finished_after(book, self._after):
                for name, seconds in stages.items():
                    self._counts[name][bisect_left(STAGE_BUCKETS_S, seconds)] += 1
                    self._sums[name] += seconds
                self._after = line
            family = HistogramMetricFamily("leukoscope_stage_seconds", "Time of each stage of finished cases", labels=["stage"])
            for name, counts in sorted(self._counts.items()):
                family.add_metric([name], _cumulated(counts), self._sums[name])
            return family


class BookCollector(Collector):
    """The case book, the outbox and the disk, looked at when asked."""

    def __init__(self, book: Book, store: Store, version: str) -> None:
        self._book, self._store, self._version = book, store, version
        self._stages = StageTimes()

    def collect(self) -> Iterator[Metric]:
        """Give every family; where the database or the disk is away its gauge says so and the rest is still there."""
        yield InfoMetricFamily("leukoscope_build", "What runs here", {"version": self._version})
        yield from self._part("database", self._of_book)
        yield from self._part("store", self._of_store)

    def _part(self, name: str, read: object) -> Iterator[Metric]:
        families: list[Metric] = []
        try:
            families = list(read())  # type: ignore[operator]
        except Unavailable:
            pass
        up = GaugeMetricFamily(f"leukoscope_{name}_up", f"Whether the {name} answers", value=1.0 if families else 0.0)
        yield up
        yield from families

    def _of_book(self) -> Iterator[Metric]:
        cases = GaugeMetricFamily("leukoscope_cases", "Cases by state", labels=["state"])
        for state, count in self._book.count_cases().items():
            cases.add_metric([state.value], count)
        yield cases
        outbox = GaugeMetricFamily("leukoscope_deliveries", "Outputs on their way, by state", labels=["state"])
        for name, count in sorted(self._book.count_deliveries().items()):
            outbox.add_metric([name], count)
        yield outbox
        since = self._book.oldest_queued_at()
        age_s = max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0.0
        yield GaugeMetricFamily("leukoscope_queue_oldest_seconds", "How long the oldest queued case has waited", value=age_s)
        yield self._stages.read(self._book)

    def _of_store(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("leukoscope_disk_free_bytes", "Room on the disk of the object store", value=self._store.free_bytes())


class Metrics:
    """Everything this process exposes."""

    def __init__(self, book: Book, store: Store, counts: HttpCounts, version: str) -> None:
        self._registry = counts.registry
        self._registry.register(BookCollector(book, store, version))
        ProcessCollector(registry=self._registry)

    def expose(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    bounds = [str(bound) for bound in STAGE_BUCKETS_S] + ["+Inf"]
    total = 0
    pairs = []
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        pairs.append((bound, float(total)))
    return pairs
