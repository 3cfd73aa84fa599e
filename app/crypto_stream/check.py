"""`crypto-check`: does data flow, and if not, which hop is broken?

Each hop is looked at by one function that only collects facts, all at once and each within a few seconds. What the
facts mean is decided by another one without any I/O.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from crypto_stream import config
from crypto_stream.config import Settings

STATUS_OK, STATUS_BROKEN, STATUS_USAGE = 0, 1, 2
# One look at one hop. Together with starting Python this keeps the whole command below ten seconds.
HOP_SECONDS = 7.0
CONNECT_SECONDS = 3.0
PAUSE_SECONDS = 2.0
DISK_LIMIT_PERCENT = 80
REAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "fuse-overlayfs"}
UNITS = {"producer": "crypto-producer", "stream_job": "crypto-stream-job", "dashboard": "crypto-dashboard"}

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What a look at one hop found: `error` when there was none to be had. Times in epoch milliseconds."""

    found: str = ""
    error: str = ""
    newest_ts: int | None = None
    coin: str | None = None


@dataclass(frozen=True)
class Hop:
    """What is thought of one hop. `age_seconds` is of the newest data there, `look` a command to go on with."""

    name: str
    ok: bool
    found: str
    age_seconds: float | None = None
    cause: str | None = None
    look: str | None = None


@dataclass(frozen=True)
class Disk:
    """A file system and how full it is, in per cent as `df` counts."""

    path: str
    used_percent: float


@dataclass(frozen=True)
class Report:
    """The whole answer; `first_broken` names the hop to look at first."""

    ok: bool
    hops: list[Hop]
    first_broken: str | None
    warnings: list[str]


# ---- What the facts mean: no I/O below, down to `report`.


def judge_api(facts: Facts) -> Hop:
    """The source of prices."""
    if facts.error:
        return Hop(
            "api",
            False,
            facts.error,
            cause="the market's API does not answer as it should",
            look="systemctl status crypto-simulator (sandbox), or is the host's way out open?",
        )
    return Hop("api", True, facts.found)


def judge_unit(name: str, state: str | None, found: str = "") -> Hop:
    """A service by its unit's state; None means that it is not on this host."""
    unit = UNITS[name]
    if state is None:
        return Hop(name, True, found or "not on this host")
    if state == "active":
        return Hop(name, True, f"{unit} is active" + (f", {found}" if found else ""))
    return Hop(
        name,
        False,
        f"{unit} is {state}",
        cause="the service is stopped" if state == "inactive" else "the service does not come up or keeps failing",
        look=f"systemctl start {unit}" if state == "inactive" else f"journalctl -u {unit} -n 50",
    )


def judge_topic(facts: Facts, now_ts: int, limit_seconds: float) -> Hop:
    """Kafka, and how old the newest message is. A topic that stands still is its producer's fault."""
    if facts.error:
        return Hop(
            "topic",
            False,
            facts.error,
            cause="Kafka does not answer, or the topic is missing",
            look="systemctl status kafka crypto-schema",
        )
    age = age_seconds(facts.newest_ts, now_ts)
    if age is None:
        return Hop(
            "topic",
            False,
            facts.found,
            cause="the producer has not delivered anything yet",
            look="journalctl -u crypto-producer -n 50",
        )
    if age > limit_seconds:
        return Hop(
            "topic",
            False,
            facts.found,
            age,
            cause="the producer delivers nothing new",
            look="journalctl -u crypto-producer -n 50",
        )
    return Hop("topic", True, facts.found, age)


def judge_table(facts: Facts, topic: Facts, now_ts: int, limit_seconds: float) -> Hop:
    """Cassandra, and how old the newest row is. The stream job can write no more than the topic holds."""
    if facts.error:
        return Hop(
            "table",
            False,
            facts.error,
            cause="Cassandra does not answer, or the table is missing",
            look="systemctl status cassandra crypto-schema",
        )
    age = age_seconds(facts.newest_ts, now_ts)
    if age is not None and age <= limit_seconds:
        return Hop("table", True, facts.found, age)
    if topic.newest_ts is None or (facts.newest_ts is not None and facts.newest_ts >= topic.newest_ts):
        cause, look = "nothing new arrives in the topic", "journalctl -u crypto-producer -n 50"
    else:
        cause, look = "the stream job does not write what is in the topic", "journalctl -u crypto-stream-job -n 50"
    return Hop("table", False, facts.found, age, cause, look)


def judge_dashboard(facts: Facts, state: str | None) -> Hop:
    """The dashboard answers; that its data is fresh is what the table's hop says."""
    hop = judge_unit("dashboard", state, facts.found)
    if not hop.ok or not facts.error:
        return hop
    unit = UNITS["dashboard"]
    return Hop(
        "dashboard", False, facts.error, cause="the dashboard does not answer", look=f"journalctl -u {unit} -n 50"
    )


def age_seconds(ts: int | None, now_ts: int) -> float | None:
    """How old a time is, in seconds; clocks that differ a little do not make it negative."""
    return None if ts is None else max(0, now_ts - ts) / 1000


def disk_warnings(disks: Sequence[Disk]) -> list[str]:
    """One line for each file system that is too full."""
    return [
        f"{disk.path} is {disk.used_percent:.0f} % full" for disk in disks if disk.used_percent > DISK_LIMIT_PERCENT
    ]


def report(hops: list[Hop], disks: Sequence[Disk]) -> Report:
    """All together. A full disk is a warning: data still flows."""
    broken = [hop.name for hop in hops if not hop.ok]
    return Report(not broken, hops, broken[0] if broken else None, disk_warnings(disks))


def as_table(result: Report) -> str:
    """For people."""
    rows = [("hop", "", "age", "found")]
    rows += [
        (
            hop.name,
            "ok" if hop.ok else "BROKEN",
            "" if hop.age_seconds is None else f"{hop.age_seconds:.0f} s",
            hop.found,
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
    lines += [f"Warning: {warning}" for warning in result.warnings]
    if result.ok:
        lines += ["", "Data flows."]
    return "\n".join(lines)


# ---- What is looked at.


def look_at_api(settings: Settings) -> Facts:
    """One ticker, through the same client as the producer's."""
    from crypto_stream.coinlore import CoinLore

    market = settings.market.model_copy(update={"attempts": 1, "request_timeout_seconds": CONNECT_SECONDS})
    with CoinLore(market) as client:
        poll = client.top(1)
    if not poll.tickers:
        return Facts(error=f"no usable ticker: {poll.rejected[0].reason}")
    ticker = poll.tickers[0]
    return Facts(f"{ticker.name} at {ticker.price_usd:,.2f} USD, from {settings.market.api_url}")


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
        last = max(newest, key=lambda message: message.timestamp)
        return Facts(found, newest_ts=last.timestamp, coin=(last.key or b"").decode(errors="replace") or None)
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


def look_at_table(settings: Settings) -> Facts:
    """The newest row. Which coins are there is not known beforehand, so a number of them is looked at."""
    from crypto_stream.store import Store, quiet_driver

    quiet_driver()
    store = Store(settings.cassandra.model_copy(update={"request_timeout_seconds": CONNECT_SECONDS}))
    try:
        rows = store.latest(limit=200)
    finally:
        store.close()
    if not rows:
        return Facts(f"{settings.cassandra.keyspace}.prices is empty")
    newest = max(rows, key=lambda row: row.ts)
    return Facts(
        f"{newest.name} at {newest.price_usd:,.6g} USD in {settings.cassandra.keyspace}.prices", newest_ts=newest.ts
    )


def look_at_dashboard(settings: Settings) -> Facts:
    """Streamlit's own health page."""
    import httpx

    address = f"{settings.dashboard.url}/_stcore/health"
    response = httpx.get(address, timeout=CONNECT_SECONDS)
    if response.status_code != httpx.codes.OK or response.text.strip() != "ok":
        return Facts(error=f"HTTP status {response.status_code} from {address}")
    return Facts(f"answers at {settings.dashboard.url}")


def unit_state(unit: str) -> str | None:
    """ActiveState of a unit; None where the unit, or systemd itself, does not exist."""
    try:
        output = subprocess.run(
            ["systemctl", "show", "--property=LoadState,ActiveState", unit],
            capture_output=True,
            text=True,
            timeout=CONNECT_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    properties = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    return properties.get("ActiveState") if properties.get("LoadState") == "loaded" else None


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


def look(settings: Settings) -> Report:
    """Look at all hops at the same time, and judge."""
    sources: dict[str, Callable[[Settings], Facts]] = {
        "api": look_at_api,
        "topic": look_at_topic,
        "table": look_at_table,
        "dashboard": look_at_dashboard,
    }
    facts = _at_the_same_time({name: _careful(source, settings) for name, source in sources.items()})
    now_ts = time.time_ns() // 1_000_000
    limit = settings.dashboard.stale_after_seconds
    hops = [
        judge_api(facts["api"]),
        judge_unit("producer", unit_state(UNITS["producer"])),
        judge_topic(facts["topic"], now_ts, limit),
        judge_unit("stream_job", unit_state(UNITS["stream_job"])),
        judge_table(facts["table"], facts["topic"], now_ts, limit),
        judge_dashboard(facts["dashboard"], unit_state(UNITS["dashboard"])),
    ]
    return report(hops, disks())


def _careful(source: Callable[[Settings], Facts], settings: Settings) -> Callable[[], Facts]:
    """Whatever goes wrong while looking is itself what was found."""

    def run() -> Facts:
        try:
            return source(settings)
        except Exception as error:
            return Facts(error=(str(error) or type(error).__name__).splitlines()[0])

    return run


def _at_the_same_time(looks: dict[str, Callable[[], Facts]]) -> dict[str, Facts]:
    """Run all, each in a thread that nobody waits for longer than HOP_SECONDS."""
    facts: dict[str, Facts] = {}

    def run(name: str) -> None:
        facts[name] = looks[name]()

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
    except config.SettingsError as error:
        print(error, file=sys.stderr)
        return STATUS_USAGE
    end = time.monotonic() + options.wait
    result = look(settings)
    while not result.ok and time.monotonic() < end:
        time.sleep(min(PAUSE_SECONDS, max(0, end - time.monotonic())))
        result = look(settings)
    print(json.dumps(dataclasses.asdict(result), indent=2) if options.json else as_table(result))
    return STATUS_OK if result.ok else STATUS_BROKEN


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Threads that still wait for an answer would hold up an ordinary exit.
    os._exit(code)
