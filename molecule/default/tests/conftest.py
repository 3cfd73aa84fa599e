"""What the tests of this scenario share."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="session")
def coins() -> int:
    """How many are polled, by the scenario's inventory."""
    values = yaml.safe_load(Path(__file__).parents[1].joinpath("inventory/group_vars/all.yml").read_text())
    return int(values["producer_coins"])
