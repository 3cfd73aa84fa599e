from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from crypto_stream import dashboard, store
from crypto_stream.store import LatestPrice, PricePoint, StoreError
from streamlit.testing.v1 import AppTest

SCRIPT = str(Path(dashboard.__file__))


class FakeStore:
    """What a `Store` would answer, without Cassandra."""

    def __init__(self) -> None:
        self.rows: list[LatestPrice] = []
        self.points: list[PricePoint] = []
        self.error: StoreError | None = None
        self.asked: list[str] = []

    def latest(self, limit: int = 1000) -> list[LatestPrice]:
        if self.error:
            raise self.error
        return self.rows

    def history(self, coin: str, since_ts: int, limit: int = 5000) -> list[PricePoint]:
        self.asked.append(coin)
        if self.error:
            raise self.error
        return self.points

    def fill(self, age_seconds: float = 3) -> None:
        ts = int((time.time() - age_seconds) * 1000)
        self.rows = [
            LatestPrice("2", "Dogecoin", 0.1234567, ts, None),
            LatestPrice("90", "Bitcoin", 64000.126, ts, None),
            LatestPrice("45088", "Shiba Inu", 0.0000175, ts, None),
        ]
        self.points = [PricePoint(ts - 60_000, 63000.0), PricePoint(ts, 64000.126)]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStore]:
    fake = FakeStore()
    monkeypatch.setattr(store, "open_store", lambda settings: fake)
    st.cache_resource.clear()
    yield fake
    st.cache_resource.clear()


def run() -> AppTest:
    app = AppTest.from_file(SCRIPT, default_timeout=30).run()
    assert not app.exception
    assert [title.value for title in app.title] == ["Live market data"]
    return app


def test_prices_are_shown_as_market_sites_do(fake: FakeStore) -> None:
    fake.fill()
    app = run()
    table = app.dataframe[0].value
    assert list(table["Name"]) == ["Bitcoin", "Dogecoin", "Shiba Inu"]
    assert list(table["Price"]) == ["$64,000.13", "$0.1235", "$0.00001750"]
    assert set(table["Updated"]) <= {"3 s ago", "4 s ago", "5 s ago"}
    assert [metric.value for metric in app.metric][::2] == ["3", "live"]
    assert not app.warning
    assert not app.error


def test_the_coin_that_is_chosen_is_drawn(fake: FakeStore) -> None:
    fake.fill()
    app = run()
    assert fake.asked == ["90"]
    assert app.selectbox[0].value == "90"
    app.selectbox[0].select("2").run()
    assert not app.exception
    assert fake.asked[-1] == "2"
    assert len(app.get("arrow_vega_lite_chart") or app.get("vega_lite_chart")) == 1


def test_stale_prices_are_called_stale(fake: FakeStore) -> None:
    fake.fill(age_seconds=600)
    app = run()
    assert [metric.value for metric in app.metric] == ["3", "10 min ago", "stale"]
    assert "No new prices for 10 min" in app.warning[0].value
    assert len(app.dataframe) == 1


def test_no_prices_yet_is_no_error(fake: FakeStore) -> None:
    app = run()
    assert "No prices yet" in app.info[0].value
    assert not app.error
    assert not app.dataframe


def test_an_unreachable_cassandra_is_said_plainly_and_since_when(fake: FakeStore) -> None:
    fake.error = StoreError("127.0.0.1:9042: Connection refused")
    app = run()
    assert app.error[0].value.startswith("Cassandra is unreachable since 20")
    assert "Connection refused" in app.caption[1].value
    fake.error = None
    fake.fill()
    app.run()
    assert not app.error
    assert len(app.dataframe) == 1


def test_an_outage_has_one_beginning() -> None:
    outage = dashboard.Outage()
    first = outage.text(1_700_000_000)
    assert "since 2023-11-14 22:13:20 UTC" in first
    assert outage.text(1_700_000_500) == first
    outage.since = None
    assert outage.text(1_700_000_500) != first


def test_a_coin_without_history_is_said_so(fake: FakeStore) -> None:
    fake.fill()
    fake.points = []
    assert "No prices of Bitcoin in the last 24 hours" in run().info[0].value


def test_wrong_settings_are_shown_without_a_stack_trace(
    fake: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dashboard.toml").write_text("[dashboard]\nrefresh_seconds = 0\n")
    monkeypatch.setenv("CRYPTO_STREAM_CONFIG_DIR", str(tmp_path))
    app = run()
    assert "settings are wrong" in app.error[0].value
    assert "[dashboard] refresh_seconds: got 0" in app.code[0].value


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (64000.126, "$64,000.13"),
        (1, "$1.00"),
        (0.99995, "$1.0000"),
        (0.5, "$0.5000"),
        (0.012345, "$0.01235"),
        (0.0000175, "$0.00001750"),
        (1e-12, "$0.000000000001000"),
        (0, "$0.00"),
    ],
)
def test_price_format(price: float, text: str) -> None:
    assert dashboard.format_price(price) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (864000, "10 d ago")]
)
def test_age_format(seconds: float, text: str) -> None:
    assert dashboard.format_age(seconds) == text
