"""The dashboard in a browser: with few coins and all of them, and with many who look."""

from __future__ import annotations

import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection, HTTPException
from typing import NamedTuple

from cassandra.cluster import Session
from playwright.sync_api import Browser, sync_playwright
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect as connect_to
from websockets.typing import Subprotocol

from bench.host import SSH, connect, converge, cores, on_host, published, resident_mb, wait_for
from bench.life import replay

SECONDS = int(os.environ.get("BENCH_SECONDS", "600"))
PLACE = f"127.0.0.1:{os.environ.get('DASHBOARD_PORT', '8501')}"
ADDRESS, SOCKET = f"http://{PLACE}", f"ws://{PLACE}/_stcore/stream"
DASHBOARD_METRICS_PORT = 9403

# What a viewer sees, and how often it is looked at.
ALL_COINS = (100, 14_000)
VIEWERS = 20
VISITS = 5
# What is waited for in a browser, as JavaScript.
TABLE = "document.querySelector('[data-testid=stDataFrame] canvas')"
LINE = "document.querySelector('[data-testid=stMarkdown]')"
SUMMARY = (
    "[...document.querySelectorAll('[data-testid=stMarkdown]')].some(one => one.innerText.includes('Market cap $'))"
)
EMPTY_PORT = 18501
EMPTY = """
import time
import streamlit as st
def line():
    st.write(time.time())
def table():
    st.dataframe({f"Column {number}": [time.time()] * 100 for number in range(11)})
st.fragment(table if "table" in st.query_params else line, run_every=5)()
"""
# Notes when each thing is there, and how long each refresh takes: from what the page sends to the first picture after
# the last of the answer.
WATCH = """
window.bench = {seen: [], refreshes: []};
let sent = null, shown = null, complete = null;
const wanted = [%s];
const look = setInterval(() => {
  wanted.forEach((what, at) => { if (!window.bench.seen[at] && what()) window.bench.seen[at] = performance.now(); });
  if (wanted.every((_, at) => window.bench.seen[at])) { complete = performance.now(); clearInterval(look); }
}, 10);
const send = WebSocket.prototype.send;
const known = new WeakSet();
WebSocket.prototype.send = function (data) {
  if (!known.has(this)) {
    known.add(this);
    this.addEventListener("message", () => requestAnimationFrame(() => { shown = performance.now(); }));
  }
  // The first is the page itself.
  if (sent !== null && shown > sent && complete !== null && complete < sent) window.bench.refreshes.push(shown - sent);
  sent = performance.now();
  return send.call(this, data);
};
"""


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


def seen_in(browser: Browser, address: str, *wanted: str) -> tuple[list[float], float]:
    """Seconds until each thing that is wanted is there, and milliseconds of a refresh; medians of VISITS, each with an
    empty cache.
    """
    seen, refreshes = [], []
    for _ in range(VISITS):
        context = browser.new_context()
        page = context.new_page()
        page.add_init_script(WATCH % ", ".join(f"() => {what}" for what in wanted))
        page.goto(address, wait_until="commit")
        page.wait_for_function("window.bench.refreshes.length >= 2", timeout=120_000)
        found = page.evaluate("window.bench")
        seen.append(found["seen"])
        refreshes += found["refreshes"]
        context.close()
    return [statistics.median(times) / 1000 for times in zip(*seen, strict=True)], statistics.median(refreshes)


def answers() -> bool | None:
    """Whether the empty page does."""
    try:
        connection = HTTPConnection("127.0.0.1", EMPTY_PORT, timeout=5)
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status == 200 or None
    except (OSError, HTTPException):
        return None


@contextmanager
def empty_page() -> Iterator[str]:
    """The address of a page that shows one line, refreshed as often as the dashboard, by the same Streamlit.

    With `?table=1` it shows a table as large as the board's, without its looks.
    """
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


def is_on_the_board(session: Session, coins: int) -> bool | None:
    """Whether so many coins have a row of the last minutes."""
    rows = session.execute("SELECT ts FROM crypto.latest_prices WHERE board = 'all'")
    return sum(row.ts > (time.time() - 600) * 1000 for row in rows) >= coins or None


def reads() -> float:
    """How often the dashboard's process has read the board."""
    return published(DASHBOARD_METRICS_PORT)["crypto_dashboard_reads_total{ok}"]


class Refresh(NamedTuple):
    """What one took, and what it brought."""

    seconds: float
    size: int


def viewer(ended: threading.Event, refreshes: list[Refresh]) -> None:
    """Look at the market as a tab does, by Streamlit's protocol; notes each refresh.

    It does not draw: twenty tabs that do take more cores than the host that serves them.
    """
    with connect_to(SOCKET, subprotocols=[Subprotocol("streamlit")], max_size=None) as socket:
        asked = BackMsg(rerun_script=ClientState())
        socket.send(asked.SerializeToString())
        sent, pause, size = time.monotonic(), math.inf, 0
        while not ended.is_set():
            with suppress(TimeoutError):
                message = socket.recv(timeout=0.2)
                size += len(message)
                told = ForwardMsg.FromString(message)
                # The board: what a tab says that it has is not sent to it again.
                if told.metadata.cacheable:
                    asked.rerun_script.cached_message_hashes[:] = [told.hash]
                if told.HasField("new_session"):
                    asked.rerun_script.page_script_hash = told.new_session.page_script_hash
                elif told.HasField("auto_rerun"):
                    asked.rerun_script.fragment_id, asked.rerun_script.is_auto_rerun = told.auto_rerun.fragment_id, True
                    pause = told.auto_rerun.interval
                elif told.script_finished == ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY:
                    refreshes.append(Refresh(time.monotonic() - sent, size))
            if time.monotonic() > sent + pause:
                socket.send(asked.SerializeToString())
                sent, size = time.monotonic(), 0


def viewers() -> dict[str, float]:
    """The dashboard's process, and the memory of the host, while VIEWERS look for SECONDS."""
    process = on_host("systemctl show --property=MainPID --value crypto-dashboard").strip()
    ended, refreshes = threading.Event(), list[Refresh]()
    with ThreadPoolExecutor(VIEWERS) as pool:
        looking = [pool.submit(viewer, ended, refreshes) for _ in range(VIEWERS)]
        try:
            wait_for(lambda: len(refreshes) >= VIEWERS or None, "A refresh of each viewer")
            read, seen, began = reads(), len(refreshes), time.monotonic()
            figures: dict[str, float] = {"viewers": VIEWERS, "viewers_seconds": SECONDS}
            figures |= {"viewers_cores_first": cores(30, process), "viewers_mb_first": resident_mb(process)}
            samples = [resident_mb()]
            while time.monotonic() < began + SECONDS - 30:
                samples.append(resident_mb())
                time.sleep(5)
            figures |= {"viewers_cores_last": cores(30, process), "viewers_mb_last": resident_mb(process)}
            minutes = (time.monotonic() - began) / 60
            figures |= {"reads_a_minute": (reads() - read) / minutes}
            figures |= {"refreshes_a_minute": (len(refreshes) - seen) / minutes}
            figures |= {"viewers_refresh_ms": 1000 * statistics.median(one.seconds for one in refreshes[seen:])}
            sizes = [one.size / 1000 for one in refreshes[seen:]]
            figures |= {"viewers_refresh_kb": statistics.mean(sizes), "viewers_whole_kb": max(sizes)}
        finally:
            ended.set()
    for one in looking:
        one.result()
    oom = on_host(
        "cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null"
        " | awk '$1 == \"oom_kill\" {print $2}'"
    )
    return figures | {"memory_mb": max(samples), "oom_kills": int(oom or 0)}


def growth() -> dict[str, float]:
    """The host and the dashboard with few coins and with all of them, a replay, too, and beside an empty page."""
    figures: dict[str, float] = {}
    cluster, session = wait_for(connect, "Cassandra's answer")
    with chromium() as browser:
        try:
            for coins in ALL_COINS:
                converge(producer_coins=coins)
                wait_for(partial(is_on_the_board, session, coins), f"A board of {coins} coins", 900)
                figures[f"cores_{coins}"] = cores(60)
                (first, board), refresh = seen_in(browser, ADDRESS, SUMMARY, TABLE)
                figures |= {f"first_data_s_{coins}": first, f"board_s_{coins}": board, f"refresh_ms_{coins}": refresh}
                figures[f"memory_mb_{coins}"] = resident_mb()
            figures |= replay()
            with empty_page() as address:
                (line,), refresh = seen_in(browser, address, LINE)
                figures |= {"first_data_s_empty": line, "refresh_ms_empty": refresh}
                (table,), refresh = seen_in(browser, f"{address}/?table=1", TABLE)
                figures |= {"board_s_table": table, "refresh_ms_table": refresh}
        finally:
            cluster.shutdown()
            # The number that the inventory says.
            converge()
    return figures
