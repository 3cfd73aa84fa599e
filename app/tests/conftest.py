"""What several test modules share."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest
from crypto_stream.simulator import Api, Market, Server
from crypto_stream.stream_job import SESSION
from pyspark.sql import SparkSession


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither the machine's own settings nor its service manager may be seen by a test."""
    monkeypatch.setenv("CRYPTO_STREAM_CONFIG_DIR", str(tmp_path_factory.mktemp("no-settings")))
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)


@pytest.fixture
def simulator() -> Iterator[Server]:
    """The real simulator, 250 coins, on a free port of the loopback interface."""
    server = Server("127.0.0.1", 0, Api(Market(coins=250, seed=7, refresh_seconds=10, volatility=0.001)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    session = (
        SparkSession.builder.master("local[1]")
        .appName("tests")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.shuffle.partitions", "1")
        .config("spark.default.parallelism", "1")
        # A JVM that lives for seconds does not earn back what it spends on optimizing compilers and garbage. The stack
        # is that of the executors.
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xss512k")
        .config(map=SESSION)
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("ERROR")
    yield session
    session.stop()
