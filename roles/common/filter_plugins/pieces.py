"""What a host carries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any


def carried(pieces: Mapping[str, Mapping[str, Iterable[str]]], group_names: Iterable[str]) -> dict[str, list[str]]:
    """The pieces of a host that is in these groups, each with those of its units that the host runs."""
    found = {
        piece: [unit for unit, groups in units.items() if set(groups) & set(group_names)]
        for piece, units in pieces.items()
    }
    return {piece: units for piece, units in found.items() if units}


def roles_of(carried_here: Iterable[str], needs: Mapping[str, Iterable[str]]) -> list[str]:
    """The roles of a host that carries these pieces, each after those that it stands on."""
    found: list[str] = []

    def add(role: str) -> None:
        for need, others in needs.items():
            if role in others:
                add(need)
        if role not in found:
            found.append(role)

    for piece in carried_here:
        add(piece)
    return found


def group_problems(
    piece_groups: Iterable[str], piece_hosts: Mapping[str, list[int]], groups: Mapping[str, list[str]]
) -> list[str]:
    """Groups of the inventory with too many hosts, or too few."""
    problems = []
    for group in piece_groups:
        count = len(groups.get(group, []))
        allowed = piece_hosts.get(group)
        if allowed and count not in allowed:
            takes = " or ".join(str(number) for number in allowed)
            problems.append(f"The inventory has {count} hosts in the group {group}; it takes {takes}.")
        if allowed is None and not count:
            problems.append(f"The inventory has no host in the group {group}; it takes 1 or more.")
    return problems


class FilterModule:
    """The filters, by the names that playbooks and roles use."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions."""
        return {"carried": carried, "group_problems": group_problems, "roles_of": roles_of}
