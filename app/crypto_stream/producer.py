"""Polls the market at a fixed beat and puts each coin's price into Kafka.

Two threads share an outbox, which is a file. The main thread polls, puts each page into the outbox as it comes and
keeps systemd informed; the other one delivers. So polls go on while Kafka is away, and what was fetched waits, in
order, until Kafka has acknowledged it, whatever happens to the process meanwhile. Neither the API nor Kafka has to be
there when the service starts.

A message may reach the topic twice (its acknowledgement got lost with the connection). That is harmless: the table's
key is the coin's id and `ts`, so the second one writes the same row again.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError
from structlog.stdlib import BoundLogger

from crypto_stream import config, log
from crypto_stream.coinlore import CoinLore, CoinLoreError, Page, Rejected, Ticker, World
from crypto_stream.config import Settings
from crypto_stream.messages import MIN_TS, MarketMessage, PriceMessage, Record, encode, encode_rejected
from crypto_stream.metrics import ProducerMetrics
from crypto_stream.outbox import Outbox
from crypto_stream.systemd import notify

# How often the main thread reports to the watchdog while it waits, in seconds.
HEARTBEAT_SECONDS = 2.0
# How long one round of delivery waits for Kafka, and the pause before the next one while Kafka is away, in seconds.
FLUSH_SECONDS = 1.0
PAUSE_SECONDS = 2.0
# Without a finished round of delivery for so long, the watchdog is told nothing any more. One round waits at most for a
# connection, for each topic's metadata and for one flush.
DELIVERY_HANGS_SECONDS = 60.0
# No more than this of a topic is handed to the Kafka client at a time: its own buffer is not bounded.
MAX_IN_FLIGHT = 5000
# The client never leaves some of its failed states. After so many rounds in which nothing got through, it is replaced.
FAILED_ROUNDS_BEFORE_REPLACING = 3
# It says of each message what became of it within `producer.delivery_timeout_seconds`. One that has kept silent for so
# much longer has lost the message, as kafka-python (3.0.12) does when others expire just when Kafka comes back.
LOST_SECONDS = 30.0
REJECTED_SHOWN_PER_PAGE = 5


class Stopped(BaseException):
    """SIGTERM came while waiting. Derived from BaseException so that nothing on its way takes it for a fault."""


class Future(Protocol):
    """What is used of kafka-python's future. Its attributes: `is_done`, and `exception` of a failed one."""

    is_done: bool
    exception: BaseException | None

    def succeeded(self) -> bool:
        """Acknowledged by Kafka."""


class Sender(Protocol):
    """What is used of `KafkaProducer`."""

    def send(self, topic: str, value: bytes, key: bytes | None, *, timestamp_ms: int) -> Future:
        """Hand over one message."""

    def flush(self, timeout: float) -> None:
        """Wait for everything handed over; raises KafkaTimeoutError after `timeout` seconds."""

    def close(self, timeout: float) -> None:
        """Give up connections and threads."""


class Client(KafkaProducer):  # type: ignore[misc] # has no types
    """kafka-python's, which can be closed whatever it has in flight."""

    def close(self, timeout: float | None = None, **options: bool) -> None:
        """Give up connections and threads, after `timeout` seconds also what is in flight."""
        try:
            super().close(timeout, **options)
        except KafkaTimeoutError:  # of waiting for what is in flight, which comes before it would be given up
            self._sender.force_close()


class Topics(NamedTuple):
    """Where what goes."""

    prices: str
    market: str
    rejected: str


class Delivery:
    """Moves records from the outbox into Kafka, one round at a time. For one thread only."""

    def __init__(
        self,
        outbox: Outbox,
        connect: Callable[[], Sender],
        topics: Topics,
        metrics: ProducerMetrics,
        logger: BoundLogger,
        patience_seconds: float,
    ) -> None:
        self._outbox = outbox
        self._connect = connect
        self._topics = topics
        self._metrics = metrics
        self._patience_seconds = patience_seconds
        self._log = logger
        self._sender: Sender | None = None
        # With the moment at which each was handed over, in monotonic seconds; the oldest first.
        self._in_flight: dict[int, tuple[Record, Future, float]] = {}
        self._failed_rounds = 0

    def round(self) -> bool:
        """Send what waits, give Kafka a moment, and settle what is decided.

        Returns whether everything that could be sent was acknowledged. Never raises what Kafka can cause: a record
        leaves the outbox only when it was acknowledged, so a failed one is simply sent again next time.
        """
        try:
            if self._sender is None:
                self._sender = self._connect()
            complaint = self._send(self._sender)
            with contextlib.suppress(KafkaError):  # each future tells for itself
                self._sender.flush(FLUSH_SECONDS)
        except Exception as error:  # this thread must not die: nothing would be delivered any more
            complaint = _describe(error)
        acknowledged, failures = self._settle()
        complaint = complaint or next(iter(failures), None)
        for ts in sorted({ts for ts, _ in acknowledged}):
            messages, rejected = acknowledged[ts, self._topics.prices], acknowledged[ts, self._topics.rejected]
            if messages or rejected:
                self._log.info(
                    "page_acknowledged", ts=ts, messages=messages, rejected=rejected, pending=len(self._outbox)
                )
            if acknowledged[ts, self._topics.market]:
                self._log.info("market_acknowledged", ts=ts)
        if complaint is not None:
            self._log.warning(
                "delivery_failed", reason=complaint, failed=sum(failures.values()), pending=len(self._outbox)
            )
        elif self._in_flight and not acknowledged:
            self._log.warning("delivery_waiting", in_flight=len(self._in_flight), pending=len(self._outbox))
        self._metrics.delivered(sum(acknowledged.values()), sum(failures.values()))
        is_done = complaint is None and not self._in_flight
        self._replace_if_stuck(failed=bool(failures), progress=bool(acknowledged))
        return is_done

    def close(self) -> None:
        """Let go of Kafka, unless something is in flight: the client would wait for that first."""
        if self._sender is not None and not self._in_flight:
            self._sender.close(timeout=1)
            self._sender = None

    def _send(self, sender: Sender) -> str | None:
        """Hand over what may be sent; returns why not everything could be.

        A topic that cannot be sent to is left alone for the rest of the round: each try would block, and later
        records must not overtake earlier ones.
        """
        complaint = None
        for topic in self._topics:
            for number, record in self._outbox.waiting(topic, self._in_flight.keys(), MAX_IN_FLIGHT):
                try:
                    future = sender.send(record.topic, record.value, record.key, timestamp_ms=record.ts)
                except Exception as error:  # whatever it is about, the other topics shall not suffer from it
                    complaint = f"{record.topic}: {_describe(error)}"
                    break
                self._in_flight[number] = record, future, time.monotonic()
        return complaint

    def _settle(self) -> tuple[Counter[tuple[int, str]], Counter[str]]:
        """Look at every future that is done.

        Returns how many records were acknowledged by ts and topic, and how many failed by reason.
        """
        acknowledged: Counter[tuple[int, str]] = Counter()
        failures: Counter[str] = Counter()
        done = {number: entry for number, entry in self._in_flight.items() if entry[1].is_done}
        stored = [number for number, (_, future, _) in done.items() if future.succeeded()]
        if stored:
            self._outbox.remove(stored)
        for number, (record, future, _) in done.items():
            del self._in_flight[number]
            if future.succeeded():
                acknowledged[record.ts, record.topic] += 1
            else:
                failures[f"{record.topic}: {_describe(future.exception)}"] += 1
        return acknowledged, failures

    def _replace_if_stuck(self, *, failed: bool, progress: bool) -> None:
        if progress:
            self._failed_rounds = 0
        elif failed:
            self._failed_rounds += 1
        is_lost = any(time.monotonic() > sent + self._patience_seconds for _, _, sent in self._in_flight.values())
        # A client that fails all it has comes to a round with nothing in flight.
        if is_lost or (self._failed_rounds >= FAILED_ROUNDS_BEFORE_REPLACING and not self._in_flight):
            self._log.warning(
                "kafka_client_replaced", failed_rounds=self._failed_rounds, in_flight=len(self._in_flight)
            )
            # They are in the outbox still, for the next client.
            self._in_flight.clear()
            self.close()
            self._failed_rounds = 0


def next_beat(start: float, interval: float, now: float) -> float:
    """The first of `start`, `start + interval`, ... that is after `now`: beats that were missed are skipped."""
    return start + (math.floor((now - start) / interval) + 1) * interval if now >= start else start


def to_records(page: Page, topics: Topics) -> list[Record]:
    """A page as Kafka records: prices by coin, then the rejected tickers."""
    prices = [
        Record(topics.prices, ticker.id.encode(), encode(to_message(ticker, page.ts)), page.ts)
        for ticker in page.tickers  # in rank order
    ]
    return prices + [rejected_record(item, page.ts, topics) for item in page.rejected]


def rejected_record(item: Rejected, ts: int, topics: Topics) -> Record:
    """Without a key: they need no order among themselves, and the id may be what is wrong with them."""
    return Record(topics.rejected, None, encode_rejected(item.payload, item.reason, ts), ts)


def market_record(world: World, changes: list[float] | None, ts: int, topics: Topics) -> Record:
    """The market as a whole; `ts` is when it was told, in epoch milliseconds.

    `changes` are those of 24 hours of the coins that a poll has brought, in per cent, if it has brought all.
    """
    message = MarketMessage(
        ts=ts,
        total_mcap_usd=world.total_mcap,
        total_volume_usd=world.total_volume,
        rising=None if changes is None else sum(change > 0 for change in changes),
        falling=None if changes is None else sum(change < 0 for change in changes),
        **world.model_dump(exclude={"total_mcap", "total_volume"}),
    )
    return Record(topics.market, None, encode(message), ts)


def to_message(ticker: Ticker, ts: int) -> PriceMessage:
    """What goes on of a ticker; `ts` is the time of its page in epoch milliseconds."""
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


def check_clock(ts: int) -> None:
    """Raises `CoinLoreError` for a time, in epoch milliseconds, that no clock that was set can tell."""
    if ts < MIN_TS:
        raise CoinLoreError(f"this host's clock was never set: it says {time.strftime('%F', time.gmtime(ts / 1000))}")


class Service:
    """The process: the polling loop in the calling thread, delivery in another."""

    def __init__(self, settings: Settings, outbox: Outbox, connect: Callable[[], Sender], logger: BoundLogger) -> None:
        self._settings = settings
        self._log = logger
        self._stop = threading.Event()
        self._outbox = outbox
        self._topics = Topics(settings.kafka.topic, settings.kafka.market_topic, settings.kafka.rejected_topic)
        self.metrics = ProducerMetrics(outbox)
        patience = settings.producer.delivery_timeout_seconds + LOST_SECONDS
        self._delivery = Delivery(outbox, connect, self._topics, self.metrics, logger, patience)
        self._last_round = time.monotonic()
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
            self._log.info("messages_kept", count=len(self._outbox), reason="stopped before Kafka acknowledged them")

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
        """Tell the watchdog that both threads get on. Without delivery, polling would be an empty show."""
        if self._thread.is_alive() and time.monotonic() - self._last_round < DELIVERY_HANGS_SECONDS:
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
        """One poll. Nothing that goes wrong with it, foreseen or not, ends the process."""
        began = time.time()
        tickers, rejected, errors = 0, 0, []
        changes: list[float] = []
        coins = self._settings.producer.coins
        try:
            for page in client.top(coins) if isinstance(coins, int) else client.these(coins):
                self._keep_page(page)
                tickers += len(page.tickers)
                changes += [ticker.percent_change_24h or 0 for ticker in page.tickers]
                rejected += len(page.rejected)
                errors += [page.error] if page.error else []
        except Exception as error:
            errors.append(_describe(error))
        self.metrics.polled(began, pages_failed=len(errors), tickers=tickers, rejected=rejected)
        if not tickers and not rejected:
            self._log.warning("poll_failed", began=int(began * 1000), reason="; ".join(errors))
        elif errors or rejected:
            self._log.warning(
                "poll_incomplete", began=int(began * 1000), tickers=tickers, rejected=rejected, errors=errors
            )
        if tickers:  # an API that has just told nothing has nothing to tell of the whole
            self._poll_market(client, None if errors else changes)

    def _poll_market(self, client: CoinLore, changes: list[float] | None) -> None:
        try:
            world, ts = client.world(), time.time_ns() // 1_000_000
            check_clock(ts)
            if isinstance(world, Rejected):
                self._log_rejected(world, ts)
                self._keep([rejected_record(world, ts, self._topics)], ts)
            else:
                self._keep([market_record(world, changes, ts, self._topics)], ts)
        except Exception as error:
            self._log.warning("market_poll_failed", reason=_describe(error))

    def _keep_page(self, page: Page) -> None:
        check_clock(page.ts)
        for item in page.rejected[:REJECTED_SHOWN_PER_PAGE]:
            self._log_rejected(item, page.ts)
        self._keep(to_records(page, self._topics), page.ts)
        if page.tickers:
            self.metrics.page_came(page.market_time)

    def _log_rejected(self, item: Rejected, ts: int) -> None:
        self._log.warning("ticker_rejected", ts=ts, reason=item.reason, payload=ascii(item.payload)[:300])

    def _keep(self, records: list[Record], ts: int) -> None:
        """Put records into the outbox: from here on they are not lost. `ts` is when they were fetched."""
        dropped = self._outbox.put(records, ts)
        if dropped:
            self.metrics.dropped(dropped)
            self._log.error(
                "messages_dropped",
                count=dropped,
                reason="Kafka is away, and producer.outbox_hours or producer.outbox_bytes is reached",
            )

    def _deliver(self) -> None:
        """The delivery thread. After `stop` it goes on until all is delivered or the time for that is over."""
        deadline = math.inf
        while time.monotonic() < deadline:
            if len(self._outbox):
                if not self._round() and not self._stop.is_set():
                    self._stop.wait(PAUSE_SECONDS)  # Kafka is away; no need to ask again at once
            elif self._stop.is_set():
                break
            else:
                self._outbox.wait(FLUSH_SECONDS)
            self._last_round = time.monotonic()
            if self._stop.is_set() and deadline == math.inf:
                deadline = time.monotonic() + self._settings.producer.drain_seconds
        self._delivery.close()

    def _round(self) -> bool:
        try:
            return self._delivery.round()
        except Exception as error:  # of the outbox: a full disk, say
            self._log.error("outbox_failed", reason=_describe(error))
            return False


def connect(settings: Settings) -> Sender:
    """A client of Kafka with acks=all and idempotence; raises KafkaTimeoutError when no broker answers.

    Within `delivery_timeout_seconds` the client repeats by itself, over broken connections and restarted brokers, and
    Kafka drops what arrives twice. The limits on backoff make it come back within seconds after an outage.
    """
    return Client(
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


def _describe(error: BaseException | None) -> str:
    text = " ".join(str(error).split())[:500]  # which in Kafka's own errors begins with their name
    name = type(error).__name__
    return text if text.startswith(name) else f"{name}: {text}"


def open_outbox(settings: Settings, logger: BoundLogger) -> Outbox:
    """The file of the settings. One that is damaged is set aside, loudly, and a new one begun."""
    producer = settings.producer
    outbox = Outbox(Path(producer.outbox), producer.outbox_bytes, producer.outbox_hours * 3600)
    if outbox.damaged is not None:
        logger.error("outbox_damaged", set_aside=str(outbox.damaged))
    if len(outbox):
        logger.info("messages_found", count=len(outbox), reason="kept from before, to be delivered first")
    return outbox


def main() -> None:
    """The command `python -m crypto_stream.producer`."""
    settings = config.load_or_exit("market", "kafka", "producer")
    logger = log.configure("producer")
    try:
        outbox = open_outbox(settings, logger)
    except (OSError, sqlite3.Error) as error:
        sys.exit(f"producer: the outbox {settings.producer.outbox} cannot be used: {error}")
    service = Service(settings, outbox, lambda: connect(settings), logger)
    service.metrics.serve(settings.producer.metrics_port, logger)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    service.run()
    # What the Kafka client does at an ordinary exit is to wait, once more, for what cannot be delivered.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
