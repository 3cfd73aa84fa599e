"""All settings of the application, as one frozen object.

They come from every `*.toml` in a directory (`/etc/crypto-stream`, or `CRYPTO_STREAM_CONFIG_DIR`), read in name order.
A top-level table is one section and lives in one file only, because each file is written by one role. An environment
variable `CRYPTO_STREAM_<SECTION>__<KEY>` wins over the files. Every key has a default, so a host needs only the
sections that differ there. A process names the sections that it uses, and a wrong value in another one is none of its
business. A wrong setting of its own is never ignored: `load` raises `SettingsError` with one line for each, and
`load_or_exit` prints those lines and stops the process with status 78 (EX_CONFIG), which systemd shows as CONFIG.

`python -m crypto_stream.config FILE` checks one file and ends with the same status, before it takes the place of an
older one; `-` is standard input. A comment behind a value, the name of what set it, is part of the message.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_CONFIG_DIR = "/etc/crypto-stream"
ENV_PREFIX = "CRYPTO_STREAM_"
# Where the files are, and where the project's own tools keep their downloads.
NO_SETTINGS = {"CONFIG_DIR", "CACHE"}
EX_CONFIG = 78
MAX_COINS = 20_000


class SettingsError(Exception):
    """Settings that cannot be used; `problems` has one line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _http_address(value: str) -> str:
    match = re.fullmatch(r"https?://(\[[^\]]*\]|[^\s/?#@:\[\]]+)(?::([^/?#]*))?(?:/[^\s?#]*)?", value)
    if match is None or not _is_host(match[1]) or not (match[2] is None or _is_port(match[2])):
        raise ValueError("an address like http://host:port/path")
    return value.rstrip("/")


def _is_host(value: str) -> bool:
    """A name, an IPv4 address, or an IPv6 address in brackets."""
    return re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.%a-z]{2,60}\]", value) is not None


def _is_port(value: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", value) is not None and 1 <= int(value) <= 65535


def _host_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not _is_host(host) or not _is_port(port):
        raise ValueError("host:port with a port from 1 to 65535")
    return value


def _host_name(value: str) -> str:
    if not _is_host(value) and not re.fullmatch(r"[0-9A-Fa-f:.]{2,45}", value):
        raise ValueError("a host's name or address")
    return value


def _replication(value: str) -> str:
    """The map of CREATE KEYSPACE is also a Python literal, so it is checked before Cassandra sees it."""
    expected = "a map like {'class': 'SimpleStrategy', 'replication_factor': 1}"
    match = re.fullmatch(r"\{\s*'class'\s*:\s*'(\w+)'((?:\s*,\s*'[A-Za-z0-9_-]+'\s*:\s*[1-9][0-9]?)+)\s*\}", value)
    if match is None:
        raise ValueError(expected)
    centres = re.findall(r"'([A-Za-z0-9_-]+)'", match[2])
    if match[1] == "SimpleStrategy":
        allowed = centres == ["replication_factor"]
    else:
        allowed = match[1] == "NetworkTopologyStrategy" and len(set(centres)) == len(centres)
    if not allowed:
        raise ValueError(f"{expected}, or {{'class': 'NetworkTopologyStrategy', 'DATACENTER': 3}}")
    return value


def _not_empty(values: tuple[str, ...]) -> tuple[str, ...]:
    if not values:
        raise ValueError("at least 1 address")
    return values


def _coins(value: Any) -> int | tuple[str, ...]:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COINS:
        return value
    # In the environment, a number is a text.
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        return _coins(int(value))
    if isinstance(value, (list, tuple)) and 0 < len(set(map(str, value))) == len(value) <= MAX_COINS:
        ids = tuple(str(one) for one in value)
        if all(re.fullmatch(r"[A-Za-z0-9_-]{1,40}", one) for one in ids):
            return ids
    raise ValueError(f"a number from 1 to {MAX_COINS}, or a list of different ids")


HttpAddress = Annotated[str, AfterValidator(_http_address)]
HostName = Annotated[str, AfterValidator(_host_name)]
HostAndPort = Annotated[str, AfterValidator(_host_and_port)]
Port = Annotated[int, Field(ge=1, le=65535)]
TopicName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]
# CQL folds unquoted names to lower case; names that need no quotes need no care either.
CqlName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,47}$")]


Coins = Annotated[int | tuple[str, ...], PlainValidator(_coins)]


class Section(BaseModel):
    """What all sections share: unknown keys are errors, values are checked and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Market(Section):
    """`[market]`: where prices come from."""

    api_url: HttpAddress = "https://api.coinlore.net/api"
    # CoinLore asks for no more than one request a second. Only a simulator takes less than 1.
    request_interval_seconds: float = Field(1.0, ge=0, le=60)
    # For a whole answer, from the first byte of the request to the last one of the answer.
    request_timeout_seconds: float = Field(10.0, ge=0.1, le=60)
    attempts: int = Field(4, ge=1, le=20)


class Kafka(Section):
    """`[kafka]`: brokers and topics. Partitions and replication count only when a topic is created."""

    bootstrap_servers: Annotated[tuple[HostAndPort, ...], AfterValidator(_not_empty)] = ("127.0.0.1:9094",)
    topic: TopicName = "crypto.prices"
    market_topic: TopicName = "crypto.global"
    rejected_topic: TopicName = "crypto.rejected"
    partitions: int = Field(2, ge=1, le=1000)
    replication_factor: int = Field(1, ge=1, le=7)
    # Must exceed the longest outage of the stream job: it refuses to go on when messages are gone.
    retention_hours: int = Field(168, ge=1, le=87600)
    # Of each partition; -1 is without bound.
    retention_bytes: int = Field(1024 * 1024 * 1024, ge=-1)

    @property
    def topics(self) -> dict[str, str]:
        """Kafka's names of the topics, by what they are for."""
        return {"prices": self.topic, "market": self.market_topic, "rejected": self.rejected_topic}

    @model_validator(mode="after")
    def _three_topics(self) -> Kafka:
        if len(set(self.topics.values())) < 3:
            raise ValueError("three different names in topic, market_topic and rejected_topic")
        return self


class Cassandra(Section):
    """`[cassandra]`: the cluster and the keyspace. Replication counts only when the keyspace is created."""

    contact_points: Annotated[tuple[HostName, ...], AfterValidator(_not_empty)] = ("127.0.0.1",)
    port: Port = 9042
    keyspace: CqlName = "crypto"
    local_datacenter: str = Field("datacenter1", min_length=1)
    replication: Annotated[str, AfterValidator(_replication)] = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    request_timeout_seconds: float = Field(5.0, ge=0.1, le=120)


class Retention(Section):
    """`[retention]`: for how many days a row of each table is kept. Cassandra's own limit is twenty years."""

    prices_days: int = Field(30, ge=1, le=7300)
    candles_days: int = Field(1825, ge=1, le=7300)
    market_global_days: int = Field(1825, ge=1, le=7300)
    dead_letters_days: int = Field(30, ge=1, le=7300)


class SchemaSetup(Section):
    """`[schema_setup]`: the first-boot job that creates topics, keyspace and tables."""

    wait_seconds: float = Field(900, ge=1, le=86400)


class Freshness(Section):
    """`[freshness]`: when prices are called stale, by the dashboard and, on every host, by `crypto-check`."""

    # Three polls by default.
    stale_after_seconds: float = Field(90, ge=1, le=86400)


class Producer(Section):
    """`[producer]`: what is polled and how hard delivery is tried."""

    # The first so many by rank, or those with these ids.
    coins: Coins = 100
    interval_seconds: float = Field(30, ge=1, le=86400)
    # What Kafka has not acknowledged waits in this file, at most so long and so much of it.
    outbox: str = Field("/var/lib/crypto-producer/outbox.sqlite", pattern=r"^/.+")
    outbox_hours: float = Field(168, ge=0.01, le=87600)
    outbox_bytes: int = Field(1024 * 1024 * 1024, ge=100_000)
    delivery_timeout_seconds: float = Field(120, ge=15, le=3600)
    # At SIGTERM, how long to go on delivering what waits; the rest is delivered after the next start.
    drain_seconds: float = Field(5, ge=0, le=300)
    metrics_port: Port = 9401


class StreamJob(Section):
    """`[stream_job]`: from the topic into the tables."""

    checkpoint_dir: str = Field("/var/lib/crypto-stream/checkpoints", pattern=r"^(/|[a-z0-9]+://).+")
    # Of the prices; 0: a batch begins as soon as there is data.
    trigger_ms: int = Field(0, ge=0, le=3_600_000)
    max_offsets_per_trigger: int = Field(100_000, ge=1, le=10_000_000)
    # How long after newer prices an older one may come and still count in its candles.
    candle_lateness_seconds: int = Field(60, ge=1, le=86400)
    # Messages wait and no batch has ended for so long: the process ends, and systemd starts it anew.
    stall_seconds: float = Field(120, ge=10, le=86400)
    metrics_port: Port = 9402


class Dashboard(Section):
    """`[dashboard]`: what people look at, and where `crypto-check` finds it."""

    url: HttpAddress = "http://127.0.0.1:8501"
    refresh_seconds: float = Field(5, ge=1, le=3600)
    metrics_port: Port = 9403


class Simulator(Section):
    """`[simulator]`: the stand-in for CoinLore."""

    host: str = Field("127.0.0.1", min_length=1)
    port: Port = 8090
    coins: int = Field(14_000, ge=1, le=100_000)
    seed: int = 1
    refresh_seconds: float = Field(10, ge=0.1, le=3600)
    # Standard deviation of one step's logarithmic return, for an ordinary coin.
    volatility: float = Field(0.001, ge=0, le=0.1)


class Settings(BaseSettings):
    """Everything that can be set, one attribute for each section."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, allow_inf_nan=False
    )

    market: Market = Market()
    kafka: Kafka = Kafka()
    cassandra: Cassandra = Cassandra()
    retention: Retention = Retention()
    schema_setup: SchemaSetup = SchemaSetup()
    freshness: Freshness = Freshness()
    producer: Producer = Producer()
    stream_job: StreamJob = StreamJob()
    dashboard: Dashboard = Dashboard()
    simulator: Simulator = Simulator()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the files, whose content arrives as arguments; nothing else is read."""
        return env_settings, init_settings


def load(*sections: str, config_dir: Path | None = None) -> Settings:
    """Read and check settings; raises `SettingsError` naming file, section and key of everything wrong.

    With `sections`, only these are looked at, and what is returned has no others.
    """
    named = config_dir or os.environ.get(f"{ENV_PREFIX}CONFIG_DIR")
    directory = Path(named or DEFAULT_CONFIG_DIR)
    if (named or directory.exists()) and not (directory.is_dir() and os.access(directory, os.R_OK | os.X_OK)):
        raise SettingsError([f"{directory}: no directory that this user may read; it must hold the settings"])
    try:
        texts = {str(path): path.read_text(encoding="utf-8") for path in sorted(directory.glob("*.toml"))}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{directory}: {error}"]) from None
    return _settings(texts, sections)


def check(path: str) -> list[str]:
    """What is wrong with one file of settings, or with standard input for `-`; one line for each problem."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        _settings({"settings" if path == "-" else path: text}, ())
    except SettingsError as error:
        return error.problems
    except (OSError, UnicodeDecodeError) as error:
        return [f"{path}: {error}"]
    return []


def _settings(texts: Mapping[str, str], sections: tuple[str, ...]) -> Settings:
    """The settings in these files, by path."""
    content, files, problems = _parse(texts)
    problems += _unknown_environment(os.environ)
    ignored = Settings.model_fields.keys() - set(sections) if sections else set()
    try:
        settings = Settings(**{name: section for name, section in content.items() if name not in ignored})
    except ValidationError as error:
        problems += [_explain(cast("dict[str, Any]", detail), files, texts) for detail in error.errors()]
    except Exception as error:  # pydantic-settings has errors of its own for values that are no JSON
        problems.append(f"environment: {error}")
    if problems:
        raise SettingsError(problems)
    for name in ignored:  # whoever uses one that it did not name shall not get defaults
        del settings.__dict__[name]
    return settings


def load_or_exit(*sections: str) -> Settings:
    """`load` for a process of its own: prints what is wrong on standard error and exits with status 78."""
    try:
        return load(*sections)
    except SettingsError as error:
        print(error, file=sys.stderr)
        raise SystemExit(EX_CONFIG) from None


def _parse(texts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Returns the merged sections, the file each came from, and what is wrong with the files themselves."""
    sections: dict[str, Any] = {}
    files: dict[str, str] = {}
    problems: list[str] = []
    for path, text in texts.items():
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            problems.append(f"{path}: {error}")
            continue
        for name, section in content.items():
            if name in sections:
                problems.append(f"{path}: [{name}] is in {files[name]} already; a section lives in one file")
            elif not isinstance(section, dict):
                problems.append(f"{path}: {name} stands outside of a section; allowed sections: {_section_names()}")
            else:
                sections[name] = section
                files[name] = path
    return sections, files, problems


def _unknown_environment(environment: Mapping[str, str]) -> list[str]:
    """A misspelt name of a variable would be passed over in silence."""
    return [
        f"environment {name}: no such setting; allowed: {ENV_PREFIX}SECTION__KEY with a section of {_section_names()}"
        for name in sorted(environment)
        if name.startswith(ENV_PREFIX)
        and name[len(ENV_PREFIX) :] not in NO_SETTINGS
        and ("__" not in name or name[len(ENV_PREFIX) :].split("__")[0].lower() not in Settings.model_fields)
    ]


def _section_names() -> str:
    return ", ".join(sorted(Settings.model_fields))


def _set_by(text: str, section: str, key: str) -> str:
    """The comment behind a key's value, where it has one."""
    table = re.search(rf"^\[{re.escape(section)}\]\n((?:(?!\[).*\n?)*)", text, flags=re.MULTILINE)
    comment = re.search(rf"^{re.escape(key)} *=.*[^#]  # (\w+)$", table[1] if table else "", flags=re.MULTILINE)
    return f" ({comment[1]})" if comment else ""


def _explain(detail: dict[str, Any], files: dict[str, str], texts: Mapping[str, str]) -> str:
    """One line for one of pydantic's errors: where it stands, what it got, what is allowed."""
    section, *rest = [str(part) for part in detail["loc"]]
    key = ".".join(rest)
    variable = f"{ENV_PREFIX}{section}__{rest[0]}".upper() if rest else ""
    if variable and variable in {name.upper() for name in os.environ}:
        place = f"environment {variable}"
    else:
        place = files.get(section, "settings")
    where = f"{place}: [{section}] {key}".rstrip() + (_set_by(texts.get(place, ""), section, rest[0]) if rest else "")
    if detail["type"] == "extra_forbidden":
        if not rest:
            return f"{place}: [{section}] is no section; allowed: {_section_names()}"
        model = cast("type[BaseModel]", Settings.model_fields[section].annotation)
        return f"{where}: no such key; allowed: {', '.join(sorted(model.model_fields))}"
    allowed = str(detail["msg"]).replace("Input should be", "must be").replace("Value error, ", "must be ")
    return f"{where}: got {detail['input']!r}, {allowed}"


def main() -> None:
    """Check the file that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m crypto_stream.config FILE|-")
    if problems := check(sys.argv[1]):
        print("\n".join(problems), file=sys.stderr)
        raise SystemExit(EX_CONFIG)


if __name__ == "__main__":
    main()
