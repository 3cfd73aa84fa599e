"""What the dashboard shows, read once for all who look. The last board is kept through an outage."""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass, replace

from crypto_stream import config, store
from crypto_stream.config import Settings
from crypto_stream.metrics import DashboardMetrics
from crypto_stream.store import Board, Store, StoreError


@dataclass(frozen=True)
class Snapshot:
    """The last board that could be read, and what has gone wrong since. Times in epoch seconds."""

    board: Board | None = None
    read_at: float | None = None
    error: str = ""
    failing_since: float | None = None


class Reader:
    """Looks at Cassandra every few seconds. `snapshot` is safe for any thread."""

    def __init__(self, prices: Store, interval_seconds: float, stale_seconds: float) -> None:
        self.prices = prices
        self.snapshot = Snapshot()
        self.metrics = DashboardMetrics()
        self._interval = interval_seconds
        self._stale = stale_seconds

    def start(self) -> None:
        """Look for as long as the process lives."""
        threading.Thread(target=self._run, name="board", daemon=True).start()

    def look(self, now: float) -> None:
        """One look, at `now` in epoch seconds."""
        try:
            board = self.prices.board(int(now * 1000), self._stale)
        except StoreError as error:
            self.metrics.failed()
            since = self.snapshot.failing_since or now
            self.snapshot = replace(self.snapshot, error=str(error), failing_since=since)
        else:
            self.metrics.read(len(board.rows))
            self.snapshot = Snapshot(board, now)

    def _run(self) -> None:
        while True:
            self.look(time.time())
            time.sleep(self._interval)


@functools.cache
def settings() -> Settings:
    """Read once for each process; raises `SettingsError`."""
    return config.load("cassandra", "dashboard", "freshness")


@functools.cache
def reader() -> Reader:
    """One for each process."""
    store.quiet_driver()
    found = settings()
    return Reader(Store(found.cassandra), found.dashboard.refresh_seconds, found.freshness.stale_after_seconds)
