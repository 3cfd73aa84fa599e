"""Packs trees into a tar whose bytes depend on nothing but names and contents, with its SHA-512 beside it.

The file appears under its name when it is complete, and its checksum after it: what has a checksum is whole.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path


def entries(trees: list[str], exclude: list[str]) -> Iterator[tuple[str, Path]]:
    """The files of all trees with their names in the archive, in the order of these names."""
    found = {
        (Path(target) / path.relative_to(source)).as_posix(): path
        for target, _, source in (tree.partition("=") for tree in trees)
        for path in Path(source).rglob("*")
        if path.is_file()
    }
    for name, path in sorted(found.items()):
        if not any(fnmatch.fnmatch(name, pattern) for pattern in exclude):
            yield name, path


def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """The entry without what differs from machine to machine."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = "root"
    info.mode = 0o755 if info.mode & 0o100 else 0o644
    return info


def main() -> None:
    """Pack what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="compressed where its name says so")
    parser.add_argument("--tree", action="append", required=True, metavar="TARGET=SOURCE")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="of a name in the archive")
    args = parser.parse_args()

    checksum = args.output.with_name(args.output.name + ".sha512")
    partial = args.output.with_name(args.output.name + ".partial")
    checksum.unlink(missing_ok=True)
    # Stored, not deflated: nearly all of it is jars, which are compressed already.
    compress = args.output.suffix in (".gz", ".tgz")
    with tarfile.open(partial, "w:gz", compresslevel=0) if compress else tarfile.open(partial, "w") as tar:
        for name, path in entries(args.tree, args.exclude):
            tar.add(path, name, recursive=False, filter=anonymous)
    with partial.open("rb") as stream:
        digest = hashlib.sha512()
        while block := stream.read(1 << 20):
            digest.update(block)
    partial.replace(args.output)
    partial.write_text(f"{digest.hexdigest()}  {args.output.name}\n")
    partial.replace(checksum)


if __name__ == "__main__":
    main()
