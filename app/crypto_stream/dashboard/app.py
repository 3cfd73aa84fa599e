"""The script that Streamlit runs for each viewer: the pages, and what is wrong before there is any."""

from __future__ import annotations

import streamlit as st

from crypto_stream import config
from crypto_stream.dashboard import coin, data, market, pipeline


def main() -> None:
    """One run."""
    try:
        data.settings()
    except config.SettingsError as error:
        st.error("The settings are wrong; the dashboard cannot start.")
        st.code(str(error), language=None)
        return
    st.set_page_config(page_title="crypto-stream", page_icon="📈", layout="wide")
    st.navigation([market.as_page(), coin.as_page(), pipeline.as_page()], position="top").run()


if __name__ == "__main__":
    main()
