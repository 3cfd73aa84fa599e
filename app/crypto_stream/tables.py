"""The tables: columns, keys, how long a row lives, and how Cassandra stores it. Each is said here and nowhere else.

`schema` creates and alters them, the stream job and its replay write them, and the readers know them by these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from crypto_stream.config import Retention

DAY_SECONDS = 86_400
DAY_MS = DAY_SECONDS * 1000
# Seconds of a candle, by the name that its rows have.
INTERVALS = {"1m": 60, "15m": 900, "1h": 3600, "1d": DAY_SECONDS}
# How many files a table of one window after the other shall come to, about; Cassandra's own advice is some dozens.
WINDOWS = 30
LEVELED = "org.apache.cassandra.db.compaction.LeveledCompactionStrategy"
TIME_WINDOWS = "org.apache.cassandra.db.compaction.TimeWindowCompactionStrategy"


# One is itself and no other.
@dataclass(frozen=True, eq=False)
class Table:
    """One table. `columns` are CQL's types by name, `keep` the setting that says how long rows live.

    `descending` is the clustering column by which the newest row comes first. In a table that is `current`, newer
    values take the place of older ones, null included; in the others null says nothing.
    """

    name: str
    columns: Mapping[str, str]
    partition_key: tuple[str, ...]
    clustering_key: tuple[str, ...]
    keep: str
    descending: str | None = None
    current: bool = False

    def seconds(self, retention: Retention) -> int:
        """How long a row lives."""
        return int(getattr(retention, self.keep)) * DAY_SECONDS

    def compaction(self, retention: Retention) -> dict[str, str]:
        """The newest rows are written together, are read together, and go together."""
        if self.current:
            return {"class": LEVELED}
        days = max(1, self.seconds(retention) // DAY_SECONDS // WINDOWS)
        return {"class": TIME_WINDOWS, "compaction_window_unit": "DAYS", "compaction_window_size": str(days)}

    def create(self, keyspace: str, retention: Retention) -> str:
        """The statement that makes it."""
        columns = ", ".join(f"{name} {kind}" for name, kind in self.columns.items())
        key = ", ".join([f"({', '.join(self.partition_key)})", *self.clustering_key])
        order = ", ".join(f"{name} {'DESC' if name == self.descending else 'ASC'}" for name in self.clustering_key)
        return (
            f"CREATE TABLE IF NOT EXISTS {keyspace}.{self.name} ({columns}, PRIMARY KEY ({key}))"
            f" WITH CLUSTERING ORDER BY ({order}) AND {self.options(retention)}"
        )

    def options(self, retention: Retention) -> str:
        """What may change on a table that exists."""
        return f"default_time_to_live = {self.seconds(retention)} AND compaction = {self.compaction(retention)}"

    def insert(self, keyspace: str) -> str:
        """The statement that writes a row: its columns in order, then the write time (microseconds) and the life of the
        row (seconds).
        """
        marks = ", ".join("?" * len(self.columns))
        return (
            f"INSERT INTO {keyspace}.{self.name} ({', '.join(self.columns)}) VALUES ({marks})"  # noqa: S608 - plain names
            " USING TIMESTAMP ? AND TTL ?"
        )


# The columns and the key are those that the project began with.
PRICES = Table(
    "prices",
    {"id": "text", "name": "text", "price_usd": "double", "ts": "bigint", "processing_time": "timestamp"},
    ("id",),
    ("ts",),
    keep="prices_days",
    descending="ts",
)
# The one partition of `latest_prices`, so that one read gives the board.
BOARD = "all"
LATEST_PRICES = Table(
    "latest_prices",
    {
        "board": "text",
        "id": "text",
        "symbol": "text",
        "name": "text",
        "rank": "int",
        "price_usd": "double",
        "volume24_usd": "double",
        "market_cap_usd": "double",
        "percent_change_1h": "double",
        "percent_change_24h": "double",
        "percent_change_7d": "double",
        "ts": "bigint",
        "processing_time": "timestamp",
    },
    ("board",),
    ("id",),
    keep="prices_days",
    current=True,
)
# A partition is one coin's candles of one length and one month, at most 44,640 of them.
CANDLES = Table(
    "candles",
    {
        "id": "text",
        "interval": "text",
        "month": "text",
        "start": "timestamp",
        "open": "double",
        "high": "double",
        "low": "double",
        "close": "double",
        "samples": "int",
        "volume24_usd": "double",
        "processing_time": "timestamp",
    },
    ("id", "interval", "month"),
    ("start",),
    keep="candles_days",
    descending="start",
)
MARKET_GLOBAL = Table(
    "market_global",
    {
        "month": "text",
        "ts": "bigint",
        "total_mcap_usd": "double",
        "total_volume_usd": "double",
        "btc_d": "double",
        "eth_d": "double",
        "mcap_change": "double",
        "volume_change": "double",
        "avg_change_percent": "double",
        "coins_count": "int",
        "active_markets": "int",
        "rising": "int",
        "falling": "int",
        "processing_time": "timestamp",
    },
    ("month",),
    ("ts",),
    keep="market_global_days",
    descending="ts",
)
# Found again by where it is in Kafka; a partition is one topic's letters of one day.
DEAD_LETTERS = Table(
    "dead_letters",
    {
        "topic": "text",
        "day": "date",
        "partition": "int",
        "offset": "bigint",
        "value": "blob",
        "reason": "text",
        "processing_time": "timestamp",
    },
    ("topic", "day"),
    ("partition", "offset"),
    keep="dead_letters_days",
)
TABLES = (PRICES, LATEST_PRICES, CANDLES, MARKET_GLOBAL, DEAD_LETTERS)
