"""What the tests of all scenarios share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sandbox import UNITS, connect
from stream import Stream
from testinfra.host import Host


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "disturbs: stops or breaks something of the stack; runs after all others")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("disturbs") is not None)


@pytest.fixture(scope="session")
def host() -> Host:
    """The host, as root."""
    return connect(sudo=True)


@pytest.fixture(scope="session")
def operator() -> Host:
    """The host, as a user without privileges."""
    return connect(sudo=False)


@pytest.fixture(scope="session")
def stream(host: Host) -> Iterator[Stream]:
    stream = Stream(host)
    yield stream
    stream.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows what the host's journal said last."""
    report = yield
    if report.when == "call" and report.failed and "stream" in item.fixturenames:
        script = (
            "systemctl --no-pager list-units --all $@;"
            " for unit; do echo; echo $unit; journalctl --no-pager --quiet -n 12 -u $unit; done | cut -c1-240"
        )
        try:
            host = item.funcargs["host"] if "host" in item.funcargs else connect(sudo=True)
            text = host.run("sh -c %s sh " + " ".join(f"{unit}.service" for unit in UNITS), script).stdout
        except RuntimeError as error:
            text = f"The host cannot be reached: {error}"
        report.sections.append(("the host's journal", text))
    return report
