from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import streamlit as st
from crypto_stream import check, config
from crypto_stream.check import Disk, Hop, Progress, Report
from crypto_stream.config import Cassandra
from crypto_stream.dashboard import app as script
from crypto_stream.dashboard import charts, coin, data, market, pipeline, watchlist
from crypto_stream.dashboard.data import Reader
from crypto_stream.store import Board, Candle, DeadLetter, LatestPrice, MarketPoint, Store, StoreError
from hypothesis import given, settings
from hypothesis import strategies as strategies
from streamlit.elements.lib.pandas_styler_utils import marshall_styler
from streamlit.proto.ArrowData_pb2 import ArrowData
from streamlit.testing.v1 import AppTest

SCRIPT = str(Path(script.__file__))
HOUR = 3_600_000
EPOCH = datetime.fromtimestamp(0, timezone.utc)
Answer = TypeVar("Answer")


class FakeStore(Store):
    """What Cassandra would answer."""

    def __init__(self) -> None:
        super().__init__(Cassandra())
        self.found = Board([])
        self.world: MarketPoint | None = None
        self.yesterday: MarketPoint | None = None
        self.forming: list[Candle] = []
        self.letters: list[DeadLetter] = []
        self.error: StoreError | None = None
        self.asked: list[tuple[str, str, int, int]] = []

    def _answer(self, answer: Answer) -> Answer:
        if self.error:
            raise self.error
        return answer

    def board(self, now_ts: int, stale_seconds: float) -> Board:
        return self._answer(self.found)

    def market(self, now_ts: int) -> MarketPoint | None:
        points = (self.world, self.yesterday)
        return self._answer(next((point for point in points if point and point.ts <= now_ts), None))

    def candles(self, coin: str, interval: str, since_ts: int, until_ts: int) -> list[Candle]:
        self.asked.append((coin, interval, since_ts, until_ts))
        return self._answer(self.forming)

    def closes(self, coins: Any, since_ts: int, until_ts: int) -> dict[str, list[float]]:
        return self._answer({coin: [1.0, 2.0] for coin in coins})

    def dead_letters(self, topics: Any, now_ts: int, limit: int = 50) -> list[DeadLetter]:
        return self._answer(self.letters)

    def fill(self, age_seconds: float = 3) -> None:
        ts = int((time.time() - age_seconds) * 1000)
        self.found = Board(
            [
                LatestPrice("90", "Bitcoin", 64000.126, ts, "BTC", 1, 3.2e10, 1.234e12, -0.1, 2.5, 0.0),
                LatestPrice("2", "Dogecoin", 0.1234567, ts, "DOGE", 8, 2e6, 1e9, None, -3.0, None),
                LatestPrice("45088", "Shiba Inu", 0.0000175, ts - 30_000),
            ]
        )
        self.world = MarketPoint(ts, 2.5e12, 1e11, 51.25, 17.0, -1.5, 3.25)
        self.forming = [Candle(ts - ts % HOUR, 1.0, 4.0, 0.5, 2.0, 7, 1e9)]


@pytest.fixture
def fake() -> FakeStore:
    return FakeStore()


@pytest.fixture
def reader(fake: FakeStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    data.settings.cache_clear()
    st.cache_data.clear()
    reader = Reader(fake, 5, 90)
    monkeypatch.setattr(data, "reader", lambda: reader)
    yield reader
    data.settings.cache_clear()


def market_page() -> None:
    from crypto_stream.dashboard.market import page

    page()


def coin_page() -> None:
    from crypto_stream.dashboard.coin import page

    page()


def pipeline_page() -> None:
    from crypto_stream.dashboard.pipeline import page

    page()


def run(page: Callable[[], None], reader: Reader | None = None, **query: str) -> AppTest:
    if reader is not None:
        reader.look(time.time())
    app = AppTest.from_function(page, default_timeout=30)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def metrics(app: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.metric}


# ---- the market


def test_the_market_as_a_whole_and_its_movers(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    app = run(market_page, reader)
    text = " ".join(element.value for element in app.markdown)
    assert (
        r"Market cap **&#36;2\.50T** :red[-1.50 %] · Volume, 24 h **&#36;100\.00B** :green[+3.25 %]"
        r" · Bitcoin's share **51\.2 %** · Ethereum's share **17\.0 %** · Rising, 24 h **1** · Falling, 24 h **1**"
    ) in text
    assert "[Bitcoin](/coin?coin=90)" in text
    assert ":green[+2.50 %]" in text
    assert ":red[-3.00 %]" in text
    assert "live" in text


@pytest.mark.parametrize(
    ("age_hours", "text"),
    [
        (
            24.5,
            r"Bitcoin's share **51\.2 %** :green[+1.25 pp] · Ethereum's share **17\.0 %** :red[-0.50 pp]"
            r" · Rising, 24 h **1** -2,999 · Falling, 24 h **1** +1",
        ),
        # An outage was in between.
        (
            26,
            r"Bitcoin's share **51\.2 %** · Ethereum's share **17\.0 %** · Rising, 24 h **1** · Falling, 24 h **1**",
        ),
    ],
)
def test_the_market_is_compared_to_a_day_ago(fake: FakeStore, reader: Reader, age_hours: float, text: str) -> None:
    fake.fill()
    ts = int((time.time() - age_hours * 3600) * 1000)
    fake.yesterday = MarketPoint(ts, 2e12, 1e11, 50.0, 17.5, None, None, rising=3000, falling=0)
    assert any(text in element.value for element in run(market_page, reader).markdown)


def test_the_board_has_true_numbers_in_the_order_of_ranks(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    table = run(market_page, reader).dataframe[0].value
    assert list(table["Name"]) == ["Bitcoin", "Dogecoin", "Shiba Inu"]
    # Numbers, so that a click on a column sorts by them; what is read is their display.
    assert list(table["Price"]) == [64000.126, 0.1234567, 0.0000175]
    assert list(table["Rank"].dropna()) == [1, 8]
    assert [list(prices) for prices in table["Last 7 days"]] == [[1.0, 2.0]] * 3


def test_what_is_not_known_of_the_market_is_a_dash(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    fake.world = None
    app = run(market_page, reader)
    assert any(r"Market cap **\-** · Volume, 24 h **\-**" in text.value for text in app.markdown)
    # Of a number that is missing, a browser shows neither pandas' words nor the styles'.
    assert app.dataframe[0].proto.placeholder == "-"


def test_search_order_and_pages(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    ts = fake.found.rows[0].ts
    more = [LatestPrice(f"x{number}", f"Coin {number}", float(number), ts, None, number + 10) for number in range(250)]
    fake.found = Board([*fake.found.rows, *more])
    app = run(market_page, reader)
    assert len(app.dataframe[0].value) == market.PAGE_ROWS
    assert "253 of 253 coins, 1 of 3 pages" in app.caption[-1].value
    app.number_input(key="page").set_value(3).run()
    assert len(app.dataframe[0].value) == 53
    app.text_input(key="search").set_value("doge").run()
    assert list(app.dataframe[0].value["Name"]) == ["Dogecoin"]
    app.text_input(key="search").set_value("").run()
    app.selectbox(key="order").select("Price").run()
    assert next(iter(app.dataframe[0].value["Name"])) == "Bitcoin"
    assert not app.exception


@pytest.mark.parametrize(("order", "first"), [("Losers, 24 h", "Dogecoin"), ("Volume", "Bitcoin")])
def test_orders(fake: FakeStore, reader: Reader, order: str, first: str) -> None:
    fake.fill()
    app = run(market_page, reader)
    app.selectbox(key="order").select(order).run()
    assert next(iter(app.dataframe[0].value["Name"])) == first


def test_dust_is_no_mover() -> None:
    dust = LatestPrice("1", "Dust", 1.0, 1, volume24_usd=market.MOVERS_FLOOR_USD - 1, percent_change_24h=900.0)
    traded = [
        LatestPrice(str(number), "x", 1.0, 1, volume24_usd=2e6, percent_change_24h=float(number))
        for number in range(-9, 9)
    ]
    gains, losses = market.movers([dust, *traded])
    assert [row.percent_change_24h for row in gains] == [8, 7, 6, 5, 4]
    assert [row.percent_change_24h for row in losses] == [-9, -8, -7, -6, -5]


def test_an_id_that_somebody_made_up_is_no_markup(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    odd = LatestPrice("1) :red[x", "Odd", 1.0, fake.found.rows[0].ts, volume24_usd=2e6, percent_change_24h=90.0)
    fake.found = Board([*fake.found.rows, odd])
    text = " ".join(element.value for element in run(market_page, reader).markdown)
    assert "[Odd](/coin?coin=1%29%20%3Ared%5Bx) " in text


def test_coins_that_left_are_counted(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    fake.found = Board(fake.found.rows, left=[LatestPrice("7", "Gone", 1.0, 5)])
    assert "1 have left the ranking" in run(market_page, reader).caption[-1].value


def test_the_download_has_every_coin(fake: FakeStore) -> None:
    fake.fill()
    lines = market.csv(fake.found.rows).decode().splitlines()
    assert lines[0].startswith("id,name,price_usd,ts,symbol,rank,")
    assert len(lines) == 4


# ---- stale, old, absent


def test_stale_prices_are_called_stale(fake: FakeStore, reader: Reader) -> None:
    fake.fill(age_seconds=600)
    app = run(market_page, reader)
    assert "No new prices for 10 min" in app.warning[0].value
    assert "stale" in app.markdown[0].value
    assert market.GREY in str(app.dataframe[0].proto)


def test_a_price_of_the_future_is_called_a_wrong_clock_and_is_no_news(fake: FakeStore, reader: Reader) -> None:
    fake.fill(age_seconds=600)
    ahead = LatestPrice("91", "Bit*coin*", 1.0, int((time.time() + 9 * 3600 + 60) * 1000))
    fake.found = Board([ahead, *fake.found.rows], [ahead])
    app = run(market_page, reader)
    assert "A wrong clock: 1 coin has a price that is ahead" in app.warning[0].value
    assert r"Bit\*coin\*" in app.warning[0].value
    assert "9 h" in app.warning[0].value
    assert "No new prices for 10 min" in app.warning[1].value


@pytest.mark.parametrize("page", [market_page, coin_page])
def test_no_prices_yet_is_no_error(reader: Reader, page: Callable[[], None]) -> None:
    app = run(page, reader)
    assert "No prices yet" in app.info[0].value
    assert not app.error
    assert not app.dataframe


@pytest.mark.parametrize("page", [market_page, coin_page])
def test_before_the_first_look_nothing_is_claimed(reader: Reader, page: Callable[[], None]) -> None:
    assert [info.value for info in run(page).info] == ["Reading the prices."]


def test_through_an_outage_the_last_board_stays_greyed_and_dated(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    run(market_page, reader)
    fake.error = StoreError("127.0.0.1:9042: Connection refused")
    app = run(market_page, reader)
    assert app.error[0].value.startswith("Cassandra has not answered since 20")
    assert "What is shown was read at 20" in app.error[0].value
    assert "Connection refused" in app.caption[0].value
    assert list(app.dataframe[0].value["Name"]) == ["Bitcoin", "Dogecoin", "Shiba Inu"]
    assert market.GREY in str(app.dataframe[0].proto)
    fake.error = None
    app = run(market_page, reader)
    assert not app.error
    assert market.GREY not in str(app.dataframe[0].proto)


def test_a_page_opened_during_an_outage_says_since_when_it_was_asked(fake: FakeStore, reader: Reader) -> None:
    fake.error = StoreError("refused")
    reader.look(1_700_000_000)
    reader.look(1_700_000_500)
    app = run(market_page)
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
    while reader.snapshot.board is not None and not reader.snapshot.board.rows and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reader.snapshot.board is not None
    assert len(reader.snapshot.board.rows) == 3


@pytest.mark.parametrize("page", [market_page, coin_page])
def test_a_page_refreshes_itself(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Callable[[], None]
) -> None:
    (tmp_path / "dashboard.toml").write_text("[dashboard]\nrefresh_seconds = 7\n")
    monkeypatch.setenv("CRYPTO_STREAM_CONFIG_DIR", str(tmp_path))
    asked: list[float] = []
    fragment = st.fragment

    def remember(function: Callable[..., None], run_every: float) -> Callable[..., None]:
        asked.append(run_every)
        return fragment(function)

    monkeypatch.setattr(st, "fragment", remember)
    run(page, reader)
    assert asked == [7]


# ---- a coin


def test_a_coin_has_an_address(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    app = run(coin_page, reader, coin="2")
    assert metrics(app)["Price"] == "$0.1235"
    assert metrics(app)["Low, today (UTC)"] == "$0.5000"
    assert app.caption[0].value == "Rank 8. 1 h: -, 24 h: -3.00 %, 7 d: -"
    assert {asked[:2] for asked in fake.asked} == {("2", "1d"), ("2", "15m")}
    assert len(app.get("vega_lite_chart") or app.get("arrow_vega_lite_chart")) == 2
    app.selectbox[0].select("90").run()
    assert metrics(app)["Price"] == "$64,000.13"
    assert app.query_params["coin"] in ("90", ["90"])


@pytest.mark.parametrize("name", coin.RANGES)
def test_ranges(fake: FakeStore, reader: Reader, name: str) -> None:
    fake.fill()
    app = run(coin_page, reader)
    fake.asked.clear()
    st.cache_data.clear()
    app.session_state["range"] = name
    app.run()
    chosen = coin.RANGES[name]
    found = {(interval, until - since) for _, interval, since, until in fake.asked}
    assert (chosen.interval, chosen.seconds * 1000) in found
    assert not app.exception


def test_the_watchlist_is_in_the_address(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    app = run(coin_page, reader, coin="2", watch="90")
    app.button[0].click().run()
    assert app.query_params["watch"] == "90,2"
    assert app.button[0].label == "On the watchlist"
    app = run(market_page, reader, watch="90,2,90")
    text = "".join(markdown.value for markdown in app.markdown)
    assert "[Bitcoin](/coin?coin=90&watch=90%2C2)" in text
    (only,) = app.toggle
    assert only.label == "Watchlist only (2)"
    only.set_value(True).run()
    assert list(app.dataframe[0].value["Name"]) == ["Bitcoin", "Dogecoin"]
    app = run(coin_page, reader, coin="90", watch="90")
    app.button[0].click().run()
    assert "watch" not in app.query_params


@given(strategies.text())
def test_any_address_is_a_watchlist(text: str) -> None:
    found = watchlist.parsed(text)
    assert len(found) == len(set(found)) <= watchlist.MOST
    assert watchlist.parsed(",".join(found)) == found


def test_a_coin_that_is_not_there_is_said_so(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    app = run(coin_page, reader, coin="<b>no")
    assert r"No coin with the id \<b\>no is on the board" in app.warning[0].value
    assert metrics(app)["Price"] == "$64,000.13"


def test_a_coin_without_candles_and_with_an_old_price_is_said_so(fake: FakeStore, reader: Reader) -> None:
    fake.fill(age_seconds=600)
    fake.forming = []
    app = run(coin_page, reader)
    assert "No candles of Bitcoin in this range yet" in app.info[0].value
    assert "This price is old: it was fetched 10 min ago." in app.warning[1].value
    assert metrics(app)["Low, today (UTC)"] == "-"


def test_candles_stay_absent_through_an_outage_without_a_stack_trace(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    reader.look(time.time())
    fake.error = StoreError("127.0.0.1:9042: Connection refused")
    app = run(coin_page)
    assert "Cassandra did not answer for this coin" in app.error[0].value


def test_coins_of_one_name_are_told_apart() -> None:
    assert coin.label(LatestPrice("1", "Bitcoin", 1.0, 1, "BTC")) == "Bitcoin (BTC)"
    assert coin.label(LatestPrice("1", "Bitcoin", 1.0, 1)) == "Bitcoin (id 1)"


def test_the_browsers_title_is_the_price_and_its_change(fake: FakeStore) -> None:
    fake.fill()
    assert [coin.title(row) for row in fake.found.rows] == [
        "$64,000.13 +2.50 % Bitcoin",
        "$0.1235 -3.00 % Dogecoin",
        "$0.00001750 Shiba Inu",
    ]


numbers = strategies.floats(0, 1e300, allow_nan=False)
candles = strategies.lists(
    strategies.builds(
        Candle, strategies.integers(0, 2**41), numbers, numbers, numbers, numbers, strategies.integers(0, 9), numbers
    ),
    min_size=1,
    max_size=20,
)


@settings(deadline=None, max_examples=50)
@given(candles, strategies.booleans(), strategies.booleans())
def test_any_candles_can_be_drawn(found: list[Candle], log: bool, utc: bool) -> None:
    frame = charts.candle_frame(found)
    assert list(frame["close"]) == [candle.close for candle in found]
    prices, volumes = charts.candle_charts(found, 60, (0, 2**41), log=log, utc=utc)
    assert prices.to_dict()["layer"]
    assert volumes.to_dict()["mark"]


def test_a_zero_has_no_logarithm() -> None:
    def scale(*lows: float) -> str:
        found = [Candle(number, 1.0, 2.0, low, 1.0, 1, None) for number, low in enumerate(lows)]
        return str(charts.candle_charts(found, 60, (0, 9), log=True, utc=True)[0].to_dict())

    assert "'type': 'log'" in scale(1.0, 2.0)
    assert "'type': 'log'" not in scale(0.0, 2.0)


def test_a_price_that_moved_flashes_once() -> None:
    then = {"90": 5.0, "80": 1.0, "2": 3.0}
    rows = [LatestPrice(coin, coin, price, 1) for coin, price in {"90": 6.0, "80": 0.5, "2": 3.0, "new": 1.0}.items()]
    assert market.moved(rows, then) == [1, -1, 0, 0]
    assert market.moved(rows, {row.id: row.price_usd for row in rows}) == [0, 0, 0, 0]


@given(hours=strategies.integers(0, 400))
def test_a_week_is_thinned_to_what_a_line_shows(hours: int) -> None:
    closes = [float(hour) for hour in range(hours)]
    shown = data.thinned(closes)
    if hours < 2:
        assert shown == []
    else:
        assert shown[-1] == closes[-1]
        assert len({later - earlier for earlier, later in pairwise(shown)}) == 1
        assert min(hours, data.WEEK_POINTS) <= len(shown) < 2 * data.WEEK_POINTS


def test_the_prices_of_a_week_are_sent_to_be_drawn_and_not_as_words() -> None:
    rows = [LatestPrice("90", "Bitcoin", 2.0, 1_000_000)]
    week = {"90": [0.123456789] * 168}
    style: Any = market.styled(market.board(rows, week), [0], EPOCH, 90, reachable=True)
    proto = ArrowData()
    marshall_styler(proto, style, "board")
    assert b"$2.00" in proto.styler.display_values
    assert b"0.123456789" not in proto.styler.display_values


def test_prices_are_sent_again_only_when_they_have_changed(
    fake: FakeStore, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.fill()
    now = time.time()

    def sent(later_seconds: float) -> object:
        """The message of which Streamlit sends no more than the hash when it is the same again."""
        monkeypatch.setattr(market, "time", SimpleNamespace(time=lambda: now + later_seconds))
        return run(market_page, reader).dataframe[0].proto

    first = sent(0)
    assert sent(50) == first
    # Grey by now.
    assert sent(100) != first
    fake.found = Board([replace(fake.found.rows[0], price_usd=64000.5), *fake.found.rows[1:]])
    assert sent(0) != first


# ---- the pipeline


def test_what_is_old_is_grey_what_changed_has_a_colour_and_what_moved_flashes() -> None:
    rows = [
        LatestPrice("90", "Bitcoin", 2.0, 1_000_000, percent_change_24h=1.0, percent_change_7d=float("nan")),
        LatestPrice("80", "Ethereum", 1.0, 1_000_000, percent_change_24h=-1.0, percent_change_7d=0.0),
        LatestPrice("1", "Old", 3.0, 900_000, percent_change_24h=1.0),
    ]
    frame = market.board(rows, {})
    up, down, grey = (f"color: {colour};" for colour in (charts.UP, charts.DOWN, market.GREY))

    def looks(column: str, **options: bool) -> list[str]:
        """What the cells of a column have."""
        style: Any = market.styled(
            frame, [1, -1, -1], EPOCH + timedelta(seconds=1_000), 90, **{"reachable": True} | options
        )
        style._compute()
        place = frame.columns.get_loc(column)
        return ["".join(f"{name}: {value};" for name, value in style.ctx[row, place]) for row in range(len(rows))]

    assert looks("24 h") == [up, down, grey]
    assert looks("7 d") == ["", "", grey]
    assert looks("Name") == ["", "", grey]
    rises, falls = (f"background-color: {colour};" for colour in (market.FLASH_UP, market.FLASH_DOWN))
    assert looks("Price") == [rises, falls, falls + grey]
    # While Cassandra is away, all of it may be old.
    assert looks("24 h", reachable=False) == [grey] * 3


def test_rows_a_second_are_of_two_looks_at_one_process() -> None:
    before, now = (100.0, {"prices": 50.0, "candles": 400.0}), (110.0, {"prices": 80.0, "candles": 4.0, "new": 9.0})
    assert pipeline.rates(before, now) == {"prices": 3.0}
    assert pipeline.rates(now, now) == {}


def test_the_pipeline_shows_how_far_each_query_is(
    fake: FakeStore, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Progress("prices", 100, 2.5, {"written": 7000, "refused": 1}, 70, 0.21)
    found = Report(True, [], None, [], queries=[one], disks=[Disk("/", 41.6)])
    monkeypatch.setattr(check, "look", lambda *_: found)
    app = run(pipeline_page)
    row = app.dataframe[1].value.iloc[0]
    shown = row[["Query", "Messages waiting", "Seconds behind", "Rows written", "Refused", "Too late", "Batches"]]
    assert list(shown) == ["prices", 100, 2.5, 7000, 1, 0, 70]
    assert "/ 42 % full" in app.caption[-1].value
    assert "(http://localhost:8080)" in app.caption[0].value


def test_the_pipeline_speaks_as_crypto_check_does(
    fake: FakeStore, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Hop("topic", False, "refused", 5.0, "Kafka does not answer", "systemctl status kafka")
    found = Report(False, [Hop("api", True, "fine", 200.0), broken], "topic", ["/ is 91 % full"])
    monkeypatch.setattr(check, "look", lambda *_: found)
    fake.letters = [DeadLetter("crypto.prices", 1, 7, "x", "the message is empty", 1_700_000_000_000)]
    app = run(pipeline_page)
    assert "First broken hop: topic. Likely cause: Kafka does not answer" in app.error[0].value
    assert "`systemctl status kafka`" in app.error[0].value
    assert "91 % full" in app.warning[0].value
    assert list(app.dataframe[0].value["State"]) == ["ok", "BROKEN"]
    assert list(app.dataframe[1].value["Reason"]) == ["the message is empty"]
    fake.error = StoreError("refused")
    st.cache_data.clear()
    monkeypatch.setattr(check, "look", lambda *_: Report(True, [], None, []))
    app = run(pipeline_page)
    assert app.success[0].value == "Data flows."
    assert "Cassandra did not answer" in app.error[0].value


def test_what_serves_all_who_look_is_gone_when_a_page_asks_again() -> None:
    assert pipeline.REFRESH_SECONDS >= 2 * data.CHECK_SECONDS
    assert config.Settings().dashboard.refresh_seconds >= 2 * data.CANDLE_SECONDS


def test_wrong_settings_of_another_service_are_said_on_the_pipeline(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYPTO_STREAM_CONFIG_DIR", str(tmp_path))
    (tmp_path / "producer.toml").write_text("[producer]\ncoins = 0\n")
    assert "[producer] coins: got 0" in run(pipeline_page).code[0].value


# ---- the script


def test_the_script_has_three_pages(fake: FakeStore, reader: Reader) -> None:
    fake.fill()
    reader.look(time.time())
    app = AppTest.from_file(SCRIPT, default_timeout=30).run()
    assert not app.exception
    assert len(app.dataframe) == 1


def test_wrong_settings_are_shown_without_a_stack_trace(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dashboard.toml").write_text("[dashboard]\nrefresh_seconds = 0\n")
    monkeypatch.setenv("CRYPTO_STREAM_CONFIG_DIR", str(tmp_path))
    app = AppTest.from_file(SCRIPT, default_timeout=30).run()
    assert not app.exception
    assert "settings are wrong" in app.error[0].value
    assert "[dashboard] refresh_seconds: got 0" in app.code[0].value
