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

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: host_files
short_description: Write files and the folders they are in, in one call
description: >-
  Missing folders are made with mode 0755 and belong to root. Every file that differs is proved before the first of them
  is replaced. Check and diff mode are supported.
options:
  files:
    description: Absolute path of each file, and its content.
    type: dict
    required: true
  owner:
    description: Whose they are.
    type: str
    default: root
  group:
    description: Which group's.
    type: str
    default: root
  mode:
    description: Their mode, as octal text; empty for 0644, or 0755 where a file begins with "#!".
    type: str
    default: ""
  validate:
    description: A command that must succeed on a file, written as %s in it, before it takes the old one's place.
    type: str
    default: ""
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


def prepare(module: AnsibleModule, path: str, content: str) -> str:
    """A temporary file with this content, that has proved valid; ends the module where it is not."""
    above = next(folder for folder in Path(path).parents if folder.exists())
    if not above.is_dir():
        module.fail_json(msg=f"{path} cannot be written, and nothing was: {above} is no folder", paths=[])
    descriptor, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    if module.params["validate"]:
        command = [part.replace("%s", temporary) for part in shlex.split(module.params["validate"])]
        status, output, errors = module.run_command(command)
        if status:
            reason = (errors or output).strip().replace(temporary, path)
            module.fail_json(msg=f"{path} would be wrong, and nothing was written: {reason}", paths=[])
    return temporary


def replace(module: AnsibleModule, path: Path, temporary: str) -> None:
    """Put a prepared file in its place."""
    for folder in folders_to_make(path):
        folder.mkdir()
        folder.chmod(0o755)
    module.atomic_move(temporary, str(path))


def main() -> None:
    """Compare each file with what it shall be, prove those that differ, and write them."""
    module = QuietModule(
        argument_spec={
            "files": {"type": "dict", "required": True},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "mode": {"type": "str", "default": ""},
            "validate": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    files: dict[str, str] = module.params["files"]
    before = {path: Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None for path in files}
    differing = [path for path, content in files.items() if before[path] != content]
    diff: list[dict[str, str]] = [
        {"before_header": path, "after_header": path, "before": before[path] or "", "after": files[path]}
        for path in differing
    ]
    prepared = {} if module.check_mode else {path: prepare(module, path, files[path]) for path in differing}
    written: list[str] = []
    for name, content in files.items():
        path = Path(name)
        changed = name in differing
        if name in prepared:
            replace(module, path, prepared[name])
        if path.exists():
            mode = module.params["mode"] or ("0755" if content.startswith("#!") else "0644")
            wanted = {"mode": mode, "owner": module.params["owner"], "group": module.params["group"]}
            arguments = module.load_file_common_arguments(wanted, path=name)
            changed = module.set_fs_attributes_if_different(arguments, changed)
        if changed:
            written.append(name)
            if name not in differing:
                diff.append(
                    {"before_header": name, "after_header": name, "before": "owner, group or mode\n", "after": ""}
                )
    module.exit_json(changed=bool(written), paths=written, diff=diff)


if __name__ == "__main__":
    main()
