"""Write docs/variables.md, the table of every public variable, from the roles' argument specs and defaults.

With --check nothing is written, and a table that is not current fails.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "roles/common/filter_plugins"))

from values import PUBLIC  # noqa: E402 - it is no package

TABLE = ROOT / "docs/variables.md"
HEAD = """\
# Variables

Every variable that an inventory may set, by role: name, type, default, meaning. `make docs` writes this page from the
roles' `meta/argument_specs.yml` and `defaults/main.yml`.
"""


def default(value: Any) -> str:
    """A default as one line of YAML, in a table's cell."""
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=1000)
    text = " ".join(text.removesuffix("...\n").split()).replace("|", "\\|")
    return f"`{text}`" if text else "empty"


def kind(option: dict[str, Any]) -> str:
    """The type of a variable, or the values that it takes."""
    name = " or ".join(f"`{choice}`" for choice in option["choices"]) if "choices" in option else str(option["type"])
    return f"{name} of {option['elements']}" if "elements" in option else name


def section(role: Path) -> str:
    """The heading and table of one role; empty where it has no public variable."""
    specs: dict[str, Any] = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    entries = [specs[name] for name in PUBLIC if name in specs]
    options = {name: option for entry in entries for name, option in entry.get("options", {}).items()}
    if not options:
        return ""
    file = role / "defaults/main.yml"
    defaults: dict[str, Any] = (yaml.safe_load(file.read_text()) if file.exists() else None) or {}
    rows = []
    for name, option in options.items():
        value = default(defaults[name]) if name in defaults else "none"
        rows.append(f"| `{name}` | {kind(option)} | {value} | {option['description']} |")
    head = f"\n## {role.name}\n\n{entries[0]['short_description']}.\n\n| | Type | Default | |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + "\n"


def main() -> None:
    """Write the page, or check it."""
    page = HEAD + "".join(section(role) for role in sorted((ROOT / "roles").iterdir()))
    if "--check" not in sys.argv[1:]:
        TABLE.write_text(page)
    elif not TABLE.exists() or TABLE.read_text() != page:
        sys.exit("docs/variables.md is not what the roles say: make docs")


if __name__ == "__main__":
    main()
