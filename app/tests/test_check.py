from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from crypto_stream import check
from crypto_stream.check import Api, Disk, Facts, Hop, Progress, Report, Service
from crypto_stream.config import Market, Settings
from crypto_stream.messages import PriceMessage, encode
from crypto_stream.metrics import DashboardMetrics, JobMetrics, ProducerMetrics, read
from crypto_stream.outbox import Outbox
from crypto_stream.simulator import Server
from crypto_stream.store import Board, LatestPrice, Store
from prometheus_client import generate_latest

NOW = 1_700_000_000_000
SECONDS = NOW / 1000
FRESH, OLD = NOW - 10_000, NOW - 600_000
LIMIT = 90


# ---- services, by what they really export


def exported(metrics: ProducerMetrics | JobMetrics | DashboardMetrics, **changes: float) -> Service:
    """A service that is active and tells this; `changes` by the metrics' names, with __ for a label's value."""
    values = read(generate_latest(metrics.registry).decode())
    return Service(
        "active",
        values | {key.replace("__", "{") + ("}" if "__" in key else ""): value for key, value in changes.items()},
    )


def a_producer(tmp_path: Path, **changes: float) -> Service:
    outbox = Outbox(tmp_path / "outbox", 10**9, 10**9)
    metrics = ProducerMetrics(outbox)
    metrics.polled(time.time(), pages_failed=0, tickers=100, rejected=0)
    metrics.delivered(100, 0)
    healthy = {
        "crypto_producer_start_timestamp_seconds": SECONDS - 3600,
        "crypto_producer_last_poll_timestamp_seconds": SECONDS - 10,
        "crypto_producer_last_page_timestamp_seconds": SECONDS - 10,
        "crypto_producer_market_moved_timestamp_seconds": SECONDS - 40,
    }
    return exported(metrics, **healthy | changes)


def quiet_since(seconds: float) -> dict[str, float]:
    moments = ("start", "last_poll", "last_page")
    return {f"crypto_producer_{moment}_timestamp_seconds": SECONDS - seconds for moment in moments}


def a_job(**changes: float) -> Service:
    healthy = {
        "crypto_job_start_timestamp_seconds": SECONDS - 3600,
        "crypto_job_last_batch_timestamp_seconds__prices": SECONDS - 10,
        "crypto_job_last_batch_timestamp_seconds__candles": SECONDS - 12,
        "crypto_job_lag_records__prices": 0,
        "crypto_job_lag_records__candles": 0,
    }
    return exported(JobMetrics(), **healthy | changes)


def a_dashboard(**changes: float) -> Service:
    healthy = {"crypto_dashboard_last_read_timestamp_seconds": SECONDS - 3, "crypto_dashboard_coins": 100}
    return exported(DashboardMetrics(), **healthy | changes)


@pytest.mark.parametrize(
    ("changes", "ok", "cause", "warning"),
    [
        ({}, True, None, False),
        ({"crypto_producer_last_poll__ok": 0, "crypto_producer_last_poll__incomplete": 1}, True, None, True),
        # One 429 while prices arrive.
        ({"crypto_producer_last_poll__ok": 0, "crypto_producer_last_poll__failed": 1}, True, None, True),
        (
            {
                "crypto_producer_last_poll__ok": 0,
                "crypto_producer_last_poll__failed": 1,
                "crypto_producer_last_page_timestamp_seconds": SECONDS - 91,
            },
            False,
            "API does not answer",
            False,
        ),
        ({"crypto_producer_market_moved_timestamp_seconds": SECONDS - 209}, True, None, False),
        ({"crypto_producer_market_moved_timestamp_seconds": SECONDS - 211}, False, "the same values again", False),
    ],
)
def test_the_api_is_judged_by_the_producers_polls(
    tmp_path: Path, changes: dict[str, float], ok: bool, cause: str | None, warning: bool
) -> None:
    hop = check.judge_api(a_producer(tmp_path, **changes), None, SECONDS, LIMIT)
    assert_hop(hop, ok, cause, 211 if cause and "same values" in cause else 10)
    assert (hop.warning is not None) == warning


def test_while_the_first_poll_goes_on_its_pages_speak_for_the_api(tmp_path: Path) -> None:
    producer = a_producer(tmp_path, crypto_producer_last_poll_timestamp_seconds=0)
    assert check.judge_api(producer, None, SECONDS, LIMIT).found == "pages of the first poll arrive"


@pytest.mark.parametrize("producer", [Service(None), Service("failed"), Service("active", error="refused")])
@pytest.mark.parametrize(("facts", "ok"), [(Facts("Bitcoin"), True), (Facts(error="HTTP status 500"), False)])
def test_without_a_producers_poll_the_api_is_judged_by_a_request(producer: Service, facts: Facts, ok: bool) -> None:
    assert_hop(check.judge_api(producer, facts, SECONDS, LIMIT), ok, None if ok else "API does not answer", None)


def judge(name: str, service: Service) -> Hop:
    if name == "dashboard":
        return check.judge_dashboard(service, Facts("answers"), SECONDS, LIMIT)
    return {"producer": check.judge_producer, "stream_job": check.judge_stream_job}[name](service, SECONDS, LIMIT)


@pytest.mark.parametrize(
    ("service", "ok", "look"),
    [
        (Service(None), True, None),
        (Service("inactive"), False, "systemctl start crypto-"),
        (Service("failed"), False, "journalctl -u crypto-"),
        (Service("activating"), False, "journalctl -u crypto-"),
        (Service("masked"), False, "journalctl -u crypto-"),
        (Service("active", error="refused"), False, "journalctl -u crypto-"),
    ],
)
@pytest.mark.parametrize("name", ["producer", "stream_job", "dashboard"])
def test_units(name: str, service: Service, ok: bool, look: str | None) -> None:
    hop = judge(name, service)
    assert hop.name == name
    assert hop.ok == ok
    assert (hop.look or "").startswith(look or "")
    if look is not None:
        assert check.UNITS[name] in hop.look  # type: ignore[operator]


@pytest.mark.parametrize(
    ("changes", "ok", "cause"),
    [
        ({}, True, None),
        (quiet_since(91), False, "does not poll"),
        # A poll of 14,000 coins takes minutes, and its pages come all the time.
        (quiet_since(280) | {"crypto_producer_last_page_timestamp_seconds": SECONDS - 1}, True, None),
        # Polls that end without any page are the API's fault.
        (quiet_since(280) | {"crypto_producer_last_poll_timestamp_seconds": SECONDS - 1}, True, None),
        (quiet_since(280) | {"crypto_producer_start_timestamp_seconds": SECONDS - 5}, True, None),
        ({"crypto_producer_outbox_records": 5, "crypto_producer_outbox_age_seconds": 20}, True, None),
        ({"crypto_producer_outbox_records": 5, "crypto_producer_outbox_age_seconds": 91}, False, "Kafka does not take"),
    ],
)
def test_producer(tmp_path: Path, changes: dict[str, float], ok: bool, cause: str | None) -> None:
    assert_hop(check.judge_producer(a_producer(tmp_path, **changes), SECONDS, LIMIT), ok, cause)


def test_what_was_dropped_is_warned_of(tmp_path: Path) -> None:
    hop = check.judge_producer(a_producer(tmp_path, crypto_producer_messages_total__dropped=7), SECONDS, LIMIT)
    assert hop.ok
    assert "drop 7 messages" in (hop.warning or "")


@pytest.mark.parametrize(
    ("changes", "ok", "cause"),
    [
        ({}, True, None),
        # Nothing to do is no fault.
        ({"crypto_job_last_batch_timestamp_seconds__candles": SECONDS - 3600}, True, None),
        (
            {"crypto_job_last_batch_timestamp_seconds__candles": SECONDS - 3600, "crypto_job_lag_records__candles": 1},
            False,
            "no batch of candles",
        ),
        ({"crypto_job_lag_records__prices": 500}, True, None),
        # A query that has not ended any batch yet.
        ({"crypto_job_start_timestamp_seconds": SECONDS - 20, "crypto_job_lag_records__market_global": 5}, True, None),
        (
            {"crypto_job_start_timestamp_seconds": SECONDS - 95, "crypto_job_lag_records__market_global": 5},
            False,
            "no batch of market_global has ended for 1.6 min",
        ),
    ],
)
def test_stream_job(changes: dict[str, float], ok: bool, cause: str | None) -> None:
    assert_hop(check.judge_stream_job(a_job(**changes), SECONDS, LIMIT), ok, cause)


def test_what_was_set_aside_is_counted() -> None:
    counts = {"written,dead_letters": 3, "refused,prices": 2, "late,candles": 4, "written,prices": 900}
    changes = {f"crypto_job_rows_total__{labels}": float(count) for labels, count in counts.items()}
    found = check.judge_stream_job(a_job(**changes), SECONDS, LIMIT).found
    assert found == "0 messages wait, 5 set aside since it started, 4 too late for their candles"


def test_a_job_that_is_behind_but_gets_on_is_a_warning() -> None:
    hop = check.judge_stream_job(
        a_job(crypto_job_lag_records__candles=5, crypto_job_lag_seconds__candles=600), SECONDS, LIMIT
    )
    assert hop.ok
    assert "candles is 10.0 min behind" in (hop.warning or "")


@pytest.mark.parametrize(
    ("changes", "answers", "ok", "cause"),
    [
        ({}, Facts("answers"), True, None),
        ({}, Facts(error="refused"), False, "dashboard does not answer"),
        ({"crypto_dashboard_last_read_timestamp_seconds": SECONDS - 91}, Facts("answers"), False, "Cassandra does not"),
        ({"crypto_dashboard_last_read_timestamp_seconds": 0}, Facts("answers"), False, "Cassandra does not"),
        ({"crypto_dashboard_coins": 0}, Facts("answers"), False, "there were no latest prices"),
    ],
)
def test_dashboard(changes: dict[str, float], answers: Facts, ok: bool, cause: str | None) -> None:
    hop = check.judge_dashboard(a_dashboard(**changes), answers, SECONDS, LIMIT)
    assert_hop(hop, ok, cause)


def test_a_dashboard_that_cannot_read_says_what_it_shows() -> None:
    hop = check.judge_dashboard(
        a_dashboard(crypto_dashboard_last_read_timestamp_seconds=SECONDS - 420), Facts("answers"), SECONDS, LIMIT
    )
    assert hop.found == "shows 100 coins as they were 7.0 min ago, and cannot read Cassandra"


@pytest.mark.parametrize(
    ("facts", "ok", "cause", "age"),
    [
        (Facts("5 messages", newest_ts=FRESH), True, None, 10),
        (Facts("5 messages", newest_ts=NOW + 4000), True, None, 0),
        (Facts("5 messages", newest_ts=OLD), False, "delivers nothing new", 600),
        (Facts("0 messages"), False, "has not delivered anything yet", None),
        (Facts(error="no answer"), False, "Kafka does not answer", None),
    ],
)
def test_topic(facts: Facts, ok: bool, cause: str | None, age: float | None) -> None:
    assert_hop(check.judge_topic(facts, NOW, LIMIT), ok, cause, age)


@pytest.mark.parametrize(
    ("table", "topic", "ok", "cause"),
    [
        (Facts("x", newest_ts=FRESH), Facts(newest_ts=FRESH), True, None),
        (Facts("x", newest_ts=FRESH), Facts(error="down"), True, None),
        (Facts("x", newest_ts=OLD), Facts(newest_ts=FRESH), False, "stream job does not write"),
        (Facts("empty"), Facts(newest_ts=FRESH), False, "stream job does not write"),
        (Facts("x", newest_ts=OLD), Facts(newest_ts=OLD), False, "nothing new arrives in the topic"),
        (Facts("empty"), Facts(), False, "nothing new arrives in the topic"),
        (Facts(error="refused"), Facts(newest_ts=FRESH), False, "Cassandra does not answer"),
    ],
)
def test_table(table: Facts, topic: Facts, ok: bool, cause: str | None) -> None:
    assert_hop(check.judge_table(table, topic, NOW, LIMIT), ok, cause)


@pytest.mark.parametrize(("ahead", "warned"), [(0, False), (4, False), (6, True), (9 * 3600, True)])
def test_a_time_that_is_ahead_is_a_wrong_clock_and_no_fresh_data(ahead: float, warned: bool) -> None:
    facts = Facts("x", newest_ts=OLD, ahead_seconds=ahead)
    for hop in (check.judge_topic(facts, NOW, LIMIT), check.judge_table(facts, facts, NOW, LIMIT)):
        assert not hop.ok
        assert ("clock" in (hop.warning or "")) == warned


def message(**changes: Any) -> Any:
    """A record as kafka-python gives it, which Kafka took ten seconds ago."""
    values: dict[str, Any] = {"id": "90", "name": "Bitcoin", "price_usd": 1.0, "ts": FRESH}
    price = PriceMessage(**values | changes)
    return SimpleNamespace(timestamp=FRESH, value=encode(price))


def test_the_last_messages_tell_age_and_wrong_clocks() -> None:
    no_price = SimpleNamespace(timestamp=NOW - 5000, value=b"no price")
    facts = check._facts_of([message(), message(id="80", ts=NOW + 1_800_000), no_price], NOW)
    assert facts == Facts(newest_ts=NOW - 5000, ahead_seconds=1800)


def test_the_progress_of_each_query_is_told() -> None:
    values = {
        "crypto_job_lag_records{prices}": 100.0,
        "crypto_job_lag_seconds{prices}": 2.5,
        "crypto_job_batches_total{prices}": 7.0,
        "crypto_job_rows_total{written,prices}": 700.0,
        "crypto_job_rows_total{late,candles}": 3.0,
        "crypto_job_lag_records{candles}": 0.0,
    }
    assert check.progress(Service("active", values)) == [
        Progress("prices", 100, 2.5, {"written": 700}, 7, None),
        Progress("candles", 0, 0, {"late": 3}, 0, None),
    ]
    assert check.progress(Service()) == []


def assert_hop(hop: Hop, ok: bool, cause: str | None, age: float | None = -1) -> None:
    assert hop.ok == ok
    assert (hop.cause is None) == ok
    assert (hop.look is None) == ok
    assert (cause or "") in (hop.cause or "")
    if age != -1:
        assert hop.age_seconds == age


def hops(*broken: str) -> list[Hop]:
    return [
        Hop(name, name not in broken, "found", 3.0, *(("why", "what") if name in broken else (None, None)))
        for name in ("api", "producer", "topic", "stream_job", "table", "dashboard")
    ]


def test_the_first_broken_hop_is_named_with_cause_and_command() -> None:
    result = check.report(hops("table", "topic"), [])
    assert (result.ok, result.first_broken) == (False, "topic")
    text = check.as_table(result)
    assert text.count("BROKEN") == 2
    assert text.count("likely cause") == 1
    assert "First broken hop: topic" in text


@pytest.mark.parametrize(
    ("broken", "away", "first"),
    [
        (("stream_job", "table", "dashboard"), "table", "table"),
        (("stream_job", "table"), None, "stream_job"),
        (("producer", "topic", "table"), "topic", "topic"),
        (("producer", "topic", "table"), None, "producer"),
        (("producer", "table"), "table", "producer"),
        (("api", "topic"), "topic", "api"),
    ],
)
def test_who_waits_for_a_server_that_is_away_is_not_to_blame(
    broken: tuple[str, ...], away: str | None, first: str
) -> None:
    seen = [dataclasses.replace(hop, unreachable=hop.name == away) for hop in hops(*broken)]
    assert check.report(seen, []).first_broken == first


def test_text_from_outside_gives_no_orders_to_the_terminal() -> None:
    forged = Hop("topic", True, "a\x1b[2J\ntable BROKEN")
    text = check.as_table(check.report([forged], []))
    assert "\x1b" not in text
    assert "a[2Jtable BROKEN" in text


def test_a_healthy_stream_says_so() -> None:
    text = check.as_table(check.report(hops(), []))
    assert "Data flows." in text
    assert "BROKEN" not in text


def test_full_disks_are_warned_of_without_breaking_anything() -> None:
    result = check.report(hops(), [Disk("/", 80.0), Disk("/var", 91.4)])
    assert result.ok
    assert result.warnings == ["/var is 91 % full"]
    assert "Warning: /var is 91 % full" in check.as_table(result)


def test_the_disk_of_this_machine_is_seen() -> None:
    assert all(0 <= disk.used_percent <= 100 for disk in check.disks())


def test_the_api_is_asked_through_the_real_client_and_not_too_often(
    simulator: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = simulator.server_address[:2]
    settings = Settings(market=Market(api_url=f"http://{host!s}:{port}/api"))
    api = Api(settings)
    assert "Bitcoin" in api.look().found
    simulator.faults.set("http_500", 1000)
    assert "Bitcoin" in api.look().found
    assert simulator.faults.state()["count"] == 1000
    monkeypatch.setattr(check, "API_SECONDS", 0)
    assert "HTTP status 500" in api.look().error
    assert simulator.faults.state()["count"] == 999
    simulator.faults.set("bad_price", 1)
    assert "no usable ticker" in api.look().error


NOWHERE = "127.0.0.1:1"


def settings_for_nowhere(**changes: Any) -> Settings:
    return Settings(
        market={"api_url": f"http://{NOWHERE}/api"},
        kafka={"bootstrap_servers": [NOWHERE]},
        cassandra={"port": 1},
        dashboard={"url": f"http://{NOWHERE}"},
        **changes,
    )


def test_with_nothing_there_every_hop_is_broken_and_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "unit_state", lambda unit: "active")
    monkeypatch.setattr(check, "CONNECT_SECONDS", 0.3)
    settings = settings_for_nowhere()
    result = check.look(settings, Api(settings))
    assert [hop.name for hop in result.hops if hop.ok] == []
    assert all("\n" not in hop.found and hop.found for hop in result.hops)


@pytest.mark.parametrize(("limit", "ok"), [(90, False), (360, True)])
def test_how_old_is_too_old_is_a_setting_of_every_host(monkeypatch: pytest.MonkeyPatch, limit: int, ok: bool) -> None:
    newest = Facts("12 messages", newest_ts=int(time.time() * 1000) - 200_000)
    monkeypatch.setattr(check, "look_at_topic", lambda settings: newest)
    monkeypatch.setattr(check, "CONNECT_SECONDS", 0.1)
    settings = settings_for_nowhere(freshness={"stale_after_seconds": limit})
    hops = {hop.name: hop for hop in check.look(settings, Api(settings)).hops}
    assert hops["topic"].ok is ok


def test_a_look_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "HOP_SECONDS", 2.0)
    released = threading.Event()

    def hangs() -> Facts:
        released.wait()
        return Facts("too late")

    facts = check._at_the_same_time({"one": hangs, "other": lambda: Facts("there")})
    released.set()
    assert facts == {"one": Facts(error="no answer within 2 s"), "other": Facts("there")}


@contextmanager
def serving(metrics: JobMetrics | ProducerMetrics | DashboardMetrics) -> Iterator[int]:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    metrics.serve(port, structlog.stdlib.get_logger())
    yield port


def test_a_service_is_asked_for_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "unit_state", lambda unit: "active" if unit == "crypto-stream-job" else None)
    job = JobMetrics()
    job.written("prices", 0.5, {"written": 99, "refused": 1})
    job.behind("prices", 7, 3)
    with serving(job) as port:
        service = check.look_at_service("stream_job", port)
        assert service.values["crypto_job_lag_records{prices}"] == 7
        assert service.values["crypto_job_rows_total{refused,prices}"] == 1
        assert check.look_at_service("producer", port) == Service(None)
        monkeypatch.setattr(check, "unit_state", lambda unit: "active")
        assert "is not its own" in check.look_at_service("producer", port).error


def test_a_port_of_metrics_that_is_taken_ends_nothing() -> None:
    with serving(JobMetrics()) as port, structlog.testing.capture_logs() as lines:
        JobMetrics().serve(port, structlog.stdlib.get_logger())
    assert lines[0]["event"] == "metrics_unavailable"


def healthy_after(monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    results = iter([Report(False, hops("api"), "api", [])] * (looks - 1))
    monkeypatch.setattr(check, "look", lambda *_: next(results, Report(True, hops(), None, [])))
    monkeypatch.setattr(check, "PAUSE_SECONDS", 0)


def test_status_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    healthy_after(monkeypatch, 2)
    assert check.main(["--json"]) == 1
    broken = json.loads(capsys.readouterr().out)
    assert (broken["ok"], broken["first_broken"]) == (False, "api")
    assert check.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hops"][0] == {
        "name": "api",
        "ok": True,
        "found": "found",
        "age_seconds": 3.0,
        "cause": None,
        "look": None,
        "warning": None,
        "unreachable": False,
    }


def test_waiting_until_healthy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    healthy_after(monkeypatch, 4)
    assert check.main(["--wait", "60"]) == 0
    assert capsys.readouterr().out.count("Data flows.") == 1


@pytest.mark.parametrize("argv", [["--nonsense"], ["--wait", "-1"], ["--wait", "nan"], ["--wait", "soon"]])
def test_a_wrong_command_line_has_a_status_of_its_own(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        check.main(argv)
    assert caught.value.code == 2


def test_wrong_settings_have_the_same_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "producer.toml").write_text("[producer]\ncoins = 0\n")
    monkeypatch.setenv("CRYPTO_STREAM_CONFIG_DIR", str(tmp_path))
    assert check.main([]) == 2
    assert "[producer] coins" in capsys.readouterr().err


def test_the_statuses_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check.main(["--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert "0 every hop is healthy, 1 a hop is broken, 2 the command line or the settings are wrong" in help_text


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux only")
def test_a_unit_that_does_not_exist_is_not_here() -> None:
    assert check.unit_state("no-such-unit-anywhere") is None


@pytest.mark.parametrize(
    ("output", "state"),
    [
        ("LoadState=loaded\nActiveState=active\n", "active"),
        ("LoadState=not-found\nActiveState=inactive\n", None),
        ("LoadState=loaded\nActiveState=inactive\nUnitFileState=enabled\n", "inactive"),
        ("LoadState=loaded\nActiveState=inactive\nUnitFileState=disabled\n", None),
        ("LoadState=loaded\nActiveState=failed\nUnitFileState=disabled\n", "failed"),
        ("LoadState=masked\nActiveState=inactive\n", "masked"),
        ("LoadState=bad-setting\nActiveState=inactive\n", "bad-setting"),
    ],
)
def test_a_unit_that_cannot_start_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, output: str, state: str | None
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=output))
    assert check.unit_state("crypto-producer") == state


@pytest.mark.parametrize(("written", "newest"), [(5000, 5000), (600_000, 600_000), (None, None)])
def test_the_table_is_as_new_as_the_older_of_board_and_prices(
    monkeypatch: pytest.MonkeyPatch, written: int | None, newest: int | None
) -> None:
    now = time.time_ns() // 1_000_000
    fresh = LatestPrice("91", "Other", 1.0, now - 5000)
    ahead = LatestPrice("80", "Ethereum", 1.0, now + 9 * 3_600_000)
    asked: list[str] = []

    def newest_ts(_: object, coin: str, __: int) -> int | None:
        asked.append(coin)
        return None if written is None else now - written

    monkeypatch.setattr(Store, "board", lambda *_: Board([ahead, fresh], [ahead]))
    monkeypatch.setattr(Store, "newest_ts", newest_ts)
    facts = check.look_at_table(Settings())
    assert facts.newest_ts == (None if newest is None else now - newest)
    assert facts.ahead_seconds == pytest.approx(9 * 3600, abs=60)
    assert asked == ["91"]
    assert ("none of it in crypto.prices" in facts.found) is (written is None)


def test_a_board_without_a_coin_is_an_empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "board", lambda *_: Board([]))
    assert check.look_at_table(Settings()) == Facts("crypto.latest_prices is empty")


def test_the_last_message_of_each_partition_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Consumer:
        def __init__(self) -> None:
            self.positions: dict[str, int] = {}

        def assign(self, partitions: list[str]) -> None:
            self.positions = dict.fromkeys(partitions, 0)

        def seek(self, partition: str, offset: int) -> None:
            self.positions[partition] = offset

        def poll(self, timeout_ms: int) -> dict[str, list[str]]:
            return {partition: [f"{partition}/{offset}"] for partition, offset in self.positions.items()}

    assert check._last_messages(Consumer(), ["a", "b"], {"a": 5, "b": 9}) == ["a/4", "b/8"]


def test_a_disk_is_as_full_as_df_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=100, used=45, free=45))
    assert {disk.used_percent for disk in check.disks()} <= {50}
