from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from crypto_stream import log


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    handlers, level = logging.root.handlers, logging.root.level
    logging.disable(logging.NOTSET)  # which `crypto-check` changes
    yield
    logging.root.handlers, logging.root.level = handlers, level
    structlog.reset_defaults()


def test_a_line_is_one_json_object_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure("producer").warning("poll_failed", reason="a\nb\x1b[2J", ts=5)
    logging.getLogger("some.library").warning("it %s", "warns")
    logging.getLogger("some.library").info("nothing of interest")
    first, second = capsys.readouterr().out.splitlines()
    assert "\x1b" not in first
    found = json.loads(first)
    assert {key: found[key] for key in ("service", "event", "level", "reason", "ts")} == {
        "service": "producer",
        "event": "poll_failed",
        "level": "warning",
        "reason": "a\nb\x1b[2J",
        "ts": 5,
    }
    assert found["at"].endswith("Z")
    assert json.loads(second)["event"] == "it warns"


def test_an_exception_is_in_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    logger = log.configure("job")
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("failed")
    (line,) = capsys.readouterr().out.splitlines()
    assert "ValueError: boom" in json.loads(line)["exception"]
