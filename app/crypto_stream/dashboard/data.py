"""What the pages show, read once for all who look. The last board is kept through an outage."""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass, replace

import streamlit as st

from crypto_stream import check, config, store
from crypto_stream.check import Api, Report
from crypto_stream.config import Settings
from crypto_stream.metrics import DashboardMetrics
from crypto_stream.store import Board, Candle, DeadLetter, MarketPoint, Store, StoreError
from crypto_stream.tables import DAY_MS

# How long what a page has read serves all who look, in seconds. What is to be new whenever a page asks again lives for
# half of its period at most: after a whole one it may still be there.
SPARK_SECONDS = 60
CANDLE_SECONDS = 2
CHECK_SECONDS = 5
# A day ago is known within an hour, or not at all: the newest before that may be of before an outage.
YESTERDAY_SECONDS = 60
YESTERDAY_TOLERANCE_MS = 3_600_000
WEEK_MS = 7 * DAY_MS
# As many as a line in a cell shows; all of them go to each viewer with each refresh.
WEEK_POINTS = 42
KEPT = 500


@dataclass(frozen=True)
class Snapshot:
    """The last board that could be read, and what has gone wrong since. Times in epoch seconds."""

    board: Board | None = None
    market: MarketPoint | None = None
    read_at: float | None = None
    error: str = ""
    failing_since: float | None = None


class Reader:
    """Looks at Cassandra every few seconds. `snapshot` is safe for any thread."""

    def __init__(self, tables: Store, interval_seconds: float, stale_seconds: float) -> None:
        self.tables = tables
        self.snapshot = Snapshot()
        self.metrics = DashboardMetrics()
        self._interval = interval_seconds
        self._stale = stale_seconds

    def start(self) -> None:
        """Look for as long as the process lives."""
        threading.Thread(target=self._run, name="board", daemon=True).start()

    def look(self, now: float) -> None:
        """One look, at `now` in epoch seconds."""
        now_ts = int(now * 1000)
        try:
            board, market = self.tables.board(now_ts, self._stale), self.tables.market(now_ts)
        except StoreError as error:
            self.metrics.failed()
            since = self.snapshot.failing_since or now
            self.snapshot = replace(self.snapshot, error=str(error), failing_since=since)
        else:
            self.metrics.read(len(board.rows))
            self.snapshot = Snapshot(board, market, now)

    def _run(self) -> None:
        while True:
            self.look(time.time())
            time.sleep(self._interval)


@functools.cache
def settings() -> Settings:
    """Read once for each process; raises `SettingsError`."""
    return config.load("kafka", "cassandra", "freshness", "dashboard")


@functools.cache
def reader() -> Reader:
    """One for each process."""
    store.quiet_driver()
    found = settings()
    return Reader(Store(found.cassandra), found.dashboard.refresh_seconds, found.freshness.stale_after_seconds)


@st.cache_data(ttl=YESTERDAY_SECONDS, show_spinner=False)
def yesterday() -> MarketPoint | None:
    """The market as a whole a day ago; nothing where that is not known, or Cassandra does not answer."""
    then = time.time_ns() // 1_000_000 - DAY_MS
    try:
        found = reader().tables.market(then)
    except StoreError:
        return None
    return found if found and then - found.ts <= YESTERDAY_TOLERANCE_MS else None


@st.cache_data(ttl=SPARK_SECONDS, max_entries=KEPT, show_spinner=False)
def week(coins: tuple[str, ...]) -> dict[str, list[float]]:
    """Prices of the last seven days of some coins, oldest first; nothing where Cassandra does not answer."""
    now_ts = time.time_ns() // 1_000_000
    try:
        found = reader().tables.closes(coins, now_ts - WEEK_MS, now_ts)
    except StoreError:
        return {}
    return {coin: thinned(closes) for coin, closes in found.items()}


def thinned(closes: list[float]) -> list[float]:
    """Fewer than twice `WEEK_POINTS`, in equal steps; the newest is among them. One price makes no line."""
    return closes[:: -max(1, len(closes) // WEEK_POINTS)][::-1] if len(closes) > 1 else []


@st.cache_data(ttl=CANDLE_SECONDS, max_entries=KEPT, show_spinner=False)
def candles(coin: str, interval: str, seconds: int) -> list[Candle]:
    """The candles of the last so many seconds. Raises `StoreError`."""
    now_ts = time.time_ns() // 1_000_000
    return reader().tables.candles(coin, interval, now_ts - seconds * 1000, now_ts)


@st.cache_data(ttl=CHECK_SECONDS, show_spinner=False)
def report() -> Report:
    """What `crypto-check` says on this host. Raises `SettingsError`: it reads those of the other services, too."""
    found = config.load()
    return check.look(found, _api(found))


# One for as long as the settings stay, because it is what keeps the API from being asked too often.
_api = functools.lru_cache(maxsize=1)(Api)


@st.cache_data(ttl=CANDLE_SECONDS, show_spinner=False)
def dead_letters() -> list[DeadLetter]:
    """What was set aside lately. Raises `StoreError`."""
    topics = settings().kafka.topics
    return reader().tables.dead_letters(tuple(topics.values()), time.time_ns() // 1_000_000)
