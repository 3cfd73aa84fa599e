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
        config.load(config_dir=directory)
    return caught.value.problems


def test_defaults_are_valid_and_need_no_file(tmp_path: Path) -> None:
    settings = config.load(config_dir=tmp_path)
    assert settings.producer.coins == 100
    assert settings.producer.interval_seconds == 30
    assert settings.kafka.topic == "crypto.prices"


def test_sections_of_all_files_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        kafka='[kafka]\nbootstrap_servers = ["a:1", "b:2"]\npartitions = 6\n',
        producer="[producer]\ncoins = 50\n",
    )
    settings = config.load(config_dir=tmp_path)
    assert settings.kafka.bootstrap_servers == ("a:1", "b:2")
    assert (settings.kafka.partitions, settings.producer.coins) == (6, 50)


def test_environment_wins_over_files_key_by_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, producer="[producer]\ncoins = 50\ninterval_seconds = 10\n")
    monkeypatch.setenv("CRYPTO_STREAM_PRODUCER__COINS", "7")
    monkeypatch.setenv("CRYPTO_STREAM_KAFKA__BOOTSTRAP_SERVERS", '["c:3"]')
    settings = config.load(config_dir=tmp_path)
    assert (settings.producer.coins, settings.producer.interval_seconds) == (7, 10)
    assert settings.kafka.bootstrap_servers == ("c:3",)


@pytest.mark.parametrize(
    "content",
    [
        '[market]\napi_url = "https://api.coinlore.net/api/"',
        '[market]\napi_url = "http://[::1]:8090"',
        '[kafka]\nbootstrap_servers = ["[::1]:9092", "kafka-1.example:9092"]',
        '[cassandra]\ncontact_points = ["::1", "10.0.0.1", "node_1"]',
        "[cassandra]\nreplication = \"{'class': 'NetworkTopologyStrategy', 'dc1': 3, 'dc2': 2}\"",
    ],
)
def test_addresses_of_every_kind_are_taken(tmp_path: Path, content: str) -> None:
    config.load(config_dir=write(tmp_path, file=content))


def test_a_process_is_not_stopped_by_a_section_that_it_does_not_use(tmp_path: Path) -> None:
    write(tmp_path, dashboard="[dashboard]\nrefresh_seconds = 4000\n", producer="[producer]\ncoins = 7\n")
    settings = config.load("producer", "kafka", config_dir=tmp_path)
    assert settings.producer.coins == 7
    with pytest.raises(AttributeError):
        _ = settings.dashboard
    with pytest.raises(config.SettingsError, match="refresh_seconds"):
        config.load("dashboard", config_dir=tmp_path)


@pytest.mark.parametrize("path", ["missing", "file"])
def test_a_directory_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CRYPTO_STREAM_CONFIG_DIR", str(tmp_path / path))
    with pytest.raises(config.SettingsError, match="no directory that this user may read"):
        config.load()


@pytest.mark.parametrize("name", ["PRODUCER_COINS", "KAFKA_BOOTSTRAP_SERVERS", "COINS", "PRODUCR__COINS"])
def test_a_variable_that_would_be_ignored_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"CRYPTO_STREAM_{name}", "7")
    (problem,) = problems_of(tmp_path)
    assert f"environment CRYPTO_STREAM_{name}: no such setting" in problem


def test_settings_never_change(tmp_path: Path) -> None:
    settings = config.load(config_dir=tmp_path)
    with pytest.raises(ValidationError):
        settings.producer.coins = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("producer", "[producer]\ninterval_seconds = -1", ["producer.toml", "[producer] interval_seconds", "-1", "1"]),
        ("producer", '[producer]\ncoins = "many"', ["[producer] coins", "'many'", "or a list of different ids"]),
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
        (
            "cassandra",
            "[cassandra]\nreplication = \"{'class': 'SimpleStrategy', 'dc1': 1}\"",
            ["[cassandra] replication"],
        ),
        (
            "cassandra",
            "[cassandra]\nreplication = \"{'class': 'SimpleStrategy', 'replication_factor': True}\"",
            ["replication"],
        ),
        (
            "cassandra",
            "[cassandra]\nreplication = \"{'class': 'NetworkTopologyStrategy', 'dc1': 0x3}\"",
            ["replication"],
        ),
        (
            "cassandra",
            '[cassandra]\ncontact_points = [" "]',
            ["[cassandra] contact_points", "a host's name or address"],
        ),
        ("kafka", '[kafka]\nbootstrap_servers = ["http://h:9092"]', ["[kafka] bootstrap_servers", "host:port"]),
        ("kafka", '[kafka]\nbootstrap_servers = ["::1:9092"]', ["[kafka] bootstrap_servers", "host:port"]),
        ("kafka", '[kafka]\nbootstrap_servers = ["h:9092,i:9092"]', ["[kafka] bootstrap_servers", "host:port"]),
        ("kafka", '[kafka]\ntopic = "a"\nrejected_topic = "a"', ["[kafka]", "three different names"]),
        ("market", '[market]\napi_url = "coinlore"', ["[market] api_url", "'coinlore'", "http://"]),
        ("market", '[market]\napi_url = "http://host:port"', ["[market] api_url", "'http://host:port'", "http://"]),
        ("market", '[market]\napi_url = "http://host:99999/api"', ["[market] api_url"]),
        ("market", '[market]\napi_url = "http://me@host/api"', ["[market] api_url"]),
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
    assert "environment CRYPTO_STREAM_PRODUCR__COINS: no such setting" in misspelt
    assert "environment CRYPTO_STREAM_PRODUCER__COINS: [producer] coins: got -3" in wrong


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


def checked(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "one.toml"
    path.write_text(text)
    return [problem.removeprefix(f"{path}: ") for problem in config.check(str(path))]


def test_a_file_is_checked_alone(tmp_path: Path) -> None:
    assert checked(tmp_path, "[producer]\ncoins = 7\n") == []
    (problem,) = checked(tmp_path, "[producer]\ncoins = 0\n")
    assert problem == "[producer] coins: got 0, must be a number from 1 to 20000, or a list of different ids"
    assert config.check(str(tmp_path / "none.toml")) == [
        f"{tmp_path}/none.toml: [Errno 2] No such file or directory: '{tmp_path}/none.toml'"
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[producer]\ncoins = 0  # producer_coins\n", "[producer] coins (producer_coins): got 0"),
        (
            "[market]\n[producer]\n# one\ninterval_seconds = 1\ncoins = 0  # x_y\n[kafka]\n",
            "[producer] coins (x_y): got 0",
        ),
        # The comment of another key, or of another section.
        ("[producer]\ninterval_seconds = 1  # x\ncoins = 0\n", "[producer] coins: got 0"),
        ("[simulator]\ncoins = 1  # x\n[producer]\ncoins = 0\n", "[producer] coins: got 0"),
        ('[market]\napi_url = "a # b"\n', "[market] api_url: got 'a # b'"),
    ],
)
def test_what_set_a_value_is_named(tmp_path: Path, text: str, named: str) -> None:
    (problem,) = checked(tmp_path, text)
    assert problem.startswith(named)


@pytest.mark.parametrize(
    ("text", "coins"),
    [("20000", 20000), ('["90", "bitcoin-cash_2"]', ("90", "bitcoin-cash_2")), ("[90, 80]", ("90", "80"))],
)
def test_coins_are_so_many_or_these(tmp_path: Path, text: str, coins: object) -> None:
    write(tmp_path, producer=f"[producer]\ncoins = {text}\n")
    assert config.load("producer", config_dir=tmp_path).producer.coins == coins


@pytest.mark.parametrize("text", ["[]", '["90", 90]', '["a b"]', '["90&start=1"]', "true", "1.5", "20001", '""'])
def test_coins_that_are_neither_are_refused(tmp_path: Path, text: str) -> None:
    assert "or a list of different ids" in checked(tmp_path, f"[producer]\ncoins = {text}\n")[0]


@pytest.mark.parametrize(("text", "status"), [("[producer]\ncoins = 7\n", 0), ("[producer]\ncoins = 0\n", 78)])
def test_the_command_checks_standard_input(text: str, status: int) -> None:
    command = [sys.executable, "-m", "crypto_stream.config", "-"]
    environment = {"PYTHONPATH": str(Path(config.__file__).parents[1])}
    run = subprocess.run(command, input=text, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == status
    assert ("settings: [producer] coins: got 0" in run.stderr) is bool(status)
