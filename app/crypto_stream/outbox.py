"""Records that Kafka has not acknowledged yet, in an SQLite file: they survive a restart, a kill and a power cut."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from crypto_stream.messages import Record

TABLE = """
    CREATE TABLE IF NOT EXISTS outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        topic TEXT NOT NULL,
        key BLOB,
        value BLOB NOT NULL,
        ts INTEGER NOT NULL,
        size INTEGER NOT NULL
    )"""
INDEX = "CREATE INDEX IF NOT EXISTS outbox_topic ON outbox (topic, number)"
# What a record takes in the file besides its topic, key and value.
OVERHEAD_BYTES = 40
DROPPED_AT_ONCE = 100


class Outbox:
    """Oldest first, bounded by `max_bytes` and by the age of its records. Safe for two threads.

    AUTOINCREMENT keeps a number from being used again while the record that had it is on its way.
    """

    def __init__(self, path: Path, max_bytes: int, max_age_seconds: float) -> None:
        self._max_bytes = max_bytes
        self._max_age_ms = max_age_seconds * 1000
        self._changed = threading.Condition(threading.RLock())
        self.damaged: Path | None = None
        try:
            self._connection = self._open(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # no space, no permission, locked: nothing is damaged
                raise
            self.damaged = path.rename(path.with_name(f"{path.name}.damaged-{time.time_ns()}"))
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
            self._connection = self._open(path)
        self._count, self._bytes = self._sums("TRUE")

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        # Of a write-ahead log, every transaction is on the disk before it counts.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        if (found := connection.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
            connection.close()
            raise sqlite3.DatabaseError(f"damaged: {found}")
        connection.execute(TABLE)
        connection.execute(INDEX)
        return connection

    def close(self) -> None:
        """Let go of the file."""
        with self._changed:
            self._connection.close()

    def put(self, records: Iterable[Record], now_ts: int) -> int:
        """Append, all or nothing; returns how many of the oldest had to be dropped. `now_ts` in epoch milliseconds."""
        rows = [(record.topic, record.key, record.value, record.ts, _size(record)) for record in records]
        with self._changed, self._transaction():
            self._connection.executemany(
                "INSERT INTO outbox (topic, key, value, ts, size) VALUES (?, ?, ?, ?, ?)", rows
            )
            self._count += len(rows)
            self._bytes += sum(size for *_, size in rows)
            dropped = 0
            while (oldest := self.oldest_ts()) is not None:
                if oldest < now_ts - self._max_age_ms:
                    dropped += self._drop_oldest(f"ts < {now_ts - self._max_age_ms:.0f}")
                elif self._bytes > self._max_bytes:
                    dropped += self._drop_oldest("TRUE")
                else:
                    break
            self._changed.notify_all()
            return dropped

    def waiting(self, topic: str, in_flight: Collection[int], limit: int) -> list[tuple[int, Record]]:
        """The oldest records of a topic that can be sent now, with their numbers, in order, at most `limit` of them.

        A key is there once, and not while a record of it is in flight: so prices of a coin never overtake one another.
        """
        with self._changed:
            rows = self._connection.execute(
                "SELECT number, key, value, ts FROM outbox WHERE topic = ? ORDER BY number LIMIT ?", (topic, limit)
            ).fetchall()
        found: list[tuple[int, Record]] = []
        held: set[bytes] = set()
        for number, key, value, ts in rows:
            if key not in held and number not in in_flight:
                found.append((number, Record(topic, key, value, ts)))
            if key is not None:
                held.add(key)
        return found

    def remove(self, numbers: Collection[int]) -> None:
        """Acknowledged records; some may have been dropped in the meantime."""
        with self._changed, self._transaction():
            self._drop(f"number IN ({','.join(map(str, numbers))})")  # plain numbers of our own

    def oldest_ts(self) -> int | None:
        """When the oldest record was fetched, in epoch milliseconds."""
        with self._changed:
            row = self._connection.execute("SELECT ts FROM outbox ORDER BY number LIMIT 1").fetchone()
            return row[0] if row else None

    def wait(self, timeout: float) -> None:
        """Until there is something, or `timeout` seconds have passed, or `wake` was called."""
        with self._changed:
            if not self._count:
                self._changed.wait(timeout)

    def wake(self) -> None:
        """End a `wait` early."""
        with self._changed:
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return self._count

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        before = self._count, self._bytes
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._count, self._bytes = before
            with contextlib.suppress(sqlite3.Error):  # which a full disk has done already
                self._connection.execute("ROLLBACK")
            raise

    def _drop_oldest(self, condition: str) -> int:
        oldest = f"number IN (SELECT number FROM outbox ORDER BY number LIMIT {DROPPED_AT_ONCE})"  # noqa: S608
        return self._drop(f"{oldest} AND {condition}")

    def _drop(self, condition: str) -> int:
        """Delete, and keep count; returns how many records that were. Conditions are this module's own."""
        count, size = self._sums(condition)
        self._connection.execute(f"DELETE FROM outbox WHERE {condition}")  # noqa: S608
        self._count -= count
        self._bytes -= size
        return count

    def _sums(self, condition: str) -> tuple[int, int]:
        """How many records there are, and how many bytes they take."""
        query = f"SELECT COUNT(*), IFNULL(SUM(size), 0) FROM outbox WHERE {condition}"  # noqa: S608
        count, size = self._connection.execute(query).fetchone()
        return int(count), int(size)


def _size(record: Record) -> int:
    return len(record.topic) + len(record.key or b"") + len(record.value) + OVERHEAD_BYTES
