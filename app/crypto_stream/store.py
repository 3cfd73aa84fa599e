"""The one way to Cassandra: a session, and typed reading of what the stream job wrote.

The driver is imported when it is first needed, because that takes a noticeable part of a second.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from crypto_stream.config import Cassandra
from crypto_stream.messages import MAX_TS, MIN_TS, printable
from crypto_stream.tables import BOARD, LATEST_PRICES, PRICES

CONNECT_SECONDS = 5.0
# The driver looks for a lost node again after 1, 2, 4 seconds, and then this often, for ever.
RECONNECT_MAX_SECONDS = 5.0
# A session that has answered nothing for so long is given up for a new one.
SESSION_HOPELESS_SECONDS = 60.0
# Clocks differ a little; what is further ahead of this host's is a clock that is wrong.
AHEAD_SECONDS = 5.0


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
class PricePoint:
    """One price of a coin; `ts` in epoch milliseconds."""

    ts: int
    price_usd: float


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

    def history(self, coin: str, since_ts: int, until_ts: int, limit: int = 5000) -> list[PricePoint]:
        """The prices of one coin between two times (epoch milliseconds), the newest `limit` of them, oldest first."""
        rows = self._execute(
            "SELECT ts, price_usd FROM {keyspace}.prices WHERE id = ? AND ts >= ? AND ts <= ? ORDER BY ts DESC LIMIT ?",
            (coin, since_ts, until_ts, limit),
        )
        return [PricePoint(row.ts, row.price_usd) for row in reversed(rows) if _is_price(row.price_usd)]

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


def _latest(row: Any) -> LatestPrice | None:
    if row.name is None or not _is_price(row.price_usd) or not MIN_TS <= (row.ts or 0) <= MAX_TS:
        return None
    values = {name: getattr(row, name) for name in _BOARD_COLUMNS}
    # What a page cannot show is as good as not said.
    for name in _BOARD_COLUMNS:
        if isinstance(values[name], float) and not math.isfinite(values[name]):
            values[name] = None
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
