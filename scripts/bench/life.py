"""How long it takes until prices arrive, after a start, after a kill, in a replay; and what a second converge takes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable

from bench.host import ROOT, connect, on_host, resident_mb, wait_for


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


def replay() -> dict[str, float]:
    """What a replay of this day takes beside the stream, and the memory of the host meanwhile."""
    samples = []
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(on_host, f"sudo crypto-replay --from {time.strftime('%Y-%m-%d', time.gmtime())}")
        began = time.monotonic()
        while not run.done():
            samples.append(resident_mb())
            time.sleep(3)
        seconds = time.monotonic() - began
    messages = re.search(r"([\d,]+) messages", run.result())
    if messages is None:
        sys.exit(f"crypto-replay did not say how many messages it reads:\n{run.result()}")
    return {
        "replay_messages": int(messages.group(1).replace(",", "")),
        "replay_s": seconds,
        "memory_mb_replay": max(samples),
    }


def start_to_first_row() -> dict[str, float]:
    """Stop everything, start the target, and take the seconds until a row is written."""
    # By name, so that it returns when all have stopped.
    on_host("sudo systemctl stop crypto-stack.target $(systemctl show --property=Wants --value crypto-stack.target)")
    # The host's clock is this machine's.
    started = time.time()
    # Without waiting, since it returns only when all units are ready.
    on_host("sudo systemctl start --no-block crypto-stack.target")
    return {"start_to_first_row_s": first_row_after(started)}
