"""One coin, at an address of its own (`/coin?coin=90`): its price, its day, and its candles."""

from __future__ import annotations

import time
from dataclasses import dataclass

import streamlit as st
from streamlit.navigation.page import Page

from crypto_stream.dashboard import charts, data, formats, parts, watchlist
from crypto_stream.store import LatestPrice, StoreError
from crypto_stream.tables import DAY_SECONDS, INTERVALS

BITCOIN = "90"


@dataclass(frozen=True)
class Range:
    """How far back a chart goes, in seconds, and in candles of which length."""

    seconds: int
    interval: str


RANGES = {
    "1H": Range(3_600, "1m"),
    "1D": Range(DAY_SECONDS, "15m"),
    "7D": Range(7 * DAY_SECONDS, "1h"),
    "1M": Range(31 * DAY_SECONDS, "1h"),
    "1Y": Range(366 * DAY_SECONDS, "1d"),
}


def label(row: LatestPrice) -> str:
    """A coin among others, some of which have the same name."""
    return f"{row.name} ({row.symbol})" if row.symbol else f"{row.name} (id {row.id})"


def title(row: LatestPrice) -> str:
    """What the browser calls the page: the price and its change of a day, for whoever looks at another page."""
    change = "" if row.percent_change_24h is None else f"{formats.change(row.percent_change_24h)} "
    return f"{formats.price(row.price_usd)} {change}{row.name}"


def choose(rows: list[LatestPrice]) -> LatestPrice:
    """The coin of the address, or that which is chosen instead, which changes the address."""
    by_id = {row.id: row for row in rows}
    asked = st.query_params.get("coin", BITCOIN)
    current = asked if asked in by_id else BITCOIN if BITCOIN in by_id else rows[0].id
    if asked not in by_id and "coin" in st.query_params:
        st.warning(f"No coin with the id {formats.plain(asked[:50])} is on the board.")
    ids = list(by_id)
    chosen = st.selectbox(
        "Coin", ids, index=ids.index(current), format_func=lambda coin: label(by_id[coin]), label_visibility="collapsed"
    )
    if chosen != current:
        st.query_params["coin"] = chosen
    return by_id[chosen]


def show_figures(row: LatestPrice) -> None:
    """Price and changes, the low and high of the day, volume and cap."""
    price, low, high, volume, cap = st.columns(5)
    price.metric("Price", formats.price(row.price_usd), _delta(row.percent_change_24h))
    try:
        today = data.candles(row.id, "1d", DAY_SECONDS)
    except StoreError:
        today = []
    low.metric("Low, today (UTC)", formats.price(today[-1].low if today else None))
    high.metric("High, today (UTC)", formats.price(today[-1].high if today else None))
    volume.metric("Volume, 24 h", formats.amount(row.volume24_usd))
    cap.metric("Market cap", formats.amount(row.market_cap_usd))
    changes = {"1 h": row.percent_change_1h, "24 h": row.percent_change_24h, "7 d": row.percent_change_7d}
    rank = f"Rank {row.rank}. " if row.rank is not None else ""
    st.caption(rank + ", ".join(f"{name}: {formats.change(value)}" for name, value in changes.items()))


def _delta(change: float | None) -> str | None:
    return None if change is None else formats.change(change)


def show_chart(row: LatestPrice) -> None:
    """The candles of the range that is chosen."""
    ranges, scale, clock = st.columns([3, 1, 1])
    name = ranges.segmented_control("Range", list(RANGES), default="1D", key="range", label_visibility="collapsed")
    log = scale.toggle("Log scale", key="log")
    utc = clock.toggle("UTC", key="utc")
    chosen = RANGES[name or "1D"]
    try:
        candles = data.candles(row.id, chosen.interval, chosen.seconds)
    except StoreError as error:
        st.error("Cassandra did not answer for this coin. This page tries again by itself.")
        st.caption(formats.plain(str(error)))
        return
    if not candles:
        st.info(f"No candles of {formats.plain(row.name)} in this range yet.")
        return
    # Up to the end of the candle that forms.
    length = INTERVALS[chosen.interval]
    until = candles[-1].start_ts + length * 1000
    span = (until - chosen.seconds * 1000, until)
    prices, volumes = charts.candle_charts(candles, length, span, log=log, utc=utc)
    st.altair_chart(prices, width="stretch")
    st.caption("Volume of the 24 hours before, as CoinLore told it")
    st.altair_chart(volumes, width="stretch")
    st.caption(f"Candles of {chosen.interval}, in US dollars; a gap is a time without prices.")


def show() -> None:
    """Everything below the title, once."""
    now = time.time()
    snapshot = data.reader().snapshot
    if not parts.show_state(snapshot, now) or snapshot.board is None:
        return
    row = choose(snapshot.board.rows)
    # Here, because it is to change with each refresh.
    st.set_page_config(page_title=title(row))
    st.header(formats.plain(row.name) + (f" :gray[{formats.plain(row.symbol)}]" if row.symbol else ""))
    is_watched = row.id in watchlist.coins()
    st.button(
        "On the watchlist" if is_watched else "Watch",
        icon=":material/star:",
        type="primary" if is_watched else "secondary",
        on_click=watchlist.toggle,
        args=(row.id,),
    )
    age = now - row.ts / 1000
    if age > data.settings().freshness.stale_after_seconds:
        st.warning(f"This price is old: it was fetched {formats.age(age)}.")
    show_figures(row)
    show_chart(row)


def page() -> None:
    """The page."""
    st.fragment(show, run_every=data.settings().dashboard.refresh_seconds)()


def as_page() -> Page:
    """For the navigation."""
    return st.Page(page, title="Coin", url_path="coin")
