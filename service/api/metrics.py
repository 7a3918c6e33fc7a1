"""Prometheus metrics: what the case book says is read at every scrape, so it is right however many processes there are.

What listeners and workers count they add to the case book's sums every two seconds (service.presence), so any API process tells for
all of them; the last seconds of a process that is killed are missing. Transitions and stage times are counted from the history of the
cases that are kept. Counts of HTTP requests are each process's own, as Prometheus expects of processes it scrapes one by one.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import Unavailable
from service.records import Book, Event
from service.records.finished import finished_after
from service.store import Store
from service.tls.renewal import ends_told, is_troubled

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
STAGE_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
HTTP_BUCKETS_S: Final = (0.005, 0.025, 0.1, 0.5, 2.0, 10.0, 60.0)
PART_KINDS: Final = ("listener", "api", "inference", "delivery")


@dataclass(frozen=True)
class Sum:
    """One of the case book's sums: what it tells, its labels, and those of their values that are shown before the first count."""

    text: str
    labels: tuple[str, ...] = ()
    known: tuple[tuple[str, ...], ...] = ()


SUMS: Final = {
    "associations": Sum(
        "Requests for an association, by what became of them",
        ("result",),
        (("accepted",), ("calling_ae",), ("certificate",), ("tls",), ("disk_full",), ("too_many",), ("stopping",)),
    ),
    "c_store_responses": Sum("Answers to C-STORE, by DIMSE status", ("status",), (("0x0000",),)),
    "received_instances": Sum(
        "Instances taken in, by door and by what they were", ("door", "outcome"), (("dicom", "new"), ("rest", "new"))
    ),
    "received_bytes": Sum("Bytes of encoded data sets taken in, by door", ("door",), (("dicom",), ("rest",))),
    "delivery_attempts": Sum("Attempts to send a result, by destination and result", ("destination", "result")),
    "commitments": Sum("Results by what became of asking the destination to commit to them", ("destination", "result")),
    "retention_cases": Sum("Cases removed by the retention", (), ((),)),
    "retention_bytes": Sum("Bytes of files removed by the retention", (), ((),)),
}
"""What processes count, by the name under which they do (`Counts.add`)."""


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


class Transitions:
    """How often what happened to the cases that are kept; each scrape reads only what is new in their history."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._after = 0
        self._counts = dict.fromkeys(Event, 0)

    def read(self, book: Book) -> CounterMetricFamily:
        """Take in what happened since the last call, and give the sums. Raises Unavailable."""
        with self._lock:
            self._after, more = book.events_after(self._after)
            for event, count in more.items():
                self._counts[event] += count
            text = "Transitions of cases: stumble and fail are attempts that failed, lapse a killed worker, set_aside a case held for those"
            family = CounterMetricFamily("leukoscope_case_events", text, labels=["event"])
            for event, count in self._counts.items():
                family.add_metric([event.value.replace(" ", "_")], count)
            return family


class BookCollector(Collector):
    """The case book, the outbox and the disk, looked at when asked."""

    def __init__(self, book: Book, store: Store, version: str) -> None:
        self._book, self._store, self._version = book, store, version
        self._stages = StageTimes()
        self._events = Transitions()

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
        dead = GaugeMetricFamily("leukoscope_deliveries_dead", "Outputs given up, by destination", labels=["destination"])
        for name, count in sorted(self._book.count_dead_deliveries().items()):
            dead.add_metric([name], count)
        yield dead
        yield _age("leukoscope_queue_oldest_seconds", "How long the oldest queued case has waited", self._book.oldest_queued_at())
        yield _age(
            "leukoscope_deliveries_oldest_pending_seconds",
            "How long the oldest result that is still to be sent has waited",
            self._book.oldest_pending_at(),
        )
        yield self._events.read(self._book)
        yield self._stages.read(self._book)
        yield from self._of_parts()
        yield from _sums(self._book)

    def _of_parts(self) -> Iterator[Metric]:
        living = self._book.living_parts()
        alive = GaugeMetricFamily("leukoscope_parts", "Living parts of the installation, by kind", labels=["kind"])
        for kind in PART_KINDS:
            alive.add_metric([kind], sum(part.kind == kind for part in living))
        yield alive
        listeners = [part.detail for part in living if part.kind == "listener"]
        opened = sum(int(detail.get("associations", 0)) for detail in listeners)
        yield GaugeMetricFamily("leukoscope_associations_open", "Associations open at all listeners", value=opened)
        refusing = sum(bool(detail.get("refuses")) for detail in listeners)
        yield GaugeMetricFamily(
            "leukoscope_listeners_refusing", "Listeners that take no association for want of disk space", value=refusing
        )
        yield from _of_tls([part.detail for part in living])

    def _of_store(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("leukoscope_disk_free_bytes", "Room on the disk of the object store", value=self._store.free_bytes())
        yield GaugeMetricFamily("leukoscope_disk_reserve_bytes", "Below so much room nothing is taken in", value=self._store.reserve_bytes)


class Metrics:
    """Everything this process exposes."""

    def __init__(self, book: Book, store: Store, counts: HttpCounts, version: str) -> None:
        self._registry = counts.registry
        self._registry.register(BookCollector(book, store, version))
        ProcessCollector(registry=self._registry)

    def expose(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self._registry)


def _age(name: str, text: str, since: datetime | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=max(0.0, (datetime.now(UTC) - since).total_seconds()) if since else 0.0)


def _of_tls(details: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    text = "When a certificate of ours or the first of the revocation lists in use ends, by what the settings call its file"
    family = GaugeMetricFamily("leukoscope_tls_file_end_timestamp_seconds", text, labels=["file"])
    ends = sorted(told for detail in details for told in ends_told(detail).items())
    for name, end in dict(reversed(ends)).items():  # the first, where processes differ
        family.add_metric([name], end.timestamp())
    yield family
    text = "Listeners and delivery workers whose new TLS files cannot be used"
    yield GaugeMetricFamily("leukoscope_tls_renewals_failing", text, value=sum(map(is_troubled, details)))


def _sums(book: Book) -> Iterator[CounterMetricFamily]:
    found = book.counters()
    for name, kind in SUMS.items():
        family = CounterMetricFamily(f"leukoscope_{name}", kind.text, labels=list(kind.labels))
        values = dict.fromkeys(kind.known, 0)
        values |= {labels: value for (other, labels), value in found.items() if other == name and len(labels) == len(kind.labels)}
        for labels, value in sorted(values.items()):
            family.add_metric(list(labels), value)
        yield family


def _cumulated(counts: list[int]) -> list[tuple[str, float]]:
    bounds = [str(bound) for bound in STAGE_BUCKETS_S] + ["+Inf"]
    total = 0
    pairs = []
    for bound, count in zip(bounds, counts, strict=True):
        total += count
        pairs.append((bound, float(total)))
    return pairs
