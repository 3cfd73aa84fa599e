"""`crypto-check`: does data flow, and if not, which hop is broken?

Each hop is looked at by one function that only collects facts, all at once and each within a few seconds. What the
facts mean is decided by another one without any I/O. Producer, stream job and dashboard are judged by what they tell of
their progress, since a unit that is active may do nothing at all.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from crypto_stream import config, metrics
from crypto_stream.config import Settings
from crypto_stream.messages import MessageError, PriceMessage, parse, printable
from crypto_stream.store import AHEAD_SECONDS

STATUS_OK, STATUS_BROKEN, STATUS_USAGE = 0, 1, 2
# One look at one hop, a board of 14,000 coins, say. With Python's start, the command stays below ten seconds.
HOP_SECONDS = 7.0
CONNECT_SECONDS = 3.0
PAUSE_SECONDS = 2.0
# With no producer on this host to tell of the API, it is asked itself, no more often than this.
API_SECONDS = 30.0
# The API's values change about once a minute; only what stands still for longer than that, and stale, is frozen.
FROZEN_SECONDS = 120.0
DISK_LIMIT_PERCENT = 80
REAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "fuse-overlayfs"}
UNITS = {"producer": "crypto-producer", "stream_job": "crypto-stream-job", "dashboard": "crypto-dashboard"}
# The servers that a service waits for when they are away.
NEEDS = {"producer": ("topic",), "stream_job": ("topic", "table")}
PRODUCER = "crypto_producer"
JOB = "crypto_job"
PRODUCER_JOURNAL = "journalctl -u crypto-producer -n 50"
JOB_JOURNAL = "journalctl -u crypto-stream-job -n 50"


@dataclass(frozen=True)
class Facts:
    """What a look at one hop found: `error` when there was none to be had. Times in epoch milliseconds.

    `newest_ts` is the newest time that is not ahead of now, `ahead_seconds` how far ahead the furthest one is.
    """

    found: str = ""
    error: str = ""
    newest_ts: int | None = None
    ahead_seconds: float = 0


@dataclass(frozen=True)
class Service:
    """A service of the project: its unit's state (None: not on this host), and its metrics by name."""

    state: str | None = None
    values: dict[str, float] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Hop:
    """What is thought of one hop. `age_seconds` is of the newest data there, `look` a command to go on with.

    `unreachable` is a server that does not answer: who needs it can do nothing but wait.
    """

    name: str
    ok: bool
    found: str
    age_seconds: float | None = None
    cause: str | None = None
    look: str | None = None
    warning: str | None = None
    unreachable: bool = False


@dataclass(frozen=True)
class Disk:
    """A file system and how full it is, in per cent as `df` counts."""

    path: str
    used_percent: float


@dataclass(frozen=True)
class Progress:
    """How far one query of the stream job is: messages that wait, how many seconds it is behind its topics while they
    do, rows by outcome and batches since the job started, and what the last batch took, in seconds.
    """

    query: str
    waiting: float
    behind_seconds: float
    rows: dict[str, float]
    batches: float
    batch_seconds: float | None


@dataclass(frozen=True)
class Report:
    """The whole answer; `first_broken` names the hop to look at first. `seen_at` in epoch seconds."""

    ok: bool
    hops: list[Hop]
    first_broken: str | None
    warnings: list[str]
    seen_at: float = field(default_factory=time.time)
    queries: list[Progress] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)


# ---- What the facts mean: no I/O below, down to `report`.


def judge_api(producer: Service, asked: Facts | None, now: float, limit_seconds: float) -> Hop:
    """The source of prices: by the producer's polls, or, where nothing is known of any, by a request of our own."""
    cause = "the market's API does not answer as it should"
    if not has_polled(producer):
        facts = asked or Facts("not asked")
        look = "systemctl status crypto-simulator (sandbox), or is the host's way out open?"
        return Hop("api", False, facts.error, cause=cause, look=look) if facts.error else Hop("api", True, facts.found)
    values = producer.values
    polled, page = values[f"{PRODUCER}_last_poll_timestamp_seconds"], values[f"{PRODUCER}_last_page_timestamp_seconds"]
    if not polled:
        return Hop("api", True, "pages of the first poll arrive", now - page)
    age, found = now - polled, f"the last poll brought {values[f'{PRODUCER}_last_poll_coins']:,.0f} coins"
    still = now - values[f"{PRODUCER}_market_moved_timestamp_seconds"]
    if now - page <= limit_seconds < still - FROZEN_SECONDS:
        frozen = f"{found}, and the API's own time of them has stood still for {_span(still)}"
        return Hop("api", False, frozen, still, "the API tells the same values again and again", PRODUCER_JOURNAL)
    if values[f"{PRODUCER}_last_poll{{ok}}"]:
        return Hop("api", True, found, age)
    if now - page <= limit_seconds:
        return Hop("api", True, found, age, warning=f"the last poll of the API was not whole: {PRODUCER_JOURNAL}")
    since = f"for {_span(now - page)}" if page else "since the producer started"
    return Hop("api", False, f"polls have brought no prices {since}", age, cause, PRODUCER_JOURNAL)


def has_polled(producer: Service) -> bool:
    """Whether the producer can tell anything of the API."""
    names = (f"{PRODUCER}_last_poll_timestamp_seconds", f"{PRODUCER}_last_page_timestamp_seconds")
    return any(producer.values.get(name) for name in names)


def judge_unit(name: str, service: Service) -> Hop | None:
    """A service that is not there, or not up, or tells nothing; None when its metrics are to be looked at."""
    unit = UNITS[name]
    if service.state is None:
        return Hop(name, True, "not on this host")
    if service.state != "active":
        return Hop(
            name,
            False,
            f"{unit} is {service.state}",
            cause="the service is stopped"
            if service.state == "inactive"
            else "the service does not come up or keeps failing",
            look=f"systemctl start {unit}" if service.state == "inactive" else f"journalctl -u {unit} -n 50",
        )
    if service.error:
        return Hop(
            name,
            False,
            f"{unit} is active and tells nothing: {service.error}",
            cause="the service hangs, or its port of metrics is taken by something else",
            look=f"journalctl -u {unit} -n 50",
        )
    return None


def judge_producer(service: Service, now: float, limit_seconds: float) -> Hop:
    """Polls that end, and an outbox that does not grow old."""
    if (hop := judge_unit("producer", service)) is not None:
        return hop
    values = service.values
    waiting, waiting_seconds = values[f"{PRODUCER}_outbox_records"], values[f"{PRODUCER}_outbox_age_seconds"]
    # A poll of all coins takes minutes; its pages show that it gets on.
    moments = ("start", "last_poll", "last_page")
    active = max(values[f"{PRODUCER}_{moment}_timestamp_seconds"] for moment in moments)
    if now - active > limit_seconds:
        found = f"neither a page nor the end of a poll for {_span(now - active)}"
        return Hop("producer", False, found, cause="the producer does not poll", look=PRODUCER_JOURNAL)
    if waiting and waiting_seconds > limit_seconds:
        found = f"{waiting:,.0f} messages have waited for Kafka, up to {_span(waiting_seconds)}"
        return Hop(
            "producer", False, found, cause="Kafka does not take them", look="systemctl status kafka crypto-schema"
        )
    dropped = values.get(f"{PRODUCER}_messages_total{{dropped}}", 0)
    warning = f"the producer had to drop {dropped:,.0f} messages: {PRODUCER_JOURNAL}" if dropped else None
    return Hop("producer", True, f"{waiting:,.0f} messages wait for Kafka", now - active, warning=warning)


def judge_topic(facts: Facts, now_ts: int, limit_seconds: float) -> Hop:
    """Kafka, and how old the newest message is. A topic that stands still is its producer's fault."""
    if facts.error:
        return Hop(
            "topic",
            False,
            facts.error,
            cause="Kafka does not answer, or the topic is missing",
            look="systemctl status kafka crypto-schema",
            unreachable=True,
        )
    age, warning = age_seconds(facts.newest_ts, now_ts), _ahead(facts, "the producer's clock")
    if age is None:
        cause = "the producer has not delivered anything yet"
        return Hop("topic", False, facts.found, cause=cause, look=PRODUCER_JOURNAL, warning=warning)
    if age > limit_seconds:
        cause = "the producer delivers nothing new"
        return Hop("topic", False, facts.found, age, cause, PRODUCER_JOURNAL, warning)
    return Hop("topic", True, facts.found, age, warning=warning)


def judge_stream_job(service: Service, now: float, limit_seconds: float) -> Hop:
    """Batches of each query that end while messages wait."""
    if (hop := judge_unit("stream_job", service)) is not None:
        return hop
    values = service.values
    start = values[f"{JOB}_start_timestamp_seconds"]
    lags = _by_query(values, f"{JOB}_lag_records")
    ended = _by_query(values, f"{JOB}_last_batch_timestamp_seconds")
    set_aside = sum(_by_query(values, f"{JOB}_rows_total", "refused,").values())
    set_aside += values.get(f"{JOB}_rows_total{{written,dead_letters}}", 0)
    late = sum(_by_query(values, f"{JOB}_rows_total", "late,").values())
    found = f"{max(lags.values(), default=0):,.0f} messages wait, {set_aside:,.0f} set aside since it started"
    found += f", {late:,.0f} too late for their candles" if late else ""
    age = now - max(ended.values()) if ended else None
    for query, lag in lags.items():
        since = now - ended.get(query, start)
        if lag and since > limit_seconds:
            cause = f"no batch of {query} has ended for {_span(since)}"
            return Hop("stream_job", False, found, age, cause, JOB_JOURNAL)
    query, behind = max(_by_query(values, f"{JOB}_lag_seconds").items(), key=lambda item: item[1], default=("", 0))
    warning = f"{query} is {_span(behind)} behind its topics" if behind > limit_seconds else None
    return Hop("stream_job", True, found, age, warning=warning)


def progress(service: Service) -> list[Progress]:
    """Of each query that has begun; empty where the job tells nothing."""
    values = service.values
    behind, batches = _by_query(values, f"{JOB}_lag_seconds"), _by_query(values, f"{JOB}_batches_total")
    seconds = _by_query(values, f"{JOB}_last_batch_duration_seconds")
    rows = {name: _by_query(values, f"{JOB}_rows_total", f"{name},") for name in ("written", "refused", "late")}
    return [
        Progress(
            query,
            waiting,
            behind.get(query, 0),
            {name: found[query] for name, found in rows.items() if query in found},
            batches.get(query, 0),
            seconds.get(query),
        )
        for query, waiting in _by_query(values, f"{JOB}_lag_records").items()
    ]


def _by_query(values: Mapping[str, float], name: str, outcome: str = "") -> dict[str, float]:
    """The values of a metric of each query, by the query's name; `outcome` is what goes before that in the labels."""
    begin = f"{name}{{{outcome}"
    return {key[len(begin) : -1]: value for key, value in values.items() if key.startswith(begin)}


def judge_table(facts: Facts, topic: Facts, now_ts: int, limit_seconds: float) -> Hop:
    """Cassandra, and how old the newest row is. The stream job can write no more than the topic holds."""
    if facts.error:
        return Hop(
            "table",
            False,
            facts.error,
            cause="Cassandra does not answer, or the table is missing",
            look="systemctl status cassandra crypto-schema",
            unreachable=True,
        )
    age, warning = age_seconds(facts.newest_ts, now_ts), _ahead(facts, "the clock of whoever wrote the table")
    if age is not None and age <= limit_seconds:
        return Hop("table", True, facts.found, age, warning=warning)
    if topic.newest_ts is None or (facts.newest_ts is not None and facts.newest_ts >= topic.newest_ts):
        cause, look = "nothing new arrives in the topic", PRODUCER_JOURNAL
    else:
        cause, look = "the stream job does not write what is in the topic", JOB_JOURNAL
    return Hop("table", False, facts.found, age, cause, look, warning)


def judge_dashboard(service: Service, answers: Facts, now: float, limit_seconds: float) -> Hop:
    """The page answers, and can read what it shows; that the data is fresh is what the table's hop says."""
    if (hop := judge_unit("dashboard", service)) is not None:
        return hop
    journal = f"journalctl -u {UNITS['dashboard']} -n 50"
    if answers.error:
        return Hop("dashboard", False, answers.error, cause="the dashboard does not answer", look=journal)
    read, coins = (
        service.values["crypto_dashboard_last_read_timestamp_seconds"],
        service.values["crypto_dashboard_coins"],
    )
    age = now - read if read else None
    if age is None or age > limit_seconds:
        found = "shows nothing, " if age is None else f"shows {coins:,.0f} coins as they were {_span(age)} ago, "
        return Hop(
            "dashboard",
            False,
            f"{found}and cannot read Cassandra",
            age,
            cause="Cassandra does not answer the dashboard",
            look="systemctl status cassandra",
        )
    if not coins:
        cause = "there were no latest prices when the dashboard read them last"
        return Hop("dashboard", False, "shows no coins", age, cause, JOB_JOURNAL)
    return Hop("dashboard", True, f"shows {coins:,.0f} coins, {answers.found}", age)


def _ahead(facts: Facts, whose: str) -> str | None:
    """A time that has not come yet is no fresh data, but a wrong clock."""
    if facts.ahead_seconds <= AHEAD_SECONDS:
        return None
    return f"{whose} is wrong: a price is {_span(facts.ahead_seconds)} ahead of this host's time"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def age_seconds(ts: int | None, now_ts: int) -> float | None:
    """How old a time is, in seconds; clocks that differ a little do not make it negative."""
    return None if ts is None else max(0, now_ts - ts) / 1000


def disk_warnings(disks: Sequence[Disk]) -> list[str]:
    """One line for each file system that is too full."""
    return [
        f"{disk.path} is {disk.used_percent:.0f} % full" for disk in disks if disk.used_percent > DISK_LIMIT_PERCENT
    ]


def report(hops: list[Hop], disks: Sequence[Disk], queries: Sequence[Progress] = ()) -> Report:
    """All together. A full disk is a warning: data still flows."""
    broken = [hop.name for hop in hops if not hop.ok]
    first = broken[0] if broken else None
    needed = [hop.name for hop in hops if hop.unreachable and hop.name in NEEDS.get(first or "", ())]
    if needed:
        first = needed[0]
    warnings = [hop.warning for hop in hops if hop.warning]
    return Report(not broken, hops, first, warnings + disk_warnings(disks), queries=list(queries), disks=list(disks))


def as_table(result: Report) -> str:
    """For people."""
    rows = [("hop", "", "age", "found")]
    rows += [
        (
            hop.name,
            "ok" if hop.ok else "BROKEN",
            "" if hop.age_seconds is None else f"{hop.age_seconds:.0f} s",
            printable(hop.found),
        )
        for hop in result.hops
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[3]]).rstrip() for row in rows]
    for hop in result.hops:
        if hop.name == result.first_broken:
            lines += [
                "",
                f"First broken hop: {hop.name}",
                f"  likely cause:  {hop.cause}",
                f"  look next:     {hop.look}",
            ]
    lines += ["", *(f"Warning: {warning}" for warning in result.warnings)] if result.warnings else []
    if result.ok:
        lines += ["", "Data flows."]
    return "\n".join(lines)


# ---- What is looked at.


class Api:
    """The API, asked no more often than is good for it."""

    def __init__(self, settings: Settings) -> None:
        self._market = settings.market.model_copy(update={"attempts": 1, "request_timeout_seconds": CONNECT_SECONDS})
        self._last: tuple[float, Facts] | None = None

    def look(self) -> Facts:
        """One ticker, through the same client as the producer's."""
        if self._last is None or time.monotonic() - self._last[0] > API_SECONDS:
            self._last = time.monotonic(), self._ask()
        return self._last[1]

    def _ask(self) -> Facts:
        from crypto_stream.coinlore import CoinLore

        with CoinLore(self._market) as client:
            page = next(client.top(1))
        if not page.tickers:
            return Facts(error=page.error or f"no usable ticker: {page.rejected[0].reason}")
        ticker = page.tickers[0]
        return Facts(f"{ticker.name} at {ticker.price_usd:,.2f} USD, from {self._market.api_url}")


def look_at_topic(settings: Settings) -> Facts:
    """How many messages there are, and the newest one's time and coin."""
    from kafka import KafkaConsumer, TopicPartition

    consumer: Any = KafkaConsumer(
        bootstrap_servers=list(settings.kafka.bootstrap_servers),
        client_id="crypto-check",
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        allow_auto_create_topics=False,
        bootstrap_timeout_ms=int(CONNECT_SECONDS * 1000),
        metrics_enabled=False,
    )
    try:
        partitions = [
            TopicPartition(settings.kafka.topic, number)
            for number in sorted(consumer.partitions_for_topic(settings.kafka.topic) or ())
        ]
        if not partitions:
            return Facts(error=f"there is no topic {settings.kafka.topic}")
        beginnings, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        filled = [partition for partition in partitions if ends[partition] > beginnings[partition]]
        count = sum(ends[partition] - beginnings[partition] for partition in partitions)
        found = f"{count:,} messages in {settings.kafka.topic}"
        if not filled:
            return Facts(found)
        newest = _last_messages(consumer, filled, ends)
        if not newest:
            return Facts(error=f"{found}, but the last one cannot be read")
        return dataclasses.replace(_facts_of(newest, time.time_ns() // 1_000_000), found=found)
    finally:
        consumer.close(autocommit=False, timeout_ms=1000)


def _last_messages(consumer: Any, partitions: list[Any], ends: dict[Any, int]) -> list[Any]:
    """The last message of each partition, as far as they arrive in time."""
    consumer.assign(partitions)
    for partition in partitions:
        consumer.seek(partition, ends[partition] - 1)
    messages: dict[Any, Any] = {}
    end = time.monotonic() + CONNECT_SECONDS
    while len(messages) < len(partitions) and time.monotonic() < end:
        for partition, records in consumer.poll(timeout_ms=500).items():
            messages[partition] = records[-1]
    return list(messages.values())


def _facts_of(newest: list[Any], now_ts: int) -> Facts:
    """What the last messages of the partitions say: when they came, by Kafka's clock, and what they say themselves."""
    times = []
    for message in newest:
        with contextlib.suppress(MessageError):  # it becomes a dead letter, which is not this hop's matter
            times.append(parse(PriceMessage, message.value).ts)
    ahead = max((ts - now_ts for ts in times), default=0) / 1000
    came = [message.timestamp for message in newest if message.timestamp <= now_ts + AHEAD_SECONDS * 1000]
    return Facts(newest_ts=max(came, default=None), ahead_seconds=ahead)


def look_at_table(settings: Settings) -> Facts:
    """The newest row of the board, and whether the table of all prices has got as far; prices of the future."""
    from crypto_stream.store import Store, quiet_driver

    quiet_driver()
    store = Store(settings.cassandra.model_copy(update={"request_timeout_seconds": CONNECT_SECONDS}))
    now_ts = time.time_ns() // 1_000_000
    try:
        board = store.board(now_ts, settings.freshness.stale_after_seconds)
        ahead = max((row.ts - now_ts for row in board.ahead), default=0) / 1000
        keyspace = settings.cassandra.keyspace
        if board.newest_ts is None:
            return Facts(f"{keyspace}.latest_prices is empty", ahead_seconds=ahead)
        newest = next(row for row in board.rows if row.ts == board.newest_ts)
        written = store.newest_ts(newest.id, now_ts)
    finally:
        store.close()
    found = f"{newest.name} at {newest.price_usd:,.6g} USD, {len(board.rows):,} coins in {keyspace}.latest_prices"
    if written is None:
        return Facts(f"{found}, none of it in {keyspace}.prices", ahead_seconds=ahead)
    return Facts(found, newest_ts=min(written, newest.ts), ahead_seconds=ahead)


def look_at_page(settings: Settings) -> Facts:
    """Streamlit's own health page."""
    import httpx

    address = f"{settings.dashboard.url}/_stcore/health"
    response = httpx.get(address, timeout=CONNECT_SECONDS)
    if response.status_code != httpx.codes.OK or response.text.strip() != "ok":
        return Facts(error=f"HTTP status {response.status_code} from {address}")
    return Facts(f"answers at {settings.dashboard.url}")


def look_at_service(name: str, port: int) -> Service:
    """A unit's state and, where it is active, its metrics."""
    import httpx

    state = unit_state(UNITS[name])
    if state != "active":
        return Service(state)
    address = f"http://{metrics.ADDRESS}:{port}/metrics"
    try:
        values = metrics.read(httpx.get(address, timeout=CONNECT_SECONDS).raise_for_status().text)
        if not any(key.startswith(f"crypto_{metrics.PREFIXES[name]}_") for key in values):
            return Service(state, error=f"{address} is not its own")
    except Exception as error:
        return Service(state, error=f"{address}: {_one_line(error)}")
    return Service(state, values)


def unit_state(unit: str) -> str | None:
    """ActiveState of a unit, or why it has none (masked, bad-setting).

    None where it, or systemd, does not exist, and where it is neither started nor meant to be: it belongs elsewhere.
    """
    try:
        output = subprocess.run(
            ["systemctl", "show", "--property=LoadState,ActiveState,UnitFileState", unit],
            capture_output=True,
            text=True,
            timeout=CONNECT_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    properties = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    loaded = properties.get("LoadState")
    if loaded in (None, "not-found"):
        return None
    if (properties.get("ActiveState"), properties.get("UnitFileState")) == ("inactive", "disabled"):
        return None
    return properties.get("ActiveState") if loaded == "loaded" else loaded


def disks() -> list[Disk]:
    """Every real file system that this process can see, each once."""
    found: dict[int, Disk] = {}
    try:
        lines = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        _, path, kind, *_ = line.split(" ")
        if kind not in REAL_FILE_SYSTEMS:
            continue
        place = Path(path.encode().decode("unicode_escape"))
        try:
            device, usage = place.stat().st_dev, shutil.disk_usage(place)
        except OSError:
            continue
        if usage.used + usage.free and place.is_dir():
            found.setdefault(device, Disk(str(place), usage.used / (usage.used + usage.free) * 100))
    return list(found.values())


def look(settings: Settings, api: Api) -> Report:
    """Look at all hops at the same time, and judge."""
    ports = {
        "producer": settings.producer.metrics_port,
        "stream_job": settings.stream_job.metrics_port,
        "dashboard": settings.dashboard.metrics_port,
    }
    services: dict[str, Service] = {}

    def see(name: str) -> Facts:
        services[name] = look_at_service(name, ports[name])
        return Facts()

    looks: dict[str, Callable[[], Facts]] = {name: lambda name=name: see(name) for name in ports}  # type: ignore[misc]
    looks |= {
        "topic": lambda: look_at_topic(settings),
        "table": lambda: look_at_table(settings),
        "page": lambda: look_at_page(settings),
    }
    facts = _at_the_same_time(looks)
    service = {name: services.get(name, Service("active", error=facts[name].error)) for name in ports}
    if not has_polled(service["producer"]):
        facts |= _at_the_same_time({"api": api.look})
    now = time.time()
    now_ts, limit = int(now * 1000), settings.freshness.stale_after_seconds
    hops = [
        judge_api(service["producer"], facts.get("api"), now, limit),
        judge_producer(service["producer"], now, limit),
        judge_topic(facts["topic"], now_ts, limit),
        judge_stream_job(service["stream_job"], now, limit),
        judge_table(facts["table"], facts["topic"], now_ts, limit),
        judge_dashboard(service["dashboard"], facts["page"], now, limit),
    ]
    return report(hops, disks(), progress(service["stream_job"]))


def _one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _at_the_same_time(looks: dict[str, Callable[[], Facts]]) -> dict[str, Facts]:
    """Run all, each in a thread that nobody waits for longer than HOP_SECONDS."""
    facts: dict[str, Facts] = {}

    def run(name: str) -> None:
        try:
            facts[name] = looks[name]()
        except Exception as error:  # whatever goes wrong while looking is itself what was found
            facts[name] = Facts(error=_one_line(error))

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in looks]
    end = time.monotonic() + HOP_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    return {name: facts.get(name, Facts(error=f"no answer within {HOP_SECONDS:.0f} s")) for name in looks}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="crypto-check",
        description="Does market data flow from the API to the dashboard, and if not, which hop is broken?",
        epilog="Exit status: 0 every hop is healthy, 1 a hop is broken, 2 the command line or the settings are wrong. "
        f"Disks above {DISK_LIMIT_PERCENT} %% are warned of and do not change the status.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--wait", type=_seconds, default=0.0, metavar="SECONDS", help="look again until all is healthy, at most so long"
    )
    return parser.parse_args(argv)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError("from 0 to 86400 seconds")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    options = arguments(argv)
    logging.disable(logging.CRITICAL)  # what libraries say about a broken hop is no help on a terminal
    try:
        settings = config.load()
        api = Api(settings)
    except config.SettingsError as error:
        print(error, file=sys.stderr)
        return STATUS_USAGE
    end = time.monotonic() + options.wait
    result = look(settings, api)
    while not result.ok and time.monotonic() < end:
        time.sleep(min(PAUSE_SECONDS, max(0, end - time.monotonic())))
        result = look(settings, api)
    print(json.dumps(dataclasses.asdict(result), indent=2) if options.json else as_table(result))
    return STATUS_OK if result.ok else STATUS_BROKEN


def run() -> NoReturn:
    """The command crypto-check."""
    code = main()
    sys.stdout.flush()
    # Threads that still wait for an answer would hold up an ordinary exit.
    os._exit(code)


if __name__ == "__main__":
    run()
