"""Measure the running sandbox, print a table and write bench.json.

What is measured, and against what:
  up_s                  what the last `make up` took, as it recorded itself
  converge_again_s      ansible-playbook playbooks/site.yml on the converged host; changed must be 0
  start_to_first_row_s  from `systemctl start crypto-stack.target`, everything stopped, to the first new row
  recovery_s            from `kill -9` of a process to the next row, the slowest of all processes; prices are polled
                        every 30 s, which is part of it
  latency_RATE          from the moment at which Kafka took a message to the moment at which its row can be read, at
                        RATE messages a second, in milliseconds: the median and the 99th percentile of what is probed
                        in the fourth and fifth minute of that rate, latency_first in the first one; probe_ms is the
                        share of the looking itself
  rows_per_s            prices through the job, all of its queries running, from a topic that was filled while it stood
                        still, best of three; beside it what Spark's connector writes from memory with the same cores
                        (connector_rows_per_s), and the Python driver in batches of 50 of one coin (driver_rows_per_s);
                        rows_to_connector and rows_to_driver are the first as a part of these
  candle_delay_s        from the moment at which Kafka took a price to the moment at which it is in its candle
  COINS: 100 and 14,000 coins, all of them polled from the simulator, a request a second:
  cores_COINS           cores that the whole host was busy with
  memory_mb_COINS       resident memory of all processes of the host; what several share counts once
  first_data_s_COINS    from the address to the market's figures in a browser that has nothing of it yet, the median
  board_s_COINS         the same until the board is drawn
  refresh_ms_COINS      from the request of a refresh to the picture after the last of its answer, the median
  first_data_s_empty    the same of a page of Streamlit that shows one line, on the same host in the same run
  refresh_ms_empty
  board_s_table         the same of a page of Streamlit that shows a table as large as the board's, and nothing else
  refresh_ms_table
  memory_mb_replay      resident memory of all processes of the host, the highest while crypto-replay reads all messages
                        of the day beside the stream of 14,000 coins; replay_messages are how many, and replay_s how
                        long it takes
  viewers_mb_first ...  resident memory of the dashboard's process, and the cores it is busy with, while 20 viewers who
  viewers_cores_last    do not draw look at it for BENCH_SECONDS (600), at the beginning and at the end
  viewers_refresh_kb    what a refresh brings, the mean; viewers_whole_kb is one that brings the whole board
  viewers_refresh_ms    from the request of a refresh to the last of its answer, the median; refreshes_a_minute is how
  reads_a_minute        many they got, for so many reads of the board
  memory_mb             resident memory of all processes of the host, the highest of that time

Its own coins, "Bench", are removed at the end.
"""

from __future__ import annotations

import json

from bench.dashboard import growth, viewers
from bench.host import ROOT
from bench.life import converge_again, recovery, start_to_first_row
from bench.stream import candle_delay, latencies, remove_coins, throughput

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
    "memory_mb_14000": 3200,
    "memory_mb_replay": 3200,
    "memory_mb": 3200,
}
LEAST = {"rows_to_connector": 0.6}
CACHED_UP_S = 300


def table(figures: dict[str, float]) -> str:
    """The figures as lines, with their goals."""
    goals = GOALS | ({"up_s": CACHED_UP_S} if figures.get("cached") else {})
    lines = [f"{'':26}{'measured':>10}{'goal':>10}"]
    for name, value in figures.items():
        goal = f"< {goals[name]}" if name in goals else f"> {LEAST[name]}" if name in LEAST else ""
        lines.append(f"{name:26}{value:>10.2f}{goal:>10}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write bench.json."""
    record = ROOT / ".state/up.json"
    figures: dict[str, float] = json.loads(record.read_text()) if record.exists() else {}
    stream = (latencies, throughput, candle_delay, start_to_first_row, recovery)
    for measure in (converge_again, *stream, growth, viewers):
        print(f"measuring {measure.__name__} ...", flush=True)
        figures |= measure()
        # What is measured is kept, whatever becomes of the next.
        (ROOT / "bench.json").write_text(json.dumps(figures, indent=2) + "\n")
    remove_coins()
    print(table(figures))


if __name__ == "__main__":
    main()
