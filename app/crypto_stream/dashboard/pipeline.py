"""The pipeline: each hop's state in `crypto-check`'s words, what to do next, and what was set aside."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time

import pandas as pd
import streamlit as st
from streamlit.navigation.page import Page

from crypto_stream import config
from crypto_stream.check import Hop
from crypto_stream.dashboard import data, formats
from crypto_stream.store import DeadLetter, StoreError


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
    st.caption(f"As of {formats.moment(time.time())}. {', '.join(versions())}")


def page() -> None:
    """The page."""
    st.caption("CoinLore → Kafka → Spark → Cassandra. Spark's own pages are at port 8080 of the host of its master.")
    st.fragment(show, run_every=data.CHECK_SECONDS)()


def as_page() -> Page:
    """For the navigation."""
    return st.Page(page, title="Pipeline", icon=":material/conversion_path:", url_path="pipeline")
