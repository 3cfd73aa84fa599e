"""The one way to Cassandra: a session, and typed reading of what the stream job wrote.

The driver is imported when it is first needed, because that takes a noticeable part of a second.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from crypto_stream.config import Cassandra

CONNECT_SECONDS = 5.0
# The driver looks for a lost node again after 1, 2, 4 seconds, and then this often.
RECONNECT_MAX_SECONDS = 5.0

T = TypeVar("T")


class StoreError(Exception):
    """Cassandra did not answer, or not as it should; the text is one line for people."""


@dataclass(frozen=True)
class LatestPrice:
    """The newest row of a coin. `ts` is the time of the poll in epoch milliseconds, `processing_time` is in UTC."""

    id: str
    name: str
    price_usd: float
    ts: int
    processing_time: datetime | None


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
        reconnection_policy=ExponentialReconnectionPolicy(1, RECONNECT_MAX_SECONDS),
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

    def __init__(self, settings: Cassandra, connect: Callable[[Cassandra], Any] = open_session) -> None:
        self._settings = settings
        self._connect = connect
        self._session: Any = None
        self._prepared: dict[str, Any] = {}

    def latest(self, limit: int = 1000) -> list[LatestPrice]:
        """The newest price of each coin, of at most `limit` coins, in no particular order."""
        rows = self._execute(
            "SELECT id, name, price_usd, ts, processing_time FROM {keyspace}.prices PER PARTITION LIMIT 1 LIMIT ?",
            (limit,),
        )
        # A row without a price or a name was not written by the stream job.
        return [LatestPrice(*row) for row in rows if row.price_usd is not None and row.name is not None]

    def history(self, coin: str, since_ts: int, limit: int = 5000) -> list[PricePoint]:
        """The prices of one coin from `since_ts` (epoch milliseconds) on, the newest `limit` of them, oldest first."""
        rows = self._execute(
            "SELECT ts, price_usd FROM {keyspace}.prices WHERE id = ? AND ts >= ? ORDER BY ts DESC LIMIT ?",
            (coin, since_ts, limit),
        )
        return [PricePoint(*row) for row in reversed(rows) if row.price_usd is not None]

    def newest_ts(self, coin: str) -> int | None:
        """The `ts` of a coin's newest row in epoch milliseconds, None when it has none."""
        rows = self._execute("SELECT ts FROM {keyspace}.prices WHERE id = ? LIMIT 1", (coin,))
        return int(rows[0].ts) if rows else None

    def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            self._session.cluster.shutdown()
            self._session = None
            self._prepared.clear()

    def _execute(self, query: str, values: tuple[object, ...]) -> list[Any]:
        try:
            if self._session is None:
                self._session = self._connect(self._settings)
            if query not in self._prepared:
                text = query.replace("{keyspace}", self._settings.keyspace)
                self._prepared[query] = self._session.prepare(text)
            return list(self._session.execute(self._prepared[query], values))
        except Exception as error:  # the driver's errors share no base class
            raise StoreError(explain(error)) from error


def open_store(settings: Cassandra) -> Store:
    """A `Store` of these settings; it connects with its first query."""
    return Store(settings)


def explain(error: Exception) -> str:
    """A driver's error in one line; NoHostAvailable hides what matters in a dictionary."""
    causes = getattr(error, "errors", None)
    if isinstance(causes, dict) and causes:
        return "; ".join(f"{host}: {cause}" for host, cause in causes.items())
    return f"{type(error).__name__}: {error}".splitlines()[0]


def quiet_driver() -> None:
    """Keep the driver's own messages off the terminal; its errors arrive as `StoreError`."""
    logging.getLogger("cassandra").setLevel(logging.CRITICAL)
