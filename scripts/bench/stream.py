"""How fast prices go through the stream, one by one and many at once."""

from __future__ import annotations

import re
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from cassandra.cluster import Session
from cassandra.concurrent import execute_concurrent
from cassandra.query import BatchStatement, BatchType
from crypto_stream.messages import PriceMessage, encode
from crypto_stream.tables import INTERVALS
from kafka import KafkaProducer

from bench.host import KAFKA_PORT, connect, on_host, wait_for

PRICES = "crypto.prices"
# Messages a second; how many of them are of the coin that is looked for, how often, and for how long.
RATES = (100, 1000)
PROBE = "bench-probe"
PROBES_A_SECOND = 10
LOOK_SECONDS = 0.04
# Java compiles what it has seen often, and candles know the keys of four minutes: a job's first ones are another thing.
WARM_SECONDS, LATENCY_SECONDS = 180, 120
FIRST_SECONDS = 60
BENCH_COINS = 100
# How many prices wait for the job, and how often that is done; the first rounds warm up.
BACKLOG = 100_000
WARM_ROUNDS, ROUNDS = 3, 3
BATCH_ROWS = 50
CANDLES = 8

# The same sink as the job's, fed from memory.
CONNECTOR = f"""
import time
from pyspark.sql import SparkSession, functions as F
from crypto_stream import config, sinks, stream_job
from crypto_stream.tables import PRICES
spark = SparkSession.builder.appName("bench").config(map=stream_job.SESSION).getOrCreate()
sinks.look_for_tables(spark, config.load("cassandra"))
rates = []
for _ in range({WARM_ROUNDS + ROUNDS}):
    began = time.time()
    rows = spark.range(0, {BACKLOG}, 1, 4).select(
        F.concat(F.lit("bench-"), F.col("id") % {BENCH_COINS}).alias("id"), F.lit("Bench").alias("name"),
        F.lit(1.0).alias("price_usd"), (F.lit(int(began * 1000)) + F.col("id")).alias("ts"),
        F.current_timestamp().alias("processing_time"), F.lit(int(began * 1e6)).alias("written_at"),
        F.lit(86400).alias("ttl_seconds"))
    sinks.append(rows, PRICES)
    rates.append({BACKLOG} / (time.time() - began))
print("rows a second:", max(rates[{WARM_ROUNDS}:]))
"""


def connect_producer() -> tuple[KafkaProducer, int]:
    """A producer, and how many partitions the topic of prices has."""
    producer = KafkaProducer(bootstrap_servers=[f"127.0.0.1:{KAFKA_PORT}"], acks="all", linger_ms=20)
    return producer, len(producer.partitions_for(PRICES))


def price(coin: str, number: int, ts: int, partitions: int) -> dict[str, Any]:
    """What to send for a coin of that number; its keys would spread a hundred coins 37 to 63, and thousands evenly."""
    value = encode(PriceMessage(id=coin, ts=ts, name="Bench", price_usd=1.0))
    return {"topic": PRICES, "key": coin.encode(), "value": value, "partition": number % partitions}


def send(rate: int, seconds: float, taken: dict[int, int]) -> None:
    """Send so many prices a second; for those of one coin, `taken` has Kafka's own time by the price's."""
    producer, partitions = connect_producer()
    step = max(1, rate // PROBES_A_SECOND)
    started, sent = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        while sent < passed * rate:
            is_probe = sent % step == 0
            number, ts = 0 if is_probe else sent % BENCH_COINS, time.time_ns() // 1_000_000
            future = producer.send(**price(PROBE if is_probe else f"bench-{number}", number, ts, partitions))
            if is_probe:
                future.add_callback(lambda record, ts=ts: taken.update({ts: record.timestamp}))
            sent += 1
        time.sleep(0.02)
    producer.close(30)


def one(session: Session, look: Any, key: Sequence[object]) -> Any:
    """A row, or None."""
    return session.execute(look, key).one()


def latency(rate: int) -> dict[str, float]:
    """How long a row takes, once the stream has got used to the rate, and before."""
    cluster, session = wait_for(connect, "Cassandra's answer")
    look = session.prepare("SELECT ts FROM crypto.prices WHERE id = ? AND ts > ?")
    taken: dict[int, int] = {}
    sender = threading.Thread(target=send, args=(rate, WARM_SECONDS + LATENCY_SECONDS, taken))
    newest = began = time.time_ns() // 1_000_000
    seen: dict[int, float] = {}
    looks: list[float] = []
    sender.start()
    deadline = time.monotonic() + WARM_SECONDS + LATENCY_SECONDS + 120
    while (sender.is_alive() or len(seen) < len(taken)) and time.monotonic() < deadline:
        asked = time.time()
        rows = [row.ts for row in session.execute(look, [PROBE, newest])]
        now = time.time()
        looks.append(now - asked)
        seen |= dict.fromkeys(rows, now * 1000)
        newest = max([newest, *rows])
        time.sleep(LOOK_SECONDS)
    cluster.shutdown()
    waits = {ts: seen[ts] - taken[ts] for ts in taken if ts in seen}
    steady = [wait for ts, wait in waits.items() if ts > began + WARM_SECONDS * 1000]
    first = [wait for ts, wait in waits.items() if ts < began + FIRST_SECONDS * 1000]
    figures: dict[str, float] = {}
    for name, some in (("latency", steady), ("latency_first", first)):
        figures[f"{name}_p50_ms_{rate}"] = statistics.median(some)
        figures[f"{name}_p99_ms_{rate}"] = sorted(some)[int(len(some) * 0.99)]
    return figures | {
        f"probe_ms_{rate}": 1000 * (statistics.mean(looks) + LOOK_SECONDS / 2),
        f"probed_{rate}": len(steady),
        f"not_seen_{rate}": len(taken) - len(waits),
    }


def latencies() -> dict[str, float]:
    """At the rates that are compared."""
    return {name: value for rate in RATES for name, value in latency(rate).items()}


def backlog(producer: KafkaProducer, partitions: int) -> list[tuple[str, int]]:
    """Send BACKLOG prices as fast as it goes; returns the key of each coin's last one."""
    began = time.time_ns() // 1_000_000
    last = {}
    for number in range(BACKLOG):
        coin, ts = f"bench-{number % BENCH_COINS}", began + number // BENCH_COINS
        producer.send(**price(coin, number % BENCH_COINS, ts, partitions))
        last[coin] = ts
    producer.flush(60)
    return list(last.items())


def one_candle(session: Session, look: Any, coin: str, ts: int) -> bool | None:
    """Whether the candle of a backlog's last minute has all of its prices of that minute."""
    start = ts // 60_000 * 60_000
    first = max(start, ts - BACKLOG // BENCH_COINS + 1)
    row = one(session, look, [coin, time.strftime("%Y-%m", time.gmtime(ts / 1000)), start])
    return bool(row and row.samples > ts - first) or None


def through_the_job(session: Session) -> float:
    """Rows a second from Kafka into the table, best of ROUNDS after those that warm up."""
    look = session.prepare("SELECT ts FROM crypto.prices WHERE id = ? AND ts = ?")
    candle = session.prepare(
        "SELECT samples FROM crypto.candles WHERE id = ? AND interval = '1m' AND month = ? AND start = ?"
    )
    producer, partitions = connect_producer()
    rates = []
    for _ in range(WARM_ROUNDS + ROUNDS):
        on_host("sudo systemctl kill --signal=STOP crypto-stream-job")
        try:
            last = backlog(producer, partitions)
        finally:
            began = float(on_host("date +%s.%N; sudo systemctl kill --signal=CONT crypto-stream-job"))
        for key in last:
            wait_for(partial(one, session, look, key), "A row for each message")
        rates.append(BACKLOG / (time.time() - began))
        # The slowest of the other queries has caught up.
        for coin, ts in last:
            wait_for(partial(one_candle, session, candle, coin, ts), "A candle with each message")
    producer.close()
    return max(rates[WARM_ROUNDS:])


def by_the_driver(session: Session) -> float:
    """Rows a second of the Python driver in unlogged batches, best of ROUNDS."""
    insert = session.prepare(
        "INSERT INTO crypto.prices (id, name, price_usd, ts, processing_time)"
        " VALUES (?, 'Bench', 1, ?, ?) USING TTL 86400"
    )
    best = 0.0
    for _ in range(ROUNDS):
        began = time.time_ns() // 1_000_000
        batches = []
        for first in range(0, BACKLOG, BATCH_ROWS):
            batch = BatchStatement(BatchType.UNLOGGED)
            for ts in range(began + first, began + first + BATCH_ROWS):
                batch.add(insert, (f"bench-{first // BATCH_ROWS % BENCH_COINS}", ts, began))
            batches.append((batch, ()))
        started = time.monotonic()
        execute_concurrent(session, batches, concurrency=50)
        best = max(best, BACKLOG / (time.monotonic() - started))
    return best


def by_the_connector() -> float:
    """Rows a second of Spark's connector from memory, started as the job is, which leaves it the cores."""
    started = on_host("systemctl show --property=ExecStart crypto-stream-job")
    command = re.search(r"argv\[\]=(.*) \S+/stream_job\.py ;", started)
    if command is None:
        sys.exit(f"crypto-stream-job is not started as expected: {started}")
    script = "/var/lib/crypto-stream/bench.py"
    on_host(f"sudo tee {script} <<'END'\n{CONNECTOR}\nEND")
    on_host("sudo systemctl stop crypto-stream-job")
    try:
        out = on_host(f"sudo --user=crypto-stream {command.group(1)} {script} 2>&1")
    finally:
        on_host(f"sudo rm {script}; sudo systemctl start crypto-stream-job")
    found = re.search(r"rows a second: ([\d.]+)", out)
    if found is None:
        sys.exit(f"The connector's own rate could not be measured:\n{out[-2000:]}")
    return float(found.group(1))


def throughput() -> dict[str, float]:
    """The three ways into the table, one after the other."""
    cluster, session = wait_for(connect, "Cassandra's answer")
    job, driver = through_the_job(session), by_the_driver(session)
    connector = by_the_connector()
    cluster.shutdown()
    return {
        "rows_per_s": job,
        "connector_rows_per_s": connector,
        "driver_rows_per_s": driver,
        "rows_to_connector": job / connector,
        "rows_to_driver": job / driver,
    }


def candle_delay() -> dict[str, float]:
    """From Kafka's time of a price to the candle that has it, the median of CANDLES coins that are new."""
    cluster, session = wait_for(connect, "Cassandra's answer")
    look = session.prepare("SELECT samples FROM crypto.candles WHERE id = ? AND interval = '1m' AND month = ?")
    producer = KafkaProducer(bootstrap_servers=[f"127.0.0.1:{KAFKA_PORT}"], acks="all")
    delays = []
    for number in range(CANDLES):
        ts = time.time_ns() // 1_000_000
        coin = f"bench-candle-{ts}"
        value = encode(PriceMessage(id=coin, ts=ts, name="Bench", price_usd=1.0))
        taken = producer.send(PRICES, value, coin.encode()).get(30).timestamp
        key = [coin, time.strftime("%Y-%m", time.gmtime(ts / 1000))]
        wait_for(partial(one, session, look, key), f"candle {number}", 120)
        delays.append(time.time() - taken / 1000)
    producer.close()
    cluster.shutdown()
    return {"candle_delay_s": statistics.median(delays)}


def remove_coins() -> None:
    """Take the rows of the coins of this program out of all tables that people look at."""
    cluster, session = wait_for(connect, "Cassandra's answer")
    coins = {row.id for row in session.execute("SELECT DISTINCT id FROM crypto.prices") if row.id.startswith("bench-")}
    month = time.strftime("%Y-%m", time.gmtime())
    statements: list[tuple[str, tuple[str, ...]]] = []
    for coin in coins:
        statements += [
            ("DELETE FROM crypto.prices WHERE id = %s", (coin,)),
            ("DELETE FROM crypto.latest_prices WHERE board = 'all' AND id = %s", (coin,)),
            *(
                ("DELETE FROM crypto.candles WHERE id = %s AND interval = %s AND month = %s", (coin, interval, month))
                for interval in INTERVALS
            ),
        ]
    execute_concurrent(session, statements)
    cluster.shutdown()
