"""Polls the market at a fixed beat and puts each coin's price into Kafka.

Two threads share an outbox. The main thread polls and keeps systemd informed; the other one delivers. So polls go on
while Kafka is away, and what was fetched waits in memory, in order, until Kafka has acknowledged it. Neither the API
nor Kafka has to be there when the service starts.

A message may reach the topic twice (its acknowledgement got lost with the connection). That is harmless: the table's
key is the coin's id and `ts`, so the second one writes the same row again.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Protocol

from kafka import KafkaProducer
from kafka.errors import KafkaError
from structlog.stdlib import BoundLogger

from crypto_stream import config, log
from crypto_stream.coinlore import CoinLore, CoinLoreError, Poll, Ticker
from crypto_stream.config import Settings
from crypto_stream.messages import PriceMessage, Record, encode, encode_rejected
from crypto_stream.systemd import notify

# How often the main thread reports to the watchdog while it waits, in seconds.
HEARTBEAT_SECONDS = 2.0
# How long one round of delivery waits for Kafka, and the pause before the next one while Kafka is away, in seconds.
FLUSH_SECONDS = 1.0
PAUSE_SECONDS = 2.0
# No more than this is handed to the Kafka client at a time: the outbox is bounded, the client's own buffer is not.
MAX_IN_FLIGHT = 5000
# The client never leaves some of its failed states. After so many rounds in which nothing got through, it is replaced.
FAILED_ROUNDS_BEFORE_REPLACING = 3
REJECTED_SHOWN_PER_POLL = 5


class Stopped(Exception):  # noqa: N818 - not an error
    """SIGTERM came while waiting."""


class Future(Protocol):
    """What is used of kafka-python's future. Its attributes: `is_done`, and `exception` of a failed one."""

    is_done: bool
    exception: BaseException | None

    def succeeded(self) -> bool:
        """Acknowledged by Kafka."""


class Sender(Protocol):
    """What is used of `KafkaProducer`."""

    def send(self, topic: str, value: bytes, key: bytes, *, timestamp_ms: int) -> Future:
        """Hand over one message."""

    def flush(self, timeout: float) -> None:
        """Wait for everything handed over; raises KafkaTimeoutError after `timeout` seconds."""

    def close(self, timeout: float) -> None:
        """Give up connections and threads."""


class Outbox:
    """Records that Kafka has not acknowledged, oldest first, at most `limit` of them. Safe for two threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: OrderedDict[int, Record] = OrderedDict()
        self._numbers = 0
        self._changed = threading.Condition()

    def put(self, records: list[Record]) -> int:
        """Append; returns how many of the oldest had to be dropped for it."""
        with self._changed:
            for record in records:
                self._records[self._numbers] = record
                self._numbers += 1
            dropped = max(0, len(self._records) - self._limit)
            for _ in range(dropped):
                self._records.popitem(last=False)
            self._changed.notify_all()
            return dropped

    def waiting(self, in_flight: set[int], limit: int) -> list[tuple[int, Record]]:
        """The oldest records that are not in flight, with their numbers, in order."""
        found: list[tuple[int, Record]] = []
        with self._changed:
            for number, record in self._records.items():
                if len(found) >= limit:
                    break
                if number not in in_flight:
                    found.append((number, record))
        return found

    def remove(self, number: int) -> None:
        """An acknowledged record; it may have been dropped in the meantime."""
        with self._changed:
            self._records.pop(number, None)

    def wait(self, timeout: float) -> None:
        """Until there is something, or `timeout` seconds have passed, or `wake` was called."""
        with self._changed:
            if not self._records:
                self._changed.wait(timeout)

    def wake(self) -> None:
        """End a `wait` early."""
        with self._changed:
            self._changed.notify_all()

    def __len__(self) -> int:
        with self._changed:
            return len(self._records)


class Delivery:
    """Moves records from the outbox into Kafka, one round at a time. For one thread only."""

    def __init__(self, outbox: Outbox, connect: Callable[[], Sender], rejected_topic: str, logger: BoundLogger) -> None:
        self._outbox = outbox
        self._connect = connect
        self._rejected_topic = rejected_topic
        self._log = logger
        self._sender: Sender | None = None
        self._in_flight: dict[int, tuple[Record, Future]] = {}
        self._failed_rounds = 0

    def round(self) -> bool:
        """Send what waits, give Kafka a moment, and settle what is decided.

        Returns whether everything known at the beginning was acknowledged. Never raises what Kafka can cause: a
        record leaves the outbox only when it was acknowledged, so a failed one is simply sent again next time.
        """
        try:
            if self._sender is None:
                self._sender = self._connect()
            complaint = self._send(self._sender)
            with contextlib.suppress(KafkaError):  # each future tells for itself
                self._sender.flush(FLUSH_SECONDS)
        except Exception as error:  # this thread must not die: what waits in memory would be lost with it
            complaint = _describe(error)
        acknowledged, failures = self._settle()
        complaint = complaint or next(iter(failures), None)
        for ts in sorted({ts for ts, _ in acknowledged}):
            self._log.info(
                "poll_acknowledged",
                ts=ts,
                messages=acknowledged[ts, False],
                rejected=acknowledged[ts, True],
                pending=len(self._outbox),
            )
        if complaint is not None:
            self._log.warning(
                "delivery_failed", reason=complaint, failed=sum(failures.values()), pending=len(self._outbox)
            )
        elif self._in_flight and not acknowledged:
            self._log.warning("delivery_waiting", in_flight=len(self._in_flight), pending=len(self._outbox))
        self._replace_if_stuck(failed=bool(failures), progress=bool(acknowledged))
        return complaint is None and not self._in_flight

    def close(self) -> None:
        """Let go of Kafka, unless something is in flight: the client cannot be closed without waiting for that."""
        if self._sender is not None and not self._in_flight:
            self._sender.close(timeout=1)
            self._sender = None

    def _send(self, sender: Sender) -> str | None:
        """Hand over what is not in flight; returns why not everything could be.

        A topic that cannot be sent to is left alone for the rest of the round: each try would block, and later
        records must not overtake earlier ones.
        """
        complaint = None
        blocked: set[str] = set()
        for number, record in self._outbox.waiting(set(self._in_flight), MAX_IN_FLIGHT - len(self._in_flight)):
            if record.topic in blocked:
                continue
            try:
                future = sender.send(record.topic, record.value, record.key, timestamp_ms=record.ts)
            except Exception as error:  # whatever it is about, the other topic shall not suffer from it
                blocked.add(record.topic)
                complaint = f"{record.topic}: {_describe(error)}"
            else:
                self._in_flight[number] = record, future
        return complaint

    def _settle(self) -> tuple[Counter[tuple[int, bool]], Counter[str]]:
        """Look at every future that is done.

        Returns how many records were acknowledged by (ts, is a rejected ticker), and how many failed by reason.
        """
        acknowledged: Counter[tuple[int, bool]] = Counter()
        failures: Counter[str] = Counter()
        for number, (record, future) in list(self._in_flight.items()):
            if not future.is_done:
                continue
            del self._in_flight[number]
            if future.succeeded():
                self._outbox.remove(number)
                acknowledged[record.ts, record.topic == self._rejected_topic] += 1
            else:
                failures[f"{record.topic}: {_describe(future.exception)}"] += 1
        return acknowledged, failures

    def _replace_if_stuck(self, *, failed: bool, progress: bool) -> None:
        if progress:
            self._failed_rounds = 0
        elif failed:
            self._failed_rounds += 1
        # A stuck client fails all it has, so there comes a round with nothing in flight.
        if self._failed_rounds >= FAILED_ROUNDS_BEFORE_REPLACING and not self._in_flight:
            self._log.warning("kafka_client_replaced", failed_rounds=self._failed_rounds)
            self.close()
            self._failed_rounds = 0


def next_beat(start: float, interval: float, now: float) -> float:
    """The first of `start`, `start + interval`, ... that is after `now`: beats that were missed are skipped."""
    return start + (math.floor((now - start) / interval) + 1) * interval if now >= start else start


def to_records(poll: Poll, ts: int, topic: str, rejected_topic: str) -> list[Record]:
    """A poll as Kafka records: prices by coin, then the rejected tickers."""
    prices = [
        Record(topic, ticker.id.encode(), encode(to_message(ticker, ts)), ts)
        for ticker in poll.tickers  # in rank order
    ]
    # Rejected tickers need no order among themselves, and the id may be what is wrong with them.
    rejected = [
        Record(rejected_topic, b"rejected", encode_rejected(item.payload, item.reason, ts), ts)
        for item in poll.rejected
    ]
    return prices + rejected


def to_message(ticker: Ticker, ts: int) -> PriceMessage:
    """What goes on of a ticker; `ts` is the time of the poll in epoch milliseconds."""
    return PriceMessage(
        id=ticker.id,
        name=ticker.name,
        price_usd=ticker.price_usd,
        ts=ts,
        symbol=ticker.symbol,
        rank=ticker.rank,
        volume24_usd=ticker.volume24,
        market_cap_usd=ticker.market_cap_usd,
        percent_change_1h=ticker.percent_change_1h,
        percent_change_24h=ticker.percent_change_24h,
        percent_change_7d=ticker.percent_change_7d,
    )


class Service:
    """The process: the polling loop in the calling thread, delivery in another."""

    def __init__(self, settings: Settings, connect: Callable[[], Sender], logger: BoundLogger) -> None:
        self._settings = settings
        self._log = logger
        self._stop = threading.Event()
        self._outbox = Outbox(settings.producer.max_pending_messages)
        self._delivery = Delivery(self._outbox, connect, settings.kafka.rejected_topic, logger)
        self._thread = threading.Thread(target=self._deliver, name="delivery", daemon=True)

    def stop(self) -> None:
        """Ask `run` to end. For signal handlers too."""
        self._stop.set()

    def run(self) -> None:
        """Poll and deliver until `stop`; then deliver for a few more seconds and return."""
        self._thread.start()
        notify("READY=1", "STATUS=polling")
        try:
            with CoinLore(self._settings.market, sleep=self.wait) as client:
                self._poll_forever(client)
        except Stopped:
            pass
        notify("STOPPING=1")
        self._outbox.wake()
        # One round may be under way, and another one is the last try.
        self._thread.join(self._settings.producer.drain_seconds + 2 * FLUSH_SECONDS)
        if len(self._outbox):
            self._log.error("messages_lost", count=len(self._outbox), reason="stopped before Kafka acknowledged them")

    def wait(self, seconds: float) -> None:
        """Sleep as a service does: telling the watchdog, and ending at once with `Stopped` when asked to stop."""
        end = time.monotonic() + seconds
        while True:
            self.beat()
            left = end - time.monotonic()
            if self._stop.wait(max(0, min(left, HEARTBEAT_SECONDS))):
                raise Stopped
            if left <= HEARTBEAT_SECONDS:
                return

    def beat(self) -> None:
        """Tell the watchdog that both threads live. Without delivery, polling would be an empty show."""
        if self._thread.is_alive():
            notify("WATCHDOG=1")

    def _poll_forever(self, client: CoinLore) -> None:
        interval = self._settings.producer.interval_seconds
        start = time.monotonic()
        beat = start
        while True:
            self.wait(max(0, beat - time.monotonic()))
            self._poll(client)
            beat = next_beat(start, interval, time.monotonic())

    def _poll(self, client: CoinLore) -> None:
        ts = time.time_ns() // 1_000_000
        try:
            poll = client.top(self._settings.producer.coins)
        except CoinLoreError as error:
            self._log.warning("poll_failed", ts=ts, reason=str(error))
            return
        for item in poll.rejected[:REJECTED_SHOWN_PER_POLL]:
            self._log.warning("ticker_rejected", ts=ts, reason=item.reason, payload=ascii(item.payload)[:300])
        if poll.errors or poll.rejected:
            self._log.warning(
                "poll_incomplete", ts=ts, tickers=len(poll.tickers), rejected=len(poll.rejected), errors=poll.errors
            )
        dropped = self._outbox.put(
            to_records(poll, ts, self._settings.kafka.topic, self._settings.kafka.rejected_topic)
        )
        if dropped:
            self._log.error(
                "messages_dropped", count=dropped, reason="Kafka is away and producer.max_pending_messages is reached"
            )

    def _deliver(self) -> None:
        """The delivery thread. After `stop` it goes on until all is delivered or the time for that is over."""
        deadline = math.inf
        while time.monotonic() < deadline:
            if len(self._outbox):
                if not self._delivery.round() and not self._stop.is_set():
                    self._stop.wait(PAUSE_SECONDS)  # Kafka is away; no need to ask again at once
            elif self._stop.is_set():
                break
            else:
                self._outbox.wait(FLUSH_SECONDS)
            if self._stop.is_set() and deadline == math.inf:
                deadline = time.monotonic() + self._settings.producer.drain_seconds
        self._delivery.close()


def connect(settings: Settings) -> Sender:
    """A client of Kafka with acks=all and idempotence; raises KafkaTimeoutError when no broker answers.

    Within `delivery_timeout_seconds` the client repeats by itself, over broken connections and restarted brokers, and
    Kafka drops what arrives twice. The limits on backoff make it come back within seconds after an outage.
    """
    sender: Sender = KafkaProducer(
        bootstrap_servers=list(settings.kafka.bootstrap_servers),
        client_id="crypto-producer",
        acks="all",
        enable_idempotence=True,
        allow_auto_create_topics=False,
        delivery_timeout_ms=int(settings.producer.delivery_timeout_seconds * 1000),
        request_timeout_ms=10_000,
        max_block_ms=5_000,
        bootstrap_timeout_ms=5_000,
        reconnect_backoff_ms=100,
        reconnect_backoff_max_ms=2_000,
        metadata_max_age_ms=60_000,
        metrics_enabled=False,
    )
    return sender


def _describe(error: BaseException | None) -> str:
    text = str(error)  # which in Kafka's own errors begins with their name
    name = type(error).__name__
    return text if text.startswith(name) else f"{name}: {text}"


def main() -> None:
    """The command `python -m crypto_stream.producer`."""
    settings = config.load_or_exit()
    service = Service(settings, lambda: connect(settings), log.configure("producer"))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
    # What the Kafka client does at an ordinary exit is to wait, once more, for what cannot be delivered.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
