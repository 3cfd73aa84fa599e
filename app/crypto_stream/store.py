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
from dataclasses import dataclass
from typing import Any

from crypto_stream.config import Cassandra
from crypto_stream.messages import MIN_TS, printable

CONNECT_SECONDS = 5.0
# The driver looks for a lost node again after 1, 2, 4 seconds, and then this often, for ever.
RECONNECT_MAX_SECONDS = 5.0
# A session that has answered nothing for so long is given up for a new one.
SESSION_HOPELESS_SECONDS = 60.0
# Clocks differ a little; what is further ahead of this host's is a clock that is wrong.
AHEAD_SECONDS = 5.0


class StoreError(Exception):
    """Cassandra did not answer, or not as it should; the text is one line for people."""


@dataclass(frozen=True)
class LatestPrice:
    """The newest row of a coin. `ts` is when it was fetched, in epoch milliseconds; `name` is fit to be shown."""

    id: str
    name: str
    price_usd: float
    ts: int


@dataclass(frozen=True)
class Board:
    """The newest price of each coin, by a clock that was right; `ahead` has the coins with a price of the future."""

    rows: list[LatestPrice]
    ahead: list[LatestPrice]


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

    def board(self, now_ts: int, coins: Sequence[str] | None = None, limit: int = 1000) -> Board:
        """The newest price of each coin of `coins`, or of at most `limit` coins, in no particular order.

        A price that is ahead of `now_ts` (epoch milliseconds) is no news: the newest one before it counts. Rows that
        no stream job has written (half of one, or with values that are no prices) are left out.
        """
        limit_ts = now_ts + int(AHEAD_SECONDS * 1000)
        if coins is None:
            newest = self._latest("{keyspace}.prices PER PARTITION LIMIT 1 LIMIT ?", limit)
        else:
            newest = [row for coin in coins for row in self._latest("{keyspace}.prices WHERE id = ? LIMIT 1", coin)]
        ahead = [row for row in newest if row.ts > limit_ts]
        rows = [row for row in newest if row.ts <= limit_ts]
        for row in ahead:
            rows += self._latest("{keyspace}.prices WHERE id = ? AND ts <= ? LIMIT 1", row.id, limit_ts)
        return Board([row for row in rows if row.ts >= MIN_TS], ahead)

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

    def _latest(self, source: str, *values: object) -> list[LatestPrice]:
        rows = self._execute(f"SELECT id, name, price_usd, ts FROM {source}", values)  # noqa: S608 - our own words
        return [
            LatestPrice(row.id, printable(row.name) or printable(row.id), row.price_usd, row.ts)
            for row in rows
            if row.name is not None and _is_price(row.price_usd)
        ]

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
