"""What can be said about all variables without a host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from values import PUBLIC

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/meta/argument_specs.yml"))


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text()) or {} if path.exists() else {}


def options(role: str, *, public: bool) -> dict[str, dict[str, Any]]:
    """What a role's specifications name: that an inventory may set, or that one role tells another, too."""
    specs = load(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    named = [spec.get("options") or {} for entry, spec in specs.items() if entry in PUBLIC or not public]
    return {name: option for some in named for name, option in some.items()}


def defaults(role: str) -> set[str]:
    return set(load(ROOT / f"roles/{role}/defaults/main.yml"))


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_specified(role: str) -> None:
    assert defaults(role) - options(role, public=False).keys() == set()


@pytest.mark.parametrize("role", ROLES)
def test_every_public_variable_has_a_default(role: str) -> None:
    assert options(role, public=True).keys() - defaults(role) == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_default_stands_once(role: str) -> None:
    assert [name for name, option in options(role, public=False).items() if "default" in option] == []


@pytest.mark.parametrize("role", ROLES)
def test_an_inventory_can_override_each(role: str) -> None:
    """The group_vars beside the playbooks beat an inventory's, so nothing that is public may be in them."""
    beside = {name for path in ROOT.glob("playbooks/group_vars/all/*.yml") for name in load(path)}
    assert beside & options(role, public=False).keys() == set()


def test_what_is_computed_from_the_groups_is_called_by_its_name() -> None:
    """Much of it is asked for on several hosts only, which few tests have."""
    defined = {name for path in ROOT.glob("playbooks/group_vars/all/*.yml") for name in load(path)}
    files = [path for folder in ("roles", "playbooks") for path in (ROOT / folder).rglob("*") if path.is_file()]
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        if path.suffix in (".yml", ".j2")
        for name in re.findall(r"\b_?(?:endpoint|piece|release)_[a-z_]+|\b_(?:pieces|releases)\b", path.read_text())
        # Of AWS's modules and of Cassandra's settings.
        if name not in defined | {"endpoint_url", "endpoint_snitch"}
    }
    assert wrong == set()
