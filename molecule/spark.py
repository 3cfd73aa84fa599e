"""Spark's web pages, through the one port that is published."""

from __future__ import annotations

from typing import Any

import httpx
from sandbox import port

# The first look at a page may take its time on a small host that is busy.
client = httpx.Client(timeout=60)


def master() -> str:
    """Address of the master's pages."""
    return f"http://127.0.0.1:{port('SPARK_UI_PORT', 8080)}"


def cluster() -> dict[str, Any]:
    """What the master says of itself, its workers and its applications."""
    return client.get(f"{master()}/json/").json()


def application_id() -> str:
    """The stream job, as the master calls it."""
    (application,) = cluster()["activeapps"]
    return application["id"]


def application() -> str:
    """Address of the stream job's own pages, through the master."""
    return f"{master()}/proxy/{application_id()}"
