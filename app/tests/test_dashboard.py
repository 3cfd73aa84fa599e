from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import streamlit
from crypto_stream import board, dashboard
from crypto_stream.board import Reader
from crypto_stream.config import Cassandra
from crypto_stream.store import Board, LatestPrice, PricePoint, Store, StoreError
from streamlit.testing.v1 import AppTest

SCRIPT = str(Path(dashboard.__file__))


class FakeStore(Store):
    """What Cassandra would answer."""

    def __init__(self) -> None:
        super().__init__(Cassandra())
        self.found = Board([])
        self.points: list[PricePoint] = []
        self.error: StoreError | None = None
        self.asked: list[tuple[str, int, int]] = []

    def board(self, now_ts: int, stale_seconds: float) -> Board:
        if self.error:
            raise self.error
        return self.found

    def history(self, coin: str, since_ts: int, until_ts: int, limit: int = 5000) -> list[PricePoint]:
        self.asked.append((coin, since_ts, until_ts))
        if self.error:
            raise self.error
        return self.points

    def fill(self, age_seconds: float = 3) -> None:
        ts = int((time.time() - age_seconds) * 1000)
        rows = [
            LatestPrice("90", "Bitcoin", 64000.126, ts, "BTC", 1, 3.2e10, 1.234e12, -0.1, 2.5, 0.0),
            LatestPrice("2", "Dogecoin", 0.1234567, ts, rank=8),
            LatestPrice("45088", "Shiba Inu", 0.0000175, ts - 30_000),
        ]
        self.found = Board(rows)
        self.points = [PricePoint(ts - 60_000, 63000.0), PricePoint(ts, 64000.126)]


@pytest.fixture
def fake() -> FakeStore:
    return FakeStore()


@pytest.fixture
def reader(fake: FakeStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    board.settings.cache_clear()
    reader = Reader(fake, 5, 90)
    monkeypatch.setattr(board, "reader", lambda: reader)
    yield reader
    board.settings.cache_clear()


def run(reader: Reader | None = None) -> AppTest:
    if reader is not None:
        reader.look(time.time())
    app = AppTest.from_file(SCRIPT, default_timeout=30).run()
    assert not app.exception
    assert [title.value for title in app.title] == ["Live market data"]
    return app


def test_prices_are_shown_as_market_sites_do(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    app = run(reader)
    table = app.dataframe[0].value
    assert list(table["Name"]) == ["Bitcoin", "Dogecoin", "Shiba Inu"]
    # Numbers, so that a click on a column sorts by them; what is read is their display.
    assert list(table["Price"]) == [64000.126, 0.1234567, 0.0000175]
    assert list(table["Rank"].dropna()) == [1, 8]
    assert [age == pytest.approx(wanted, abs=3) for age, wanted in zip(table["Updated"], (4, 4, 34))] == [True] * 3
    shown = str(app.dataframe[0].proto)
    assert dashboard.UP in shown
    assert dashboard.DOWN in shown
    # By the newest row, not by any other.
    assert [metric.value for metric in app.metric][::2] == ["3", "live"]
    assert app.metric[1].value in {"3 s ago", "4 s ago", "5 s ago"}
    assert not app.warning
    assert not app.error


def test_the_coin_that_is_chosen_is_drawn(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    app = run(reader)
    (coin, since, until) = fake.asked[0]
    assert coin == "90"
    assert until == pytest.approx(time.time() * 1000, abs=60_000)
    assert until - since == 24 * 3_600_000
    assert app.selectbox[0].value == "90"
    app.selectbox[0].select("2").run()
    assert not app.exception
    assert fake.asked[-1][0] == "2"
    assert len(app.get("arrow_vega_lite_chart") or app.get("vega_lite_chart")) == 1


def test_the_chart_draws_the_points() -> None:
    chart = dashboard.price_chart([PricePoint(1_700_000_000_000, 2.5), PricePoint(1_700_000_060_000, 3.5)], "Bitcoin")
    assert list(chart.data["price"]) == [2.5, 3.5]
    assert [moment.timestamp() for moment in chart.data["time"]] == [1_700_000_000, 1_700_000_060]


def test_stale_prices_are_called_stale(fake: FakeStore, reader: Reader) -> None:
    fake.fill(age_seconds=600)
    app = run(reader)
    assert [metric.value for metric in app.metric] == ["3", "10 min ago", "stale"]
    assert "No new prices for 10 min" in app.warning[0].value
    assert len(app.dataframe) == 1


def test_a_price_of_the_future_is_called_a_wrong_clock_and_is_no_news(fake: FakeStore, reader: Reader) -> None:
    fake.fill(age_seconds=600)
    ahead = LatestPrice("91", "Bit*coin*", 1.0, int((time.time() + 9 * 3600 + 60) * 1000))
    fake.found = Board([ahead, *fake.found.rows], [ahead])
    app = run(reader)
    assert [metric.value for metric in app.metric] == ["4", "10 min ago", "stale"]
    assert "A wrong clock: 1 coin has a price that is ahead" in app.warning[0].value
    assert r"Bit\*coin\*" in app.warning[0].value
    assert "9 h" in app.warning[0].value


def test_no_prices_yet_is_no_error(fake: FakeStore, reader: Reader) -> None:
    app = run(reader)
    assert "No prices yet" in app.info[0].value
    assert not app.error
    assert not app.dataframe


def test_before_the_first_look_nothing_is_claimed(reader: Reader) -> None:
    app = run()
    assert [info.value for info in app.info] == ["Reading the prices."]


def test_through_an_outage_the_last_board_stays_greyed_and_dated(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    run(reader)
    fake.error = StoreError("127.0.0.1:9042: Connection refused")
    app = run(reader)
    assert app.error[0].value.startswith("Cassandra has not answered since 20")
    assert "What is shown was read at 20" in app.error[0].value
    assert "Connection refused" in app.caption[1].value
    assert list(app.dataframe[0].value["Name"]) == ["Bitcoin", "Dogecoin", "Shiba Inu"]
    assert dashboard.GREY in str(app.dataframe[0].proto)
    assert app.metric[2].value == "unknown"
    fake.error = None
    app = run(reader)
    assert not app.error
    assert dashboard.GREY not in str(app.dataframe[0].proto)
    assert app.metric[2].value == "live"


def test_a_page_opened_during_an_outage_says_since_when_it_was_asked(fake: FakeStore, reader: Reader) -> None:
    fake.error = StoreError("refused")
    reader.look(1_700_000_000)
    reader.look(1_700_000_500)
    app = run()
    assert "since 2023-11-14 22:13:20 UTC, when it was asked first." in app.error[0].value
    assert "read at" not in app.error[0].value
    fake.error = None
    reader.look(1_700_000_600)
    fake.error = StoreError("refused")
    reader.look(1_700_000_700)
    assert reader.snapshot.failing_since == 1_700_000_700
    assert reader.snapshot.read_at == 1_700_000_600


def test_the_board_is_read_again_and_again(fake: FakeStore) -> None:
    reader = Reader(fake, 0.01, 90)
    reader.start()
    deadline = time.monotonic() + 10
    while reader.snapshot.board is None and time.monotonic() < deadline:
        time.sleep(0.01)
    fake.fill()
    while not reader.snapshot.board.rows and time.monotonic() < deadline:  # type: ignore[union-attr]
        time.sleep(0.01)
    assert len(reader.snapshot.board.rows) == 3  # type: ignore[union-attr]


def test_the_page_refreshes_itself(
    fake: FakeStore, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dashboard.toml").write_text("[dashboard]\nrefresh_seconds = 7\n")
    monkeypatch.setenv("CRYPTO_STREAM_CONFIG_DIR", str(tmp_path))
    asked: list[float] = []
    fragment = streamlit.fragment

    def remember(function: Callable[..., None], run_every: float) -> Callable[..., None]:
        asked.append(run_every)
        return fragment(function)

    monkeypatch.setattr(streamlit, "fragment", remember)
    run(reader)
    assert asked == [7]


def test_a_coin_without_history_is_said_so(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    fake.points = []
    assert "No prices of Bitcoin in the last 24 hours" in run(reader).info[0].value


def test_wrong_settings_are_shown_without_a_stack_trace(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    ("amount", "text"),
    [(1.234e12, "$1.23T"), (5.6e9, "$5.60B"), (1e6, "$1.00M"), (1500, "$1.50K"), (3, "$3.00"), (math.nan, "-")],
)
def test_amount_format(amount: float, text: str) -> None:
    assert dashboard.format_amount(amount) == text


@pytest.mark.parametrize(("change", "text"), [(2.105, "+2.10 %"), (-1234.5, "-1,234.50 %"), (math.nan, "-")])
def test_change_format(change: float, text: str) -> None:
    assert dashboard.format_change(change) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s ago"),
        (59.9, "59 s ago"),
        (3599, "59 min ago"),
        (86_399, "23 h ago"),
        (60, "1 min ago"),
        (7200, "2 h ago"),
        (864000, "10 d ago"),
    ],
)
def test_age_format(seconds: float, text: str) -> None:
    assert dashboard.format_age(seconds) == text


def test_markdown_of_a_name_is_text() -> None:
    assert dashboard.plain("$a$ [x](y) :red[z] <b>") == r"\$a\$ \[x\]\(y\) \:red\[z\] \<b\>"
