"""Measure the running sandbox, print a table and write bench.json.

What is measured, and against what:
  up_s                  what the last `make up` took, as it recorded itself
  converge_again_s      ansible-playbook playbooks/site.yml on the converged host; changed must be 0
  start_to_first_row_s  from `systemctl start crypto-stack.target`, everything stopped, to the first new row
  recovery_s            from `kill -9` of a process to the next row, the slowest of all processes; prices are polled
                        every 30 s, which is part of it
  latency_RATE          from the moment at which Kafka took a message to the moment at which its row can be read, at
                        RATE messages a second, in milliseconds: the median and the 99th percentile of what is probed;
                        probe_ms is the share of the looking itself
  rows_per_s            prices through the job, all of its queries running, from a topic that was filled while it stood
                        still, best of three; beside it what Spark's connector writes from memory with the same cores
                        (connector_rows_per_s), and the Python driver in batches of 50 of one coin (driver_rows_per_s);
                        rows_to_connector is the first as a part of the second
  candle_delay_s        from the moment at which Kafka took a price to the moment at which it is in its candle
  COINS: 100 and 14,000 coins, all of them polled from the simulator, a request a second:
  cores_COINS           cores that the whole host was busy with
  first_data_s_COINS    from the address to the board in a browser that has nothing of it yet, the median
  refresh_ms_COINS      from the request of a refresh to the picture after the last of its answer, the median
  first_data_s_empty    the same of a page of Streamlit that shows one line, on the same host in the same run
  refresh_ms_empty
  tabs_mb_first, _last  resident memory of the dashboard's process while TABS (20) viewers look at it for BENCH_SECONDS
  tabs_cores_first ...  (600), at the beginning and at the end, and the cores it is busy with; reads_a_minute is how
                        often it read the board for them
  memory_mb             resident memory of all processes of the host, the highest of that time

Its own coins, "Bench", are removed at the end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TypeVar

from cassandra import DriverException  # type: ignore[import-untyped]
from cassandra.cluster import Cluster, NoHostAvailable, Session  # type: ignore[import-untyped]
from cassandra.concurrent import execute_concurrent  # type: ignore[import-untyped]
from cassandra.query import BatchStatement, BatchType  # type: ignore[import-untyped]
from crypto_stream.messages import PriceMessage, encode
from crypto_stream.tables import INTERVALS
from kafka import KafkaProducer
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("CRYPTO_STREAM_CACHE") or Path.home() / ".cache/crypto-stream")
SECONDS = int(os.environ.get("BENCH_SECONDS", "600"))
CQL_PORT = int(os.environ.get("CQL_PORT", "9042"))
DASHBOARD_PORT = int(os.environ.get("DASHBOARD_PORT", "8501"))

SSH = ["ssh", "-i", str(CACHE / "ssh/id_ed25519"), "-p", os.environ.get("SSH_PORT", "2222")]
SSH += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
KAFKA_PORT = int(os.environ.get("KAFKA_PORT", "9092"))
PRICES = "crypto.prices"
# Messages a second; how many of them are of the coin that is looked for, how often, and for how long.
RATES = (100, 1000)
PROBE = "bench-probe"
PROBES_A_SECOND = 10
LOOK_SECONDS = 0.04
WARM_SECONDS, LATENCY_SECONDS = 20, 60
BENCH_COINS = 100

Found = TypeVar("Found")

BACKLOG = 100_000
ROUNDS = 3
BATCH_ROWS = 50
CANDLES = 8

# The same sink as the job's, fed from memory.
CONNECTOR = f"""
import time
from pyspark.sql import SparkSession, functions as F
from crypto_stream import config, sinks, stream_job
from crypto_stream.tables import PRICES
spark = SparkSession.builder.appName("bench").config(map=stream_job.SESSION).getOrCreate()
best = 0
for _ in range(1 + {ROUNDS}):
    began = time.time()
    rows = spark.range(0, {BACKLOG}, 1, 4).select(
        F.concat(F.lit("bench-"), F.col("id") % {BENCH_COINS}).alias("id"), F.lit("Bench").alias("name"),
        F.lit(1.0).alias("price_usd"), (F.lit(int(began * 1000)) + F.col("id")).alias("ts"),
        F.current_timestamp().alias("processing_time"), F.lit(int(began * 1e6)).alias("written_at"),
        F.lit(86400).alias("ttl_seconds"))
    sinks.append(rows, PRICES, config.load("cassandra"))
    best = max(best, {BACKLOG} / (time.time() - began))
print("rows a second:", best)
"""

# What a viewer sees, and how often it is looked at.
ALL_COINS = (100, 14_000)
TABS = 20
VISITS = 5
BOARD, LINE = "[data-testid=stDataFrame] canvas", "[data-testid=stMarkdown]"
EMPTY_PORT = 18501
EMPTY = """
import time
import streamlit as st
st.fragment(lambda: st.write(time.time()), run_every=5)()
"""
# Notes when the first data is there, and how long each refresh takes: from what the page sends to the first picture
# after the last of the answer.
WATCH = """
window.bench = {first: null, refreshes: []};
let sent = null, shown = null;
const look = setInterval(() => {
  if (document.querySelector(%s)) { window.bench.first = performance.now(); clearInterval(look); }
}, 10);
const send = WebSocket.prototype.send;
const known = new WeakSet();
WebSocket.prototype.send = function (data) {
  if (!known.has(this)) {
    known.add(this);
    this.addEventListener("message", () => requestAnimationFrame(() => { shown = performance.now(); }));
  }
  // The first is the page itself.
  if (sent !== null && shown > sent && window.bench.first !== null && window.bench.first < sent)
    window.bench.refreshes.push(shown - sent);
  sent = performance.now();
  return send.call(this, data);
};
"""

# Goals on two cores and 4096 MB.
GOALS = {
    "up_s": 600,
    "converge_again_s": 60,
    "start_to_first_row_s": 30,
    "recovery_s": 60,
    "latency_p50_ms_1000": 300,
    "latency_p99_ms_1000": 700,
    "first_data_s_14000": 1.5,
    "refresh_ms_14000": 300,
    "memory_mb": 3200,
}


def on_host(command: str) -> str:
    """Run a command on the sandbox host as its user, over ssh."""
    return subprocess.run(
        [*SSH, "ops@127.0.0.1", command], check=True, capture_output=True, text=True, timeout=1200
    ).stdout


def converge_again() -> dict[str, float]:
    """Seconds of a second converge, and how many tasks of it changed something."""
    started = time.monotonic()
    run = subprocess.run(
        ["ansible-playbook", "-i", "inventories/sandbox", "playbooks/site.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - started
    recap = re.search(r"ok=\d+\s+changed=(\d+)\s+unreachable=0\s+failed=0", run.stdout)
    if run.returncode or recap is None:
        sys.exit(f"playbooks/site.yml failed on the running sandbox:\n{run.stdout[-3000:]}")
    return {"converge_again_s": seconds, "converge_again_changed": int(recap.group(1))}


def connect() -> tuple[Cluster, Session] | None:
    """A cluster and its session, or None while Cassandra does not answer."""
    cluster = Cluster(["127.0.0.1"], port=CQL_PORT, connect_timeout=2)
    try:
        return cluster, cluster.connect()
    except NoHostAvailable:
        cluster.shutdown()
        return None


def wait_for(condition: Callable[[], Found | None], what: str, limit: float = 600) -> Found:
    """The first result of a condition that is not None; ends the program after `limit` seconds."""
    deadline = time.monotonic() + limit
    while (result := condition()) is None:
        if time.monotonic() > deadline:
            sys.exit(f"{what} did not happen within {limit:.0f} s; `make status` says what is wrong")
        time.sleep(0.1)
    return result


def first_row_after(moment: float) -> float:
    """Wait for a row of Bitcoin that was written after a moment in epoch seconds; returns how long that took."""
    cluster, session = wait_for(connect, "Cassandra's answer")
    newest = session.prepare("SELECT max(processing_time) AS newest FROM crypto.prices WHERE id = '90' AND ts > ?")

    def first_row() -> float | None:
        try:
            row = session.execute(newest, [int((moment - 60) * 1000)]).one()
        except (NoHostAvailable, DriverException):
            return None
        stamp = row.newest.timestamp() if row and row.newest else 0.0
        return time.time() - moment if stamp > moment else None

    try:
        return wait_for(first_row, "A new row in crypto.prices")
    finally:
        cluster.shutdown()


def recovery() -> dict[str, float]:
    """Kill each process of the stream in turn, and take the seconds until a row is written."""
    spark, ours = ["spark-master", "spark-worker"], ["crypto-simulator", "crypto-producer", "crypto-stream-job"]
    units = ["kafka", "cassandra", *spark, *ours]
    found = {unit: f"systemctl show --property=MainPID --value {unit}" for unit in units}
    found["executor"] = "pgrep --newest --full [C]oarseGrainedExecutorBackend"
    found["python of the job"] = "pgrep --newest --full '[c]rypto_stream[^ ]*/stream_job.py$'"
    seconds = {}
    for name, look in found.items():
        first_row_after(time.time())  # all is well before
        killed = time.time()
        on_host(f"sudo kill -9 $({look})")
        seconds[name] = first_row_after(killed)
        print(f"  {name:20}{seconds[name]:6.1f} s", flush=True)
    return {"recovery_s": max(seconds.values())}


def start_to_first_row() -> dict[str, float]:
    """Stop everything, start the target, and take the seconds until a row is written."""
    # By name, so that it returns when all have stopped.
    on_host("sudo systemctl stop crypto-stack.target $(systemctl show --property=Wants --value crypto-stack.target)")
    # The host's clock is this machine's.
    started = time.time()
    # Without waiting, since it returns only when all units are ready.
    on_host("sudo systemctl start --no-block crypto-stack.target")
    return {"start_to_first_row_s": first_row_after(started)}


def send(rate: int, seconds: float, taken: dict[int, int]) -> None:
    """Send so many prices a second; for those of one coin, `taken` has Kafka's own time by the price's."""
    producer = KafkaProducer(bootstrap_servers=[f"127.0.0.1:{KAFKA_PORT}"], acks="all", linger_ms=5)
    step = max(1, rate // PROBES_A_SECOND)
    started, sent = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        while sent < passed * rate:
            is_probe = sent % step == 0
            coin, ts = PROBE if is_probe else f"bench-{sent % BENCH_COINS}", time.time_ns() // 1_000_000
            value = encode(PriceMessage(id=coin, ts=ts, name="Bench", price_usd=1.0))
            future = producer.send(PRICES, value=value, key=coin.encode())
            if is_probe:
                future.add_callback(lambda record, ts=ts: taken.update({ts: record.timestamp}))
            sent += 1
        time.sleep(0.005)
    producer.close(30)


def latency(rate: int) -> dict[str, float]:
    """How long a row takes, once the stream has got used to the rate."""
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
    steady = [ts for ts in taken if ts > began + WARM_SECONDS * 1000]
    waits = sorted(seen[ts] - taken[ts] for ts in steady if ts in seen)
    return {
        f"latency_p50_ms_{rate}": statistics.median(waits),
        f"latency_p99_ms_{rate}": waits[int(len(waits) * 0.99)],
        f"probe_ms_{rate}": 1000 * (statistics.mean(looks) + LOOK_SECONDS / 2),
        f"probed_{rate}": len(waits),
        f"not_seen_{rate}": len(steady) - len(waits),
    }


def latencies() -> dict[str, float]:
    """At the rates that are compared."""
    return {name: value for rate in RATES for name, value in latency(rate).items()}


def backlog(producer: KafkaProducer) -> list[tuple[str, int]]:
    """Send BACKLOG prices as fast as it goes; returns the key of each coin's last one."""
    began = time.time_ns() // 1_000_000
    last = {}
    for number in range(BACKLOG):
        coin, ts = f"bench-{number % BENCH_COINS}", began + number // BENCH_COINS
        producer.send(PRICES, encode(PriceMessage(id=coin, ts=ts, name="Bench", price_usd=1.0)), coin.encode())
        last[coin] = ts
    producer.flush(60)
    return list(last.items())


def through_the_job(session: Session) -> float:
    """Rows a second from Kafka into the table, best of ROUNDS after one to warm up."""
    look = session.prepare("SELECT ts FROM crypto.prices WHERE id = ? AND ts = ?")
    producer = KafkaProducer(bootstrap_servers=[f"127.0.0.1:{KAFKA_PORT}"], acks="all", linger_ms=20)
    best = 0.0
    for _ in range(1 + ROUNDS):
        on_host("sudo systemctl kill --signal=STOP crypto-stream-job")
        try:
            last = backlog(producer)
        finally:
            began = time.monotonic()
            on_host("sudo systemctl kill --signal=CONT crypto-stream-job")
        for key in last:
            wait_for(lambda key=key: session.execute(look, key).one(), "A row for each message")
        best = max(best, BACKLOG / (time.monotonic() - began))
        # The other queries catch up.
        time.sleep(20)
    producer.close()
    return best


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
        wait_for(lambda key=key: session.execute(look, key).one(), f"candle {number}", 120)
        delays.append(time.time() - taken / 1000)
    producer.close()
    cluster.shutdown()
    return {"candle_delay_s": statistics.median(delays)}


def resident_mb(processes: str = "[0-9]*") -> float:
    """Resident memory of all processes of the host, or of one, in MB."""
    kilobytes = on_host(
        f"sudo cat /proc/{processes}/status 2>/dev/null | awk '/^VmRSS/ {{sum += $2}} END {{print sum}}'"
    )
    return int(kilobytes) / 1024


def cpu_seconds(processes: str = "[0-9]*") -> float:
    """CPU time that the processes of the host that live, or one of them, have had."""
    ticks = on_host(
        f"sudo cat /proc/{processes}/stat 2>/dev/null | sed 's/.*) //' | awk '{{sum += $12 + $13}} END {{print sum}}'"
    )
    return int(ticks) / 100


def cores(seconds: float, processes: str = "[0-9]*") -> float:
    """How many cores they are busy with."""
    before, began = cpu_seconds(processes), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(processes) - before) / (time.monotonic() - began)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
        )
        yield browser
        browser.close()


def seen_in(browser: Browser, address: str, what: str) -> tuple[float, float]:
    """Seconds to the first data and milliseconds of a refresh, medians of VISITS with an empty cache each.

    `what` selects the element that is the first data.
    """
    firsts, refreshes = [], []
    for _ in range(VISITS):
        context = browser.new_context()
        page = context.new_page()
        page.add_init_script(WATCH % json.dumps(what))
        page.goto(address, wait_until="commit")
        page.wait_for_function("window.bench.refreshes.length >= 2", timeout=120_000)
        found = page.evaluate("window.bench")
        firsts.append(found["first"] / 1000)
        refreshes += found["refreshes"]
        context.close()
    return statistics.median(firsts), statistics.median(refreshes)


@contextmanager
def empty_page() -> Iterator[str]:
    """The address of a page that shows one line, refreshed as often as the dashboard, by the same Streamlit."""
    started = on_host("systemctl show --property=ExecStart crypto-dashboard")
    python = re.search(r"argv\[\]=(\S+)", started)
    if python is None:
        sys.exit(f"crypto-dashboard is not started as expected: {started}")
    options = f"--server.headless=true --server.port={EMPTY_PORT} --server.address=127.0.0.1"
    on_host(f"cat > /tmp/empty.py <<'END'\n{EMPTY}\nEND")
    on_host(f"sudo systemd-run --unit=bench-empty --uid=ops {python.group(1)} -m streamlit run {options} /tmp/empty.py")
    tunnel = subprocess.Popen([*SSH, "-N", "-L", f"{EMPTY_PORT}:127.0.0.1:{EMPTY_PORT}", "ops@127.0.0.1"])
    try:
        wait_for(answers, "An answer of the empty page")
        yield f"http://127.0.0.1:{EMPTY_PORT}"
    finally:
        tunnel.terminate()
        on_host("sudo systemctl stop bench-empty; rm /tmp/empty.py")


def answers() -> bool | None:
    """Whether the empty page does."""
    try:
        connection = HTTPConnection("127.0.0.1", EMPTY_PORT, timeout=5)
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status == 200 or None
    except (OSError, HTTPException):
        return None


def converge(**variables: object) -> None:
    """Let the application's playbook change something of the sandbox."""
    run = subprocess.run(
        [
            *("ansible-playbook", "-i", "inventories/sandbox", f"--extra-vars={json.dumps(variables)}"),
            "playbooks/app.yml",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        sys.exit(f"playbooks/app.yml failed with {variables}:\n{run.stdout[-3000:]}")


def on_the_board(session: Session) -> int:
    """How many coins have a row of the last minutes."""
    rows = session.execute("SELECT ts FROM crypto.latest_prices WHERE board = 'all'")
    return sum(row.ts > (time.time() - 600) * 1000 for row in rows)


def growth() -> dict[str, float]:
    """The host and the dashboard with few coins and with all of them, and that with many who look."""
    figures: dict[str, float] = {}
    cluster, session = wait_for(connect, "Cassandra's answer")
    board = f"http://127.0.0.1:{DASHBOARD_PORT}"
    with chromium() as browser:
        try:
            for coins in ALL_COINS:
                converge(producer_coins=coins)
                wait_for(lambda coins=coins: on_the_board(session) >= coins or None, f"A board of {coins} coins", 900)
                figures[f"cores_{coins}"] = cores(60)
                figures[f"first_data_s_{coins}"], figures[f"refresh_ms_{coins}"] = seen_in(browser, board, BOARD)
            with empty_page() as address:
                figures["first_data_s_empty"], figures["refresh_ms_empty"] = seen_in(browser, address, LINE)
            figures |= tabs(browser, board)
        finally:
            cluster.shutdown()
            # The number that the inventory says.
            converge()
    return figures


def reads() -> float:
    """How often the dashboard's process has read the board."""
    look = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:9403/metrics').read().decode())"
    text = on_host(f'python3 -c "{look}"')
    found = re.search(r'^crypto_dashboard_reads_total{outcome="ok"} (\S+)$', text, re.MULTILINE)
    return float(found.group(1)) if found else sys.exit(f"No number of reads among the dashboard's metrics:\n{text}")


def tabs(browser: Browser, address: str) -> dict[str, float]:
    """The dashboard's process, and the memory of the host, while many look."""
    process = on_host("systemctl show --property=MainPID --value crypto-dashboard").strip()
    pages = [browser.new_page() for _ in range(TABS)]
    for page in pages:
        page.goto(address, wait_until="commit")
    for page in pages:
        page.locator(BOARD).first.wait_for(timeout=600_000)
    deadline, read, began = time.monotonic() + SECONDS, reads(), time.monotonic()
    figures = {"tabs_cores_first": cores(30, process), "tabs_mb_first": resident_mb(process)}
    samples = []
    while time.monotonic() < deadline - 30:
        samples.append(resident_mb())
        pages[0].wait_for_timeout(5000)
    figures |= {"tabs_cores_last": cores(30, process), "tabs_mb_last": resident_mb(process)}
    figures |= {"tabs": TABS, "reads_a_minute": 60 * (reads() - read) / (time.monotonic() - began)}
    for page in pages:
        page.close()
    oom = on_host(
        "cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null"
        " | awk '$1 == \"oom_kill\" {print $2}'"
    )
    return figures | {"memory_mb": max(samples), "memory_seconds": SECONDS, "oom_kills": int(oom or 0)}


def remove_coins() -> None:
    """Take the rows of the coins of this program out of all tables that people look at."""
    cluster, session = wait_for(connect, "Cassandra's answer")
    coins = {row.id for row in session.execute("SELECT DISTINCT id FROM crypto.prices") if row.id.startswith("bench-")}
    month = time.strftime("%Y-%m", time.gmtime())
    statements = [("DELETE FROM crypto.prices WHERE id = %s", (coin,)) for coin in coins]
    statements += [("DELETE FROM crypto.latest_prices WHERE board = 'all' AND id = %s", (coin,)) for coin in coins]
    statements += [
        ("DELETE FROM crypto.candles WHERE id = %s AND interval = %s AND month = %s", (coin, interval, month))
        for coin in coins
        for interval in INTERVALS
    ]
    execute_concurrent(session, statements)
    cluster.shutdown()


def table(figures: dict[str, float]) -> str:
    """The figures as lines, with their goals."""
    lines = [f"{'':24}{'measured':>10}{'goal':>10}"]
    for name, value in figures.items():
        goal = f"< {GOALS[name]}" if name in GOALS else ""
        lines.append(f"{name:24}{value:>10.1f}{goal:>10}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write bench.json."""
    record = ROOT / ".state/up.json"
    figures: dict[str, float] = json.loads(record.read_text()) if record.exists() else {}
    for measure in (converge_again, latencies, throughput, candle_delay, start_to_first_row, recovery, growth):
        print(f"measuring {measure.__name__} ...", flush=True)
        figures |= measure()
    remove_coins()
    print(table(figures))
    (ROOT / "bench.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
