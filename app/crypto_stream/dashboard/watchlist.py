"""The coins that a viewer watches: kept in the address, so that a bookmark keeps them (`?watch=90,80`)."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import streamlit as st

KEY = "watch"
# An address is no place for more.
MOST = 100
MAX_ID_CHARS = 100


def parsed(text: str) -> list[str]:
    """The ids in an address, each once, in its order."""
    ids = (part.strip()[:MAX_ID_CHARS] for part in text.split(","))
    return list(dict.fromkeys(part for part in ids if part))[:MOST]


def coins() -> list[str]:
    """The ids. The navigation's links lose the address's, which gets them back from the session."""
    if KEY in st.query_params:
        st.session_state[KEY] = parsed(st.query_params[KEY])
    found: list[str] = st.session_state.get(KEY, [])
    _show(found)
    return found


def toggle(coin: str) -> None:
    """Watch a coin, or no longer."""
    before = coins()
    after = [other for other in before if other != coin] if coin in before else [*before, coin][-MOST:]
    st.session_state[KEY] = after
    _show(after)


def _show(ids: list[str]) -> None:
    """Put them into the address."""
    text = ",".join(ids)
    if text and st.query_params.get(KEY) != text:
        st.query_params[KEY] = text
    elif not text:
        st.query_params.pop(KEY, None)


def address(coin: str, watched: list[str]) -> str:
    """Of a coin's page, for a link that begins a session of its own."""
    query = {"coin": coin} | ({KEY: ",".join(watched)} if watched else {})
    return "/coin?" + urlencode(query, quote_via=quote)
