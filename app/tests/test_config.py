from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from crypto_stream import config
from pydantic import ValidationError


def write(directory: Path, **files: str) -> Path:
    for name, content in files.items():
        (directory / f"{name}.toml").write_text(content)
    return directory


def problems_of(directory: Path) -> list[str]:
    with pytest.raises(config.SettingsError) as caught:
        config.load(directory)
    return caught.value.problems


def test_defaults_are_valid_and_need_no_file(tmp_path: Path) -> None:
    settings = config.load(tmp_path)
    assert settings.producer.coins == 100
    assert settings.producer.interval_seconds == 30
    assert settings.kafka.topic == "crypto.prices"


def test_sections_of_all_files_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        kafka='[kafka]\nbootstrap_servers = ["a:1", "b:2"]\npartitions = 6\n',
        producer="[producer]\ncoins = 50\n",
    )
    settings = config.load(tmp_path)
    assert settings.kafka.bootstrap_servers == ("a:1", "b:2")
    assert (settings.kafka.partitions, settings.producer.coins) == (6, 50)


def test_environment_wins_over_files_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, producer="[producer]\ncoins = 50\ninterval_seconds = 10\n")
    monkeypatch.setenv("CRYPTO_STREAM_PRODUCER__COINS", "7")
    monkeypatch.setenv("CRYPTO_STREAM_KAFKA__BOOTSTRAP_SERVERS", '["c:3"]')
    settings = config.load(tmp_path)
    assert (settings.producer.coins, settings.producer.interval_seconds) == (7, 10)
    assert settings.kafka.bootstrap_servers == ("c:3",)


def test_settings_never_change(tmp_path: Path) -> None:
    settings = config.load(tmp_path)
    with pytest.raises(ValidationError):
        settings.producer.coins = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("producer", "[producer]\ninterval_seconds = -1", ["producer.toml", "[producer] interval_seconds", "-1", "1"]),
        ("producer", '[producer]\ncoins = "many"', ["[producer] coins", "'many'", "integer"]),
        ("producer", "[producer]\ncoin = 5", ["[producer] coin: no such key", "coins"]),
        ("cassandra", "[cassandra]\nport = 70000", ["[cassandra] port", "70000", "65535"]),
        ("cassandra", '[cassandra]\nkeyspace = "Crypto; DROP"', ["[cassandra] keyspace", "Crypto; DROP"]),
        ("cassandra", '[cassandra]\nreplication = "3"', ["[cassandra] replication", "'3'", "SimpleStrategy"]),
        (
            "kafka",
            '[kafka]\nbootstrap_servers = ["localhost"]',
            ["[kafka] bootstrap_servers", "localhost", "host:port"],
        ),
        ("kafka", "[kafka]\nbootstrap_servers = []", ["[kafka] bootstrap_servers", "at least 1"]),
        ("kafka", '[kafka]\ntopic = "a b"', ["[kafka] topic", "'a b'"]),
        ("market", '[market]\napi_url = "coinlore"', ["[market] api_url", "'coinlore'", "http://"]),
        ("simulator", "[simulator]\nvolatility = nan", ["[simulator] volatility", "nan"]),
        ("typo", "[producr]\ncoins = 5", ["typo.toml", "[producr] is no section", "producer"]),
        ("bare", "coins = 5", ["bare.toml", "coins stands outside of a section"]),
        ("broken", "[producer\n", ["broken.toml"]),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, name: str, content: str, words: list[str]) -> None:
    problems = problems_of(write(tmp_path, **{name: content}))
    assert len(problems) == 1
    assert "\n" not in problems[0] or name == "broken"
    for word in words:
        assert word in problems[0]


def test_all_wrong_settings_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path, producer="[producer]\ncoins = 0\ninterval_seconds = 0\n", kafka="[kafka]\npartitions = 0\n")
    assert len(problems_of(tmp_path)) == 3


def test_a_section_in_two_files_is_an_error(tmp_path: Path) -> None:
    problems = problems_of(write(tmp_path, a="[kafka]\npartitions = 1", b="[kafka]\npartitions = 2"))
    assert "b.toml" in problems[0]
    assert "a.toml" in problems[0]


def test_wrong_environment_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPTO_STREAM_PRODUCER__COINS", "-3")
    monkeypatch.setenv("CRYPTO_STREAM_PRODUCR__COINS", "3")
    misspelt, wrong = sorted(problems_of(tmp_path), key=lambda line: "PRODUCR" not in line)
    assert "environment CRYPTO_STREAM_PRODUCR__COINS: no such section" in misspelt
    assert "environment CRYPTO_STREAM_PRODUCER__COINS: [producer] coins: got '-3'" in wrong


def test_a_process_stops_with_the_status_for_wrong_settings(tmp_path: Path) -> None:
    write(tmp_path, producer="[producer]\ncoins = 0\n")
    done = subprocess.run(
        [sys.executable, "-c", "from crypto_stream import config; config.load_or_exit()"],
        env={"CRYPTO_STREAM_CONFIG_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "[producer] coins: got 0" in done.stderr
