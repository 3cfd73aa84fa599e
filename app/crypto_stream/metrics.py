"""What producer, stream job and dashboard tell of themselves: Prometheus metrics on the loopback interface.

`crypto-check` judges the services by them. Times are in epoch seconds, as Prometheus has it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from structlog.stdlib import BoundLogger

from crypto_stream.outbox import Outbox

ADDRESS = "127.0.0.1"
# What the names of each service's metrics begin with, after `crypto_`.
PREFIXES = {"producer": "producer", "stream_job": "job", "dashboard": "dashboard"}
AnyMetric = TypeVar("AnyMetric", Counter, Gauge)
OK, INCOMPLETE, FAILED = "ok", "incomplete", "failed"


class Metrics:
    """What the three have in common: a registry of their own, and the page that shows it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def serve(self, port: int, logger: BoundLogger) -> None:
        """Answer at http://127.0.0.1:port/metrics. Without that page all else goes on, but `crypto-check` complains."""
        try:
            start_http_server(port, addr=ADDRESS, registry=self.registry)
        except OSError as error:
            logger.error("metrics_unavailable", port=port, reason=str(error))

    def _gauge(self, name: str, text: str, function: Callable[[], float] | None = None) -> Gauge:
        gauge = Gauge(name, text, registry=self.registry)
        if function is not None:
            gauge.set_function(function)
        return gauge


class ProducerMetrics(Metrics):
    """Polls, messages, and what waits for Kafka."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__()
        self._gauge("crypto_producer_start_timestamp_seconds", "When the process began").set_to_current_time()
        self._polls = Counter("crypto_producer_polls", "Polls by outcome", ["outcome"], registry=self.registry)
        self._messages = Counter("crypto_producer_messages", "Messages by outcome", ["outcome"], registry=self.registry)
        self._last = Enum(
            "crypto_producer_last_poll", "Its outcome", states=[OK, INCOMPLETE, FAILED], registry=self.registry
        )
        self._last_time = self._gauge("crypto_producer_last_poll_timestamp_seconds", "When the last poll ended")
        self._last_coins = self._gauge("crypto_producer_last_poll_coins", "Coins that the last poll brought")
        self._last_duration = self._gauge("crypto_producer_last_poll_duration_seconds", "How long the last poll took")
        self._page_time = self._gauge("crypto_producer_last_page_timestamp_seconds", "When a page last brought prices")
        self._market_time = self._gauge(
            "crypto_producer_market_moved_timestamp_seconds", "When the API's own time of its values last moved"
        )
        self._market_told: float | None = None
        self._failed_pages = self._gauge("crypto_producer_last_poll_pages_failed", "Pages that it could not get")
        self._acknowledged_time = self._gauge(
            "crypto_producer_last_acknowledged_timestamp_seconds", "When Kafka last acknowledged a message"
        )
        self._gauge("crypto_producer_outbox_records", "Messages that Kafka has not acknowledged", lambda: len(outbox))
        self._gauge("crypto_producer_outbox_age_seconds", "Age of the oldest of them", lambda: _age(outbox.oldest_ts()))

    def polled(self, began: float, *, pages_failed: int, tickers: int, rejected: int) -> None:
        """A poll has ended, in which case ever; `began` in epoch seconds."""
        now = time.time()
        outcome = FAILED if not tickers and not rejected else INCOMPLETE if pages_failed else OK
        self._polls.labels(outcome).inc()
        self._last.state(outcome)
        self._last_time.set(now)
        self._last_coins.set(tickers)
        self._failed_pages.set(pages_failed)
        self._last_duration.set(now - began)

    def page_came(self, market_time: float | None) -> None:
        """A page of a poll brought prices, and they are kept; `market_time` is the API's own time of its values."""
        now = time.time()
        self._page_time.set(now)
        # Without one, nobody can say that they stand still.
        if market_time is None or market_time != self._market_told:
            self._market_told = market_time
            self._market_time.set(now)

    def delivered(self, acknowledged: int, failed: int) -> None:
        """A round of delivery has ended."""
        self._messages.labels("acknowledged").inc(acknowledged)
        self._messages.labels("failed").inc(failed)
        if acknowledged:
            self._acknowledged_time.set(time.time())

    def dropped(self, messages: int) -> None:
        """The outbox was full."""
        self._messages.labels("dropped").inc(messages)


class JobMetrics(Metrics):
    """Each query's batches, and how far behind its topics it is."""

    def __init__(self) -> None:
        super().__init__()
        self._gauge("crypto_job_start_timestamp_seconds", "When the process began").set_to_current_time()
        self._batches = self._by_query(Counter, "crypto_job_batches", "Batches that were written")
        self._rows = Counter(
            "crypto_job_rows", "Rows by what became of them", ["query", "outcome"], registry=self.registry
        )
        self._last_time = self._by_query(Gauge, "crypto_job_last_batch_timestamp_seconds", "When the last was written")
        self._last_duration = self._by_query(Gauge, "crypto_job_last_batch_duration_seconds", "How long it took")
        self._lag = self._by_query(Gauge, "crypto_job_lag_records", "Messages that no batch has written yet")
        self._lag_seconds = self._by_query(
            Gauge, "crypto_job_lag_seconds", "Age of the newest written one, while others wait"
        )

    def _by_query(self, kind: type[AnyMetric], name: str, text: str) -> AnyMetric:
        return kind(name, text, ["query"], registry=self.registry)

    def written(self, query: str, seconds: float, rows: Mapping[str, int]) -> None:
        """A batch has ended; `rows` by outcome: written, refused, late."""
        self._batches.labels(query).inc()
        self._last_time.labels(query).set(time.time())
        self._last_duration.labels(query).set(seconds)
        for outcome, count in rows.items():
            self._rows.labels(query, outcome).inc(count)

    def behind(self, query: str, records: int, seconds: float) -> None:
        """How far a table is behind its topics."""
        self._lag.labels(query).set(records)
        self._lag_seconds.labels(query).set(seconds)


class DashboardMetrics(Metrics):
    """What the page can show."""

    def __init__(self) -> None:
        super().__init__()
        self._reads = Counter("crypto_dashboard_reads", "Looks at Cassandra", ["outcome"], registry=self.registry)
        self._last_time = self._gauge("crypto_dashboard_last_read_timestamp_seconds", "When the board was last read")
        self._coins = self._gauge("crypto_dashboard_coins", "Coins on the board")

    def read(self, coins: int) -> None:
        """The board was read."""
        self._reads.labels(OK).inc()
        self._last_time.set(time.time())
        self._coins.set(coins)

    def failed(self) -> None:
        """Cassandra did not answer."""
        self._reads.labels(FAILED).inc()


def read(text: str) -> dict[str, float]:
    """A page of metrics as values by name; a labelled one's name is `name{outcome}`, with the labels' values."""
    return {
        sample.name + ("{" + ",".join(sample.labels.values()) + "}" if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _age(ts: int | None) -> float:
    return 0 if ts is None else max(0.0, time.time() - ts / 1000)
