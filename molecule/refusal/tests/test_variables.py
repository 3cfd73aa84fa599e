"""What can be said about all variables without a host."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from sandbox import ROOT

ROLES = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/meta/argument_specs.yml"))


def load(path: Path) -> dict[str, object]:
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def options(role: str) -> set[str]:
    """All that a role's specifications name."""
    specs = load(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    return {name for spec in specs.values() for name in spec.get("options", {})}  # type: ignore[attr-defined]


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_specified(role: str) -> None:
    assert set(load(ROOT / f"roles/{role}/defaults/main.yml")) <= options(role)


@pytest.mark.parametrize("role", ROLES)
def test_an_inventory_can_override_each(role: str) -> None:
    """The group_vars beside the playbooks beat an inventory's, so nothing that is public may be in them."""
    beside = {name for path in ROOT.glob("playbooks/group_vars/all/*.yml") for name in load(path)}
    assert beside & options(role) == set()
