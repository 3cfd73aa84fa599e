"""What the stream job does, as data: which topics become which table, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import DataFrame

from crypto_stream import tables, transforms
from crypto_stream.config import Settings
from crypto_stream.tables import Table
from crypto_stream.transforms import Topics


@dataclass(frozen=True)
class Query:
    """From topics, by the names that `Kafka.topics` knows them by, to one table.

    `trigger_ms` is the least time from one batch to the next. A query with `state` has batches that depend on earlier
    ones: it sends the rows that a batch has changed. `share` is how much of `max_offsets_per_trigger` a batch may take:
    Spark interrupts no task, so that prices would wait for a long one of a query that nobody waits for.
    """

    topics: tuple[str, ...]
    rows: Callable[[Topics], DataFrame]
    table: Table
    trigger_ms: int
    state: bool = False
    share: float = 1

    @property
    def name(self) -> str:
        """What Spark, the metrics, the logs and its checkpoint call it."""
        return self.table.name


def queries(settings: Settings) -> tuple[Query, ...]:
    """All of them; the first one is what people wait for, so it has no one before it."""
    lateness = settings.stream_job.candle_lateness_seconds
    # Polls come every thirty seconds by default, and each batch of candles keeps the driver busy for a second in which
    # prices wait.
    return (
        Query(("prices",), transforms.prices, tables.PRICES, settings.stream_job.trigger_ms),
        Query(("prices",), transforms.latest_prices, tables.LATEST_PRICES, 2000, share=0.1),
        Query(
            ("prices",),
            lambda topics: transforms.candles(topics, lateness),
            tables.CANDLES,
            20_000,
            state=True,
            share=0.5,
        ),
        Query(("market",), transforms.market_global, tables.MARKET_GLOBAL, 2000),
        Query(("prices", "market", "rejected"), transforms.dead_letters, tables.DEAD_LETTERS, 5000, share=0.25),
    )
