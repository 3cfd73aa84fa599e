"""The market: its state as a whole, the movers, and the board of all coins."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pandas as pd
import streamlit as st
from streamlit.navigation.page import Page

from crypto_stream.dashboard import coin, data, formats, parts, watchlist
from crypto_stream.dashboard.charts import DOWN, UP
from crypto_stream.dashboard.data import Snapshot
from crypto_stream.store import LatestPrice, MarketPoint

# Coins that trade for less do not count among the movers: a single order moves them.
MOVERS_FLOOR_USD = 1_000_000
MOVERS = 5
PAGE_ROWS = 100
GREY = "#9a9a9a"
# Behind a price that has just risen or fallen; for a light page and a dark one alike.
FLASH_UP, FLASH_DOWN = "rgba(46, 160, 67, 0.35)", "rgba(219, 68, 55, 0.35)"
UNKNOWN_MARKET = MarketPoint(0, math.nan, math.nan, None, None, None, None)
CHANGES = ["1 h", "24 h", "7 d"]
AMOUNTS = ["Volume 24 h", "Market cap"]


def _change(row: LatestPrice) -> float:
    """Of 24 hours, in per cent; none is known of some coins."""
    return row.percent_change_24h or 0


ORDERS = {
    "Rank": lambda row: (row.rank is None, row.rank),
    "Price": lambda row: -row.price_usd,
    "Volume": lambda row: -(row.volume24_usd or 0),
    "Gainers, 24 h": lambda row: -_change(row),
    "Losers, 24 h": _change,
}


def found(rows: list[LatestPrice], text: str) -> list[LatestPrice]:
    """Coins whose name or symbol holds this text, whatever its case."""
    wanted = text.strip().casefold()
    if not wanted:
        return rows
    return [row for row in rows if wanted in row.name.casefold() or wanted in (row.symbol or "").casefold()]


def movers(rows: list[LatestPrice]) -> tuple[list[LatestPrice], list[LatestPrice]]:
    """The largest gains and losses of 24 hours among coins that are traded, most first."""
    traded = [row for row in rows if row.percent_change_24h and (row.volume24_usd or 0) >= MOVERS_FLOOR_USD]
    gains = heapq.nlargest(MOVERS, (row for row in traded if _change(row) > 0), key=_change)
    losses = heapq.nsmallest(MOVERS, (row for row in traded if _change(row) < 0), key=_change)
    return gains, losses


def board(rows: list[LatestPrice], week: dict[str, list[float]]) -> pd.DataFrame:
    """For display; true numbers and times, so that they can be sorted by. Changes in per cent."""
    frame = pd.DataFrame(
        {
            "Rank": pd.array([row.rank for row in rows], dtype="Int64"),
            "Name": [row.name for row in rows],
            "Symbol": [row.symbol or "" for row in rows],
            "Price": [row.price_usd for row in rows],
            "1 h": [row.percent_change_1h for row in rows],
            "24 h": [row.percent_change_24h for row in rows],
            "7 d": [row.percent_change_7d for row in rows],
            "Volume 24 h": [row.volume24_usd for row in rows],
            "Market cap": [row.market_cap_usd for row in rows],
            "Last 7 days": [week.get(row.id, []) for row in rows],
            "Updated": [row.ts for row in rows],
        }
    )
    return frame.astype(dict.fromkeys([*CHANGES, *AMOUNTS], "float64") | {"Updated": "datetime64[ms, UTC]"})


def moved(rows: list[LatestPrice], before: dict[str, float]) -> list[int]:
    """Whether each price has risen (1) or fallen (-1) since it was seen before, by the coin's id."""
    earlier = (before.get(row.id, row.price_usd) for row in rows)
    return [(row.price_usd > then) - (row.price_usd < then) for row, then in zip(rows, earlier)]


def styled(frame: pd.DataFrame, flashes: list[int], now: datetime, stale_seconds: float, *, reachable: bool) -> object:
    """As market sites write it; what may be out of date is grey, and what has just moved flashes.

    `now` has the zone in which times are shown. Two looks at the same prices make the same bytes, which Streamlit sends
    once: therefore times, and no ages.
    """
    stale = frame["Updated"] < now - timedelta(seconds=stale_seconds)
    grey = [f"color: {GREY};" if not reachable or old else "" for old in stale]
    backgrounds = {1: f"background-color: {FLASH_UP};", -1: f"background-color: {FLASH_DOWN};"}

    def direction(value: float) -> str:
        return f"color: {UP if value > 0 else DOWN};" if formats.is_known(value) and value else ""

    looks = dict.fromkeys(frame.columns, grey)
    looks["Price"] = [backgrounds.get(flash, "") + old for flash, old in zip(flashes, grey)]
    looks |= {name: [old or direction(value) for value, old in zip(frame[name], grey)] for name in CHANGES}
    words = {"Price": formats.price, "Updated": lambda time: formats.clock(time.timestamp(), now)}
    words |= dict.fromkeys(CHANGES, formats.change) | dict.fromkeys(AMOUNTS, formats.amount)
    # It is drawn; as words, its prices would be more than half of what a refresh sends.
    words["Last 7 days"] = lambda _: ""
    # With a name of its own: pandas makes one up each time.
    style = frame.style.set_uuid("board").format(words, subset=list(words))  # type: ignore[arg-type] # of pandas' stubs
    # All at once: pandas takes its time for each row or column that it asks for.
    return style.apply(lambda _: pd.DataFrame(looks, index=frame.index), axis=None)


def coloured(change: float | None, words: Callable[[float | None], str] = formats.change) -> str:
    """A change as markdown: green where it is a rise, red where it is a fall."""
    text = words(change)
    return text if not change or text == formats.UNKNOWN else f":{'green' if change > 0 else 'red'}[{text}]"


def summary(market: MarketPoint | None, yesterday: MarketPoint | None, rows: list[LatestPrice]) -> str:
    """The market as a whole in a line of markdown. A stack that is younger than a day knows only CoinLore's changes."""
    now, then = market or UNKNOWN_MARKET, yesterday or UNKNOWN_MARKET
    up, down = (sum(1 for row in rows if sign * _change(row) > 0) for sign in (1, -1))
    figures = [
        ("Market cap", formats.amount(now.total_mcap_usd), coloured(now.mcap_change)),
        ("Volume, 24 h", formats.amount(now.total_volume_usd), coloured(now.volume_change)),
        ("Bitcoin's share", formats.share(now.btc_d), coloured(_rise(then.btc_d, now.btc_d), formats.points)),
        ("Ethereum's share", formats.share(now.eth_d), coloured(_rise(then.eth_d, now.eth_d), formats.points)),
        # Without a colour: that more coins fall is no good news.
        ("Rising, 24 h", f"{up:,}", formats.more(_rise(then.rising, up))),
        ("Falling, 24 h", f"{down:,}", formats.more(_rise(then.falling, down))),
    ]
    return " · ".join(
        f"{label} **{formats.plain(value)}**" + ("" if change == formats.UNKNOWN else f" {change}")
        for label, value, change in figures
    )


def _rise(then: float | None, now: float | None) -> float | None:
    return None if then is None or now is None else now - then


def show_movers(rows: list[LatestPrice]) -> None:
    """The five largest gains and losses."""
    gains, losses = movers(rows)
    watched = watchlist.coins()
    for place, title, some in zip(st.columns(2), ("Largest gains, 24 h", "Largest losses, 24 h"), (gains, losses)):
        place.markdown(f"**{title}**")
        lines = [
            f"[{formats.plain(row.name)}]({watchlist.address(row.id, watched)})"
            f" {formats.plain(formats.price(row.price_usd))} {coloured(row.percent_change_24h)}"
            for row in some
        ]
        place.markdown("  \n".join(lines) if lines else formats.UNKNOWN)
    st.caption(f"Of coins that trade for at least {formats.plain(formats.amount(MOVERS_FLOOR_USD))} a day.")


def flashes(snapshot: Snapshot, shown: list[LatestPrice]) -> list[int]:
    """What has moved since this viewer saw the board before this one."""
    if snapshot.board is None:
        return []
    last, before = st.session_state.get("boards", (snapshot.board, snapshot.board))
    if snapshot.board is not last:
        last, before = snapshot.board, last
    st.session_state["boards"] = last, before
    return moved(shown, {row.id: row.price_usd for row in before.rows})


def show_board(snapshot: Snapshot, rows: list[LatestPrice], now: float) -> None:
    """Search, order and pages; a click on a row opens the coin."""
    watched = watchlist.coins()
    if watched and st.toggle(f"Watchlist only ({len(watched)})", key="watched"):
        rows = [row for row in rows if row.id in watched]
    search, order, page = st.columns([3, 2, 1])
    text = search.text_input("Search", key="search", placeholder="Name or symbol", label_visibility="collapsed")
    by = order.selectbox("Order", list(ORDERS), key="order", label_visibility="collapsed")
    chosen = sorted(found(rows, text), key=ORDERS[by])
    pages = max(1, -(-len(chosen) // PAGE_ROWS))
    number = page.number_input("Page", 1, pages, key="page", label_visibility="collapsed") if pages > 1 else 1
    shown = chosen[(number - 1) * PAGE_ROWS : number * PAGE_ROWS]
    # Sorted, because coins that have changed places are the same coins.
    frame = board(shown, data.week(tuple(sorted(row.id for row in shown))))
    # What browsers call the offset is what is to be added for UTC.
    here = timezone(timedelta(minutes=-(st.context.timezone_offset or 0)))
    stale = data.settings().freshness.stale_after_seconds
    event = st.dataframe(
        styled(
            frame,
            flashes(snapshot, shown),
            datetime.fromtimestamp(now, here),
            stale,
            reachable=snapshot.failing_since is None,
        ),
        key="board",
        hide_index=True,
        placeholder=formats.UNKNOWN,
        height=560,
        row_height=32,
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "Rank": st.column_config.NumberColumn(width="small"),
            # Green when it rises, red when it falls.
            "Last 7 days": st.column_config.LineChartColumn(width="small", color="auto"),
            "Updated": st.column_config.Column(help="When CoinLore told this price, by the clock of this browser."),
        },
    )
    selected = event["selection"]["rows"]
    if selected and selected[0] < len(shown):
        st.switch_page(coin.as_page(), query_params={"coin": shown[selected[0]].id})
    st.caption(
        f"{len(chosen):,} of {len(rows):,} coins, {number} of {pages} pages."
        " A row's box, or shift and space, opens the coin."
        + (f" {len(snapshot.board.left):,} have left the ranking." if snapshot.board and snapshot.board.left else "")
    )
    # Made when somebody asks for it.
    st.download_button("Download as CSV", lambda: csv(rows), "market.csv", "text/csv", on_click="ignore")


def csv(rows: list[LatestPrice]) -> bytes:
    """The board as it is, all coins."""
    text: str = pd.DataFrame(rows).to_csv(index=False)
    return text.encode()


def show() -> None:
    """Everything below the title, once."""
    now = time.time()
    snapshot = data.reader().snapshot
    if not parts.show_state(snapshot, now) or snapshot.board is None:
        return
    rows = snapshot.board.rows
    # Words: a browser shows them while it still loads what tables take, and figures of Streamlit's own would take more.
    st.markdown(summary(snapshot.market, data.yesterday(), rows))
    show_movers(rows)
    show_board(snapshot, rows, now)


def page() -> None:
    """The page."""
    st.fragment(show, run_every=data.settings().dashboard.refresh_seconds)()


def as_page() -> Page:
    """For the navigation."""
    return st.Page(page, title="Market", url_path="market", default=True)
