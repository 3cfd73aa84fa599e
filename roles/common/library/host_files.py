#!/usr/bin/python
"""Write files and the folders they are in, in one call to the host.

template and copy take two calls for each file; a converge of this stack that changes nothing spent most of its time
on them (docs/performance.md).
"""

from __future__ import annotations

import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_files
short_description: Write files and the folders they are in, in one call
description: >-
  Files belong to root and have mode 0644, or 0755 where they begin with "#!". Missing folders are made with mode 0755.
  Check and diff mode are supported.
options:
  files:
    description: Absolute path of each file, and its content.
    type: dict
    required: true
  validate:
    description: A command that must succeed on a file, written as %s in it, before it takes the old one's place.
    type: str
"""
EXAMPLES = r"""
- name: Write two files
  host_files:
    files:
      /etc/kafka/server.properties: "node.id=1\n"
      /etc/kafka/kafka.env: "KAFKA_OPTS=-Xmx256m\n"
"""
RETURN = r"""
paths:
  description: The files that were written, or would be in check mode.
  type: list
  elements: str
  returned: always
"""


class QuietModule(AnsibleModule):
    """A module whose parameters are whole files, which are not for the host's log."""

    def _log_invocation(self) -> None:
        """Log nothing. no_log would hide the diff, too."""


def folders_to_make(path: Path) -> list[Path]:
    """The folders above `path` that are not there, outermost first."""
    return [folder for folder in reversed(path.parents) if not folder.exists()]


def attributes(module: AnsibleModule, path: Path, mode: str) -> dict[str, Any]:
    """What Ansible wants to know of a file or folder whose owner and mode it sets."""
    return module.load_file_common_arguments({"mode": mode, "owner": "root", "group": "root"}, path=str(path))


def write(module: AnsibleModule, path: Path, content: str) -> None:
    """Replace a file as a whole, once it has proved valid."""
    for folder in folders_to_make(path):
        folder.mkdir()
        module.set_fs_attributes_if_different(attributes(module, folder, "0755"), changed=True)
    descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    if module.params["validate"]:
        command = [part.replace("%s", temporary) for part in shlex.split(module.params["validate"])]
        status, output, errors = module.run_command(command)
        if status:
            module.fail_json(msg=f"{path} would be wrong: {(errors or output).strip()}")
    module.atomic_move(temporary, str(path))


def main() -> None:
    """Compare each file with what it shall be, and write those that differ."""
    module = QuietModule(
        argument_spec={
            "files": {"type": "dict", "required": True},
            "validate": {"type": "str"},
        },
        supports_check_mode=True,
    )
    paths: list[str] = []
    diff: list[dict[str, str]] = []
    for name, content in module.params["files"].items():
        path = Path(name)
        before = path.read_text(encoding="utf-8") if path.is_file() else None
        changed = before != content
        if changed:
            diff.append({"before_header": name, "after_header": name, "before": before or "", "after": content})
            if not module.check_mode:
                write(module, path, content)
        if path.exists():
            mode = "0755" if content.startswith("#!") else "0644"
            changed = module.set_fs_attributes_if_different(attributes(module, path, mode), changed)
        if changed:
            paths.append(name)
    module.exit_json(changed=bool(paths), paths=paths, diff=diff)


if __name__ == "__main__":
    main()
