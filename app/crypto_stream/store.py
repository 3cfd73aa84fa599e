"""The one way to Cassandra: a session, and typed reading of what the stream job wrote.

The driver is imported when it is first needed, because that takes a noticeable part of a second.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from crypto_stream.config import Cassandra
from crypto_stream.messages import MAX_TS, MIN_TS, printable
from crypto_stream.tables import BOARD, CANDLES, DAY_MS, DEAD_LETTERS, LATEST_PRICES, MARKET_GLOBAL, PRICES

CONNECT_SECONDS = 5.0
# The driver looks for a lost node again after 1, 2, 4 seconds, and then this often, for ever.
RECONNECT_MAX_SECONDS = 5.0
# A session that has answered nothing for so long is given up for a new one.
SESSION_HOPELESS_SECONDS = 60.0
# Clocks differ a little; what is further ahead of this host's is a clock that is wrong.
AHEAD_SECONDS = 5.0


# How many queries are under way at a time, of many that are asked together.
CONCURRENCY = 30
# How much of a dead letter is shown.
SHOWN_BYTES = 300
_CANDLE_COLUMNS = ("start", "open", "high", "low", "close", "samples", "volume24_usd")
_MARKET_COLUMNS = (
    *("ts", "total_mcap_usd", "total_volume_usd", "btc_d", "eth_d"),
    *("mcap_change", "volume_change", "rising", "falling"),
)
_BOARD_COLUMNS = tuple(name for name in LATEST_PRICES.columns if name not in ("board", "processing_time"))


class StoreError(Exception):
    """Cassandra did not answer, or not as it should; the text is one line for people."""


@dataclass(frozen=True)
class LatestPrice:
    """What is known of a coin, of the newest message that told it: `ts` is when that was fetched, in epoch
    milliseconds. Names are fit to be shown; None is what CoinLore does not say.
    """

    id: str
    name: str
    price_usd: float
    ts: int
    symbol: str | None = None
    rank: int | None = None
    volume24_usd: float | None = None
    market_cap_usd: float | None = None
    percent_change_1h: float | None = None
    percent_change_24h: float | None = None
    percent_change_7d: float | None = None


@dataclass(frozen=True)
class Board:
    """The newest price of each coin, by rank; `ahead` has those of a clock that is wrong, `left` the coins that the
    producer's polls no longer bring although others are newer.
    """

    rows: list[LatestPrice]
    ahead: list[LatestPrice] = field(default_factory=list)
    left: list[LatestPrice] = field(default_factory=list)

    @property
    def newest_ts(self) -> int | None:
        """When the newest price was fetched, of those whose time has come, in epoch milliseconds."""
        ahead = {row.id for row in self.ahead}
        return max((row.ts for row in self.rows if row.id not in ahead), default=None)


@dataclass(frozen=True)
class Candle:
    """A coin's prices of one interval, which began at `start_ts` (epoch milliseconds)."""

    start_ts: int
    open: float
    high: float
    low: float
    close: float
    samples: int
    volume24_usd: float | None


@dataclass(frozen=True)
class MarketPoint:
    """The market as a whole at `ts` (epoch milliseconds); shares and changes in per cent, `rising` and `falling` in
    coins.
    """

    ts: int
    total_mcap_usd: float
    total_volume_usd: float
    btc_d: float | None
    eth_d: float | None
    mcap_change: float | None
    volume_change: float | None
    rising: int | None = None
    falling: int | None = None


@dataclass(frozen=True)
class DeadLetter:
    """What was set aside; texts are fit to be shown."""

    topic: str
    partition: int
    offset: int
    value: str
    reason: str
    processed_ts: int


def open_session(settings: Cassandra) -> Any:
    """A connected `cassandra.cluster.Session`, which finds its way back by itself after an outage.

    Raises what the driver raises when no node answers; `session.cluster.shutdown()` ends it.
    """
    from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
    from cassandra.policies import DCAwareRoundRobinPolicy, ExponentialReconnectionPolicy, TokenAwarePolicy

    # The driver's own choice falls back to asyncore, which Python 3.12 no longer has.
    if sys.version_info >= (3, 12):
        from cassandra.io.libevreactor import LibevConnection  # noqa: F401 - the driver takes it when it imports

    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(settings.local_datacenter)),
        request_timeout=settings.request_timeout_seconds,
    )
    cluster = Cluster(
        settings.contact_points,
        port=settings.port,
        protocol_version=5,  # of Cassandra 4.0 and later; finding that out costs two refused connections
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ExponentialReconnectionPolicy(1, RECONNECT_MAX_SECONDS, max_attempts=None),
        connect_timeout=CONNECT_SECONDS,
        control_connection_timeout=CONNECT_SECONDS,
    )
    try:
        return cluster.connect()
    except BaseException:
        cluster.shutdown()
        raise


class Store:
    """Reads prices. Made without connecting; the first query does that, and the next one tries again if it failed.

    Safe for several threads. All methods raise `StoreError` when Cassandra cannot answer.
    """

    def __init__(
        self,
        settings: Cassandra,
        connect: Callable[[Cassandra], Any] = open_session,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._session: Any = None
        self._prepared: dict[str, Any] = {}
        self._failing_since: float | None = None

    def board(self, now_ts: int, stale_seconds: float) -> Board:
        """All coins, in one read, as of `now_ts` (epoch milliseconds); those without a rank come last.

        A coin has left when it is older than the newest one by more than `stale_seconds`. Rows that no stream job has
        written (half of one, or with values that are no prices) are left out.
        """
        columns = ", ".join(_BOARD_COLUMNS)
        query = f"SELECT {columns} FROM {{keyspace}}.{LATEST_PRICES.name} WHERE board = ?"  # noqa: S608 - our own words
        found = self._execute(query, (BOARD,))
        rows = [row for row in map(_latest, found) if row is not None]
        rows.sort(key=lambda row: (row.rank is None, row.rank, row.id))
        ahead = [row for row in rows if row.ts > now_ts + AHEAD_SECONDS * 1000]
        newest = Board(rows, ahead).newest_ts or 0
        left = [row for row in rows if row.ts < newest - stale_seconds * 1000]
        gone = {row.id for row in left}
        return Board([row for row in rows if row.id not in gone], ahead, left)

    def newest_ts(self, coin: str, now_ts: int) -> int | None:
        """When the newest price of a coin in `prices` was fetched, in epoch milliseconds; none that is ahead."""
        query = f"SELECT ts FROM {{keyspace}}.{PRICES.name} WHERE id = ? AND ts <= ? LIMIT 1"  # noqa: S608 - our own words
        rows = self._execute(query, (coin, now_ts + int(AHEAD_SECONDS * 1000)))
        return rows[0].ts if rows else None

    def candles(self, coin: str, interval: str, since_ts: int, until_ts: int) -> list[Candle]:
        """Candles that began between two times (epoch milliseconds), oldest first."""
        query = (
            f"SELECT {', '.join(_CANDLE_COLUMNS)} FROM {{keyspace}}.{CANDLES.name}"  # noqa: S608 - our own words
            " WHERE id = ? AND interval = ? AND month = ? AND start >= ? AND start <= ?"
        )
        since, until = _time(since_ts), _time(until_ts)
        found = self._execute_all(
            query, [(coin, interval, month, since, until) for month in months(since_ts, until_ts)]
        )
        rows = [candle for rows in found for row in rows if (candle := _candle(row)) is not None]
        return sorted(rows, key=lambda candle: candle.start_ts)

    def closes(self, coins: Sequence[str], since_ts: int, until_ts: int) -> dict[str, list[float]]:
        """The hourly prices of several coins between two times (epoch milliseconds), oldest first."""
        query = (
            f"SELECT close FROM {{keyspace}}.{CANDLES.name}"  # noqa: S608 - our own words
            " WHERE id = ? AND interval = ? AND month = ? AND start >= ? AND start <= ?"
        )
        since, until = _time(since_ts), _time(until_ts)
        asked = [(coin, "1h", month, since, until) for coin in coins for month in reversed(months(since_ts, until_ts))]
        closes: dict[str, list[float]] = {coin: [] for coin in coins}
        for (coin, *_), rows in zip(asked, self._execute_all(query, asked)):
            closes[coin] += [row.close for row in rows if _is_price(row.close)]
        return {coin: newest_first[::-1] for coin, newest_first in closes.items()}

    def market(self, now_ts: int) -> MarketPoint | None:
        """The newest that is known of the market as a whole, as of `now_ts` (epoch milliseconds)."""
        query = (
            f"SELECT {', '.join(_MARKET_COLUMNS)} FROM {{keyspace}}.{MARKET_GLOBAL.name}"  # noqa: S608 - our own words
            " WHERE month = ? AND ts <= ? LIMIT 1"
        )
        limit = now_ts + int(AHEAD_SECONDS * 1000)
        for month in reversed(months(now_ts - DAY_MS, now_ts)):
            for row in self._execute(query, (month, limit)):
                values = {name: _finite(getattr(row, name)) for name in _MARKET_COLUMNS}
                if _is_price(values["total_mcap_usd"]) and _is_price(values["total_volume_usd"]):
                    return MarketPoint(**values)
        return None

    def dead_letters(self, topics: Sequence[str], now_ts: int, limit: int = 50) -> list[DeadLetter]:
        """What was set aside yesterday and today (UTC), newest first, at most `limit` of each topic and day."""
        query = (
            f"SELECT topic, partition, offset, value, reason, processing_time FROM {{keyspace}}.{DEAD_LETTERS.name}"  # noqa: S608
            " WHERE topic = ? AND day = ? ORDER BY partition DESC, offset DESC LIMIT ?"
        )
        days = [_time(now_ts - ago).date() for ago in (0, DAY_MS)]
        found = self._execute_all(query, [(topic, day, limit) for topic in topics for day in days])
        letters = [
            DeadLetter(
                row.topic,
                row.partition,
                row.offset,
                printable((row.value or b"")[:SHOWN_BYTES].decode(errors="replace")),
                printable(row.reason or ""),
                0 if row.processing_time is None else _epoch_ms(row.processing_time),
            )
            for rows in found
            for row in rows
        ]
        return sorted(letters, key=lambda letter: letter.processed_ts, reverse=True)

    def close(self) -> None:
        """End all connections."""
        with self._lock:
            self._drop_session()

    def _execute(self, query: str, values: tuple[object, ...]) -> list[Any]:
        try:
            session, prepared = self._ready(query)
            rows = list(session.execute(prepared, values))
        except Exception as error:  # the driver's errors share no base class
            self._failed()
            raise StoreError(explain(error)) from error
        self._failing_since = None
        return rows

    def _execute_all(self, query: str, values: Sequence[tuple[object, ...]]) -> list[list[Any]]:
        """The rows of one query for each of these values, asked at the same time."""
        from cassandra.concurrent import execute_concurrent_with_args

        try:
            session, prepared = self._ready(query)
            found = execute_concurrent_with_args(session, prepared, values, concurrency=CONCURRENCY)
            rows = [list(result) for _, result in found]
        except Exception as error:  # the driver's errors share no base class
            self._failed()
            raise StoreError(explain(error)) from error
        self._failing_since = None
        return rows

    def _ready(self, query: str) -> tuple[Any, Any]:
        """One session, whoever asks first, and the query, prepared."""
        with self._lock:
            if self._session is None:
                self._session = self._connect(self._settings)
            if query not in self._prepared:
                text = query.replace("{keyspace}", self._settings.keyspace)
                self._prepared[query] = self._session.prepare(text)
            return self._session, self._prepared[query]

    def _failed(self) -> None:
        with self._lock:
            now = self._clock()
            if self._failing_since is None:
                self._failing_since = now
            elif now - self._failing_since > SESSION_HOPELESS_SECONDS:
                self._failing_since = now
                self._drop_session()

    def _drop_session(self) -> None:
        if self._session is not None:
            self._session.cluster.shutdown()
            self._session = None
            self._prepared.clear()


def months(since_ts: int, until_ts: int) -> list[str]:
    """The months, in UTC and as the tables write them, that lie between two times in epoch milliseconds."""
    first, last = _time(since_ts), _time(until_ts)
    numbers = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    return [f"{number // 12:04}-{number % 12 + 1:02}" for number in numbers]


def _time(ts: int) -> datetime:
    return datetime.fromtimestamp(min(max(ts, 0), MAX_TS) / 1000, tz=timezone.utc)


def _epoch_ms(moment: datetime) -> int:
    """The driver's times are UTC without saying so."""
    return round(moment.replace(tzinfo=timezone.utc).timestamp() * 1000)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _candle(row: Any) -> Candle | None:
    if not all(_is_price(getattr(row, name)) for name in ("open", "high", "low", "close")):
        return None
    volume = _finite(row.volume24_usd)
    return Candle(_epoch_ms(row.start), row.open, row.high, row.low, row.close, row.samples or 0, volume)


def _latest(row: Any) -> LatestPrice | None:
    if row.name is None or not _is_price(row.price_usd) or not MIN_TS <= (row.ts or 0) <= MAX_TS:
        return None
    # What a page cannot show is as good as not said.
    values = {name: _finite(getattr(row, name)) for name in _BOARD_COLUMNS}
    texts = {"name": printable(row.name) or printable(row.id), "symbol": printable(row.symbol or "") or None}
    return LatestPrice(**values | texts)


def _is_price(value: float | None) -> bool:
    return value is not None and math.isfinite(value) and value >= 0


def explain(error: Exception) -> str:
    """A driver's error in one line; NoHostAvailable hides what matters in a dictionary."""
    causes = getattr(error, "errors", None)
    if isinstance(causes, dict) and causes:
        return "; ".join(f"{host}: {cause}" for host, cause in causes.items())
    return f"{type(error).__name__}: {error}".splitlines()[0]


def quiet_driver() -> None:
    """Keep the driver's own messages off the terminal; its errors arrive as `StoreError`."""
    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
