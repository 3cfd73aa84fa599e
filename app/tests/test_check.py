from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from crypto_stream import check
from crypto_stream.check import Disk, Facts, Hop, Report
from crypto_stream.config import Market, Settings
from crypto_stream.simulator import Server

NOW = 1_700_000_000_000
FRESH, OLD = NOW - 10_000, NOW - 600_000
LIMIT = 90


@pytest.mark.parametrize(
    ("facts", "ok", "cause"),
    [
        (Facts("Bitcoin"), True, None),
        (Facts(error="HTTP status 500"), False, "API does not answer"),
    ],
)
def test_api(facts: Facts, ok: bool, cause: str | None) -> None:
    assert_hop(check.judge_api(facts), ok, cause, None)


@pytest.mark.parametrize(
    ("state", "ok", "look"),
    [
        ("active", True, None),
        (None, True, None),
        ("inactive", False, "systemctl start crypto-producer"),
        ("failed", False, "journalctl -u crypto-producer"),
        ("activating", False, "journalctl -u crypto-producer"),
    ],
)
def test_units(state: str | None, ok: bool, look: str | None) -> None:
    hop = check.judge_unit("producer", state)
    assert hop.ok == ok
    assert (hop.look or "").startswith(look or "")


@pytest.mark.parametrize(
    ("facts", "ok", "cause", "age"),
    [
        (Facts("5 messages", newest_ts=FRESH), True, None, 10),
        (Facts("5 messages", newest_ts=NOW + 5000), True, None, 0),
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


@pytest.mark.parametrize(
    ("facts", "state", "ok", "cause"),
    [
        (Facts("answers"), "active", True, None),
        (Facts("answers"), None, True, None),
        (Facts(error="refused"), None, False, "does not answer"),
        (Facts(error="refused"), "active", False, "does not answer"),
        (Facts(error="refused"), "failed", False, "does not come up"),
    ],
)
def test_dashboard(facts: Facts, state: str | None, ok: bool, cause: str | None) -> None:
    assert_hop(check.judge_dashboard(facts, state), ok, cause)


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


def test_the_api_hop_uses_the_real_client(simulator: Server) -> None:
    host, port = simulator.server_address[:2]
    settings = Settings(market=Market(api_url=f"http://{host!s}:{port}/api"))
    assert "Bitcoin" in check.look_at_api(settings).found
    simulator.faults.set("bad_price", 1)
    assert "no usable ticker" in check.look_at_api(settings).error


def test_with_nothing_there_every_hop_is_broken_and_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "127.0.0.1:1"
    settings = Settings(
        market={"api_url": f"http://{nowhere}/api"},
        kafka={"bootstrap_servers": [nowhere]},
        cassandra={"port": 1},
        dashboard={"url": f"http://{nowhere}"},
    )
    monkeypatch.setattr(check, "unit_state", lambda unit: None)
    monkeypatch.setattr(check, "CONNECT_SECONDS", 0.3)
    began = time.monotonic()
    result = check.look(settings)
    assert time.monotonic() - began < check.HOP_SECONDS + 2
    assert {hop.name for hop in result.hops if not hop.ok} == {"api", "topic", "table", "dashboard"}
    assert all("\n" not in hop.found and hop.found for hop in result.hops)


def healthy_after(monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    results = iter([Report(False, hops("api"), "api", [])] * (looks - 1))
    monkeypatch.setattr(check, "look", lambda _: next(results, Report(True, hops(), None, [])))
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
