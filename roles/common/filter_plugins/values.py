"""What is wrong with the values of an inventory, one sentence each: what, what it got, and what it takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

# A JVM takes 512m or 2g, systemd 512M or 2G.
SIZE = re.compile(r"([1-9][0-9]*)([mMgG])")
HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
IPV4 = re.compile(
    r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
)
# What a process takes beside its heap: code, classes, threads and buffers.
BESIDE_HEAP_MB = 128


# Entry points whose options belong to an inventory; those of the others are what one role tells another.
PUBLIC = ("main", "preflight", "host")
# Roles whose prefix may well be that of a user's own variables, or of an inventory's.
GENERAL = ("app", "common", "image", "java", "mirror", "sandbox")


def megabytes(value: object) -> int:
    """512 of 512m or 512M, 2048 of 2g or 2G, 0 of anything else."""
    size = SIZE.fullmatch(str(value))
    return int(size[1]) * (1024 if size[2] in "gG" else 1) if size else 0


def value_problems(values: Mapping[str, Any], rules: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is wrong with the values that have rules.

    A rule is one of
      {least: 1, most: 10}          a number; either may be missing
      {port: true}                  a TCP port
      {heap: 64, below: OTHER}      a size for a JVM, this many MB at least, and below what the variable OTHER limits
      {limit: true}                 a size for systemd's MemoryMax
      {listens: true}               an IPv4 address of the host, or 0.0.0.0
      {host: TEXT}                  the name or the address of a host
      {like: REGEX, takes: TEXT}    anything that matches as a whole
    """
    problems = []
    for name, rule in rules.items():
        value = values[name]
        takes = next(check for kind, check in CHECKS.items() if kind in rule)(value, rule, values)
        if takes:
            shown = f"'{value}'" if re.search(r"\s", str(value)) or value == "" else value
            problems.append(f"{name} is {shown}; it takes {takes}.")
    return problems


def _number(value: Any, rule: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    least, most = rule.get("least"), rule.get("most")
    number = float(value)
    if (least is None or number >= least) and (most is None or number <= most):
        return ""
    return f"a number from {least} to {most}" if most is not None else f"a number of {least} or more"


def _port(value: Any, _rule: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    return "" if 1 <= int(value) <= 65535 else "a port from 1 to 65535"


def _heap(value: Any, rule: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    limit = str(values.get(rule["below"], rule["below"]))
    named = f"{rule['below']}, {limit}" if rule["below"] in values else limit
    if not re.fullmatch(r"[1-9][0-9]*[mg]", str(value)) or megabytes(value) < rule["heap"]:
        return f"a size such as 512m or 2g, {rule['heap']}m at least"
    return "" if not megabytes(limit) or megabytes(value) < megabytes(limit) else f"less than {named}"


def _limit(value: Any, _rule: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    return "" if re.fullmatch(r"[1-9][0-9]*[MG]", str(value)) else "a size such as 512M or 2G"


def _listens(value: Any, _rule: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    return "" if IPV4.fullmatch(str(value)) else "an IPv4 address of the host, or 0.0.0.0 for all of them"


def _host(value: Any, rule: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    return "" if HOST.fullmatch(str(value)) else str(rule["host"])


def _like(value: Any, rule: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    return "" if re.fullmatch(rule["like"], str(value)) else str(rule["takes"])


CHECKS: dict[str, Callable[[Any, Mapping[str, Any], Mapping[str, Any]], str]] = {
    "least": _number,
    "most": _number,
    "port": _port,
    "heap": _heap,
    "limit": _limit,
    "listens": _listens,
    "host": _host,
    "like": _like,
}


def role_specs(roles: str) -> dict[str, Any]:
    """The argument specs of each role in a folder, by entry point."""
    found = {}
    for path in Path(roles).glob("*/meta/argument_specs.yml"):
        found[path.parent.parent.name] = yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]
    return found


def name_problems(names: Iterable[str], specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names that an inventory sets and no role takes, although they look like it.

    `specs` has the argument specs of each role, by entry point; inventories set the options of those in PUBLIC.
    """
    options = {
        (role, entry): set(spec.get("options") or {})
        for role, entries in specs.items()
        for entry, spec in entries.items()
    }
    public = {name for (_, entry), some in options.items() if entry in PUBLIC for name in some}
    internal = {name for some in options.values() for name in some} - public
    own = tuple(f"{role}_" for (role, entry), some in options.items() if some and role not in GENERAL)
    problems = []
    names = set(names)
    for name in sorted(names - public):
        if f"_{name}" in names and name.startswith("endpoint_"):
            problems.append(f"{name} is computed from the groups; an inventory may not set it.")
        elif name in internal:
            problems.append(f"{name} is what one role tells another; an inventory may not set it.")
        elif near := get_close_matches(name, public, n=1, cutoff=0.0 if name.startswith(own) else 0.85):
            problems.append(f"{name} is no variable; the nearest one is {near[0]}.")
    return problems


def host_problems(ports: Mapping[str, int], taken: Mapping[str, str]) -> list[str]:
    """Ports of a host that two of its services want, or that something else listens on.

    `ports` maps what listens to its port, `taken` a port, as text, to the unit that has it now.
    """
    problems = []
    for name, port in ports.items():
        others = [other for other, its in ports.items() if other < name and its == port]
        problems += [f"{other} and {name} are both {port}; each takes a port of its own." for other in others]
        if str(port) in taken:
            problems.append(f"{name} is {port}, where {taken[str(port)]} listens already; it takes a free port.")
    return problems


def memory_problems(heaps: Mapping[str, Any], memory_mb: int) -> list[str]:
    """Whether all heaps of a host, and what their processes take beside them, fit into its memory."""
    needs = {name: megabytes(size) + BESIDE_HEAP_MB for name, size in heaps.items()}
    if sum(needs.values()) <= memory_mb:
        return []
    parts = ", ".join(f"{name} {heaps[name]}" for name in heaps)
    return [
        f"The host has {memory_mb} MB of memory, and what it carries needs {sum(needs.values())} MB: {parts}, and"
        f" {BESIDE_HEAP_MB}m beside each. Give it more memory, or fewer groups, or smaller heaps."
    ]


def address_problems(found: Mapping[str, str], own: str, own_addresses: Iterable[str]) -> list[str]:
    """Names or addresses of the stack's hosts that one of them cannot use.

    `found` has what `getent ahostsv4` printed for each: lines that begin with an address, or nothing. `own` is that of
    the host itself, which must be one of its own addresses, and none that only itself can reach.
    """
    problems = []
    for name, output in found.items():
        addresses = re.findall(r"^([0-9.]+) ", output, flags=re.MULTILINE)
        if not addresses:
            problems.append(
                f"common_address {name} does not resolve here; it takes a name that every host knows, or an address."
            )
        elif name == own and addresses[0].startswith("127."):
            problems.append(
                f"common_address {name} is {addresses[0]} here, where no other host reaches it; /etc/hosts says so."
            )
        elif name == own and addresses[0] not in own_addresses:
            problems.append(f"common_address {name} is {addresses[0]}, which is no address of this host.")
    return problems


class FilterModule:
    """The filters, by the names that the roles use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions."""
        return {
            "address_problems": address_problems,
            "megabytes": megabytes,
            "role_specs": role_specs,
            "value_problems": value_problems,
            "name_problems": name_problems,
            "host_problems": host_problems,
            "memory_problems": memory_problems,
        }
