"""What every page says about the state of what it shows."""

from __future__ import annotations

import streamlit as st

from crypto_stream.dashboard import data, formats
from crypto_stream.dashboard.data import Snapshot
from crypto_stream.store import LatestPrice


def show_state(snapshot: Snapshot, now: float) -> bool:
    """Say what is stale, old or absent, and since when; returns whether there is a board to show."""
    _show_outage(snapshot)
    if snapshot.board is None:
        if snapshot.failing_since is None:
            st.info("Reading the prices.")
        return False
    _show_ahead(snapshot.board.ahead, now)
    if not snapshot.board.rows:
        st.info("No prices yet. The first ones arrive within a minute after the stream was started.")
        return False
    newest = snapshot.board.newest_ts
    age = now - newest / 1000 if newest else 0
    is_stale = newest is None or age > data.settings().freshness.stale_after_seconds
    if snapshot.failing_since is None and is_stale:
        st.warning(
            f"No new prices for {formats.age(age).removesuffix(' ago')}. What is shown is old; "
            "`crypto-check` on the host, or the page Pipeline, tells which hop is broken."
        )
    state = "unknown" if snapshot.failing_since is not None else "stale" if is_stale else "live"
    colour = {"live": "green", "stale": "orange", "unknown": "gray"}[state]
    st.markdown(f":{colour}-badge[{state}] newest price {formats.age(age)}, {len(snapshot.board.rows):,} coins")
    return True


def _show_outage(snapshot: Snapshot) -> None:
    """Since when Cassandra does not answer, and of when what is still shown is."""
    since, read = snapshot.failing_since, snapshot.read_at
    if since is None:
        return
    kept = "" if read is None else f" What is shown was read at {formats.moment(read)}."
    st.error(
        f"Cassandra has not answered since {formats.moment(since)}, when it was asked first.{kept}"
        " This page tries again by itself."
    )
    st.caption(formats.plain(snapshot.error))


def _show_ahead(ahead: list[LatestPrice], now: float) -> None:
    """Prices of the future are a clock's fault, and no news."""
    if ahead:
        most = max(ahead, key=lambda row: row.ts)
        lead = formats.age(most.ts / 1000 - now).removesuffix(" ago")
        whose = "1 coin has a price that is" if len(ahead) == 1 else f"{len(ahead):,} coins have prices that are"
        st.warning(
            f"A wrong clock: {whose} ahead of this host's time ({formats.plain(most.name)} by {lead})."
            " They are shown with the others."
        )
