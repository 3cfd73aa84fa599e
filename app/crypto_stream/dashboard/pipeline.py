"""The pipeline: each hop's state in `crypto-check`'s words, what to do next, and what was set aside."""

from __future__ import annotations

import contextlib
import importlib.metadata
from urllib.parse import urlsplit

import pandas as pd
import streamlit as st
from streamlit.navigation.page import Page

from crypto_stream import config
from crypto_stream.check import Hop, Progress, Report
from crypto_stream.dashboard import data, formats
from crypto_stream.store import DeadLetter, StoreError

REFRESH_SECONDS = 10

# When, in epoch seconds, and how many rows each query had written by then.
Look = tuple[float, dict[str, float]]


def hops(found: list[Hop]) -> pd.DataFrame:
    """For display."""
    return pd.DataFrame(
        {
            "Hop": [hop.name for hop in found],
            "State": ["ok" if hop.ok else "BROKEN" for hop in found],
            "Age": [formats.UNKNOWN if hop.age_seconds is None else formats.age(hop.age_seconds) for hop in found],
            "Found": [hop.found for hop in found],
        }
    )


def queries(found: list[Progress], rates: dict[str, float]) -> pd.DataFrame:
    """For display; `rates` are rows a second, of those queries of which two looks know."""
    return pd.DataFrame(
        {
            "Query": [one.query for one in found],
            "Messages waiting": [one.waiting for one in found],
            "Seconds behind": [one.behind_seconds for one in found],
            "Rows a second": [rates.get(one.query) for one in found],
            "Rows written": [one.rows.get("written", 0) for one in found],
            "Refused": [one.rows.get("refused", 0) for one in found],
            "Too late": [one.rows.get("late", 0) for one in found],
            "Batches": [one.batches for one in found],
            "Last batch took, s": [one.batch_seconds for one in found],
        }
    ).astype(dict.fromkeys(["Rows a second", "Last batch took, s"], "float64"))


def rates(before: Look, now: Look) -> dict[str, float]:
    """Rows a second of each query between two looks; none of one that was started anew in between."""
    seconds = now[0] - before[0]
    grown = {query: rows - before[1][query] for query, rows in now[1].items() if query in before[1]}
    return {query: rows / seconds for query, rows in grown.items() if seconds > 0 and rows >= 0}


def show_queries(report: Report) -> None:
    """How far each query of the stream job is, and how fast since the look before."""
    if not report.queries:
        return
    now: Look = (report.seen_at, {one.query: one.rows.get("written", 0) for one in report.queries})
    last, before = st.session_state.get("looks", (now, now))
    if now[0] != last[0]:
        last, before = now, last
    st.session_state["looks"] = last, before
    st.subheader("The stream job's queries, since it started")
    frame = queries(report.queries, rates(before, last))
    style = frame.style.format(precision=0, thousands=",").format(
        precision=1, subset=["Seconds behind", "Rows a second", "Last batch took, s"]
    )
    st.dataframe(style, key="queries", hide_index=True, placeholder=formats.UNKNOWN)


def letters(found: list[DeadLetter]) -> pd.DataFrame:
    """For display."""
    return pd.DataFrame(
        {
            "Set aside": [formats.moment(letter.processed_ts / 1000) for letter in found],
            "Topic": [letter.topic for letter in found],
            "Partition": [letter.partition for letter in found],
            "Offset": [letter.offset for letter in found],
            "Reason": [letter.reason for letter in found],
            "Value": [letter.value for letter in found],
        }
    )


def versions() -> list[str]:
    """Of the application and of what it is made with, as far as they are installed here."""
    found = []
    for name in ("crypto-stream", "pyspark", "kafka-python", "cassandra-driver", "streamlit"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return found


def show() -> None:
    """Everything below the title, once."""
    try:
        report = data.report()
    except config.SettingsError as error:
        st.error("The settings of another service on this host are wrong.")
        st.code(str(error), language=None)
        return
    if report.ok:
        st.success("Data flows.")
    for hop in report.hops:
        if hop.name == report.first_broken:
            st.error(
                f"First broken hop: {hop.name}. Likely cause: {formats.plain(hop.cause or '')}. Look next: `{hop.look}`"
            )
    for warning in report.warnings:
        st.warning(formats.plain(warning))
    st.dataframe(hops(report.hops), key="hops", hide_index=True)
    show_queries(report)
    st.subheader("Set aside, yesterday and today")
    try:
        found = data.dead_letters()
    except StoreError as error:
        st.error("Cassandra did not answer. This page tries again by itself.")
        st.caption(formats.plain(str(error)))
    else:
        if found:
            st.dataframe(letters(found), key="letters", hide_index=True, height=300)
        else:
            st.info("Nothing was set aside.")
    disks = ", ".join(f"{formats.plain(disk.path)} {disk.used_percent:.0f} % full" for disk in report.disks)
    st.caption(f"As of {formats.moment(report.seen_at)}. Disks of this host: {disks}. {', '.join(versions())}")


def page() -> None:
    """The page."""
    host = urlsplit(st.context.url or "").hostname or "localhost"
    st.caption(
        "CoinLore → Kafka → Spark → Cassandra. Spark's own pages are at port 8080 of the host of its master:"
        f" [{host}:8080](http://{host}:8080)."
    )
    st.fragment(show, run_every=REFRESH_SECONDS)()


def as_page() -> Page:
    """For the navigation."""
    return st.Page(page, title="Pipeline", url_path="pipeline")
