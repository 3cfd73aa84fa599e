"""Who is who in a Kafka cluster: the data of a host says it, and only new hosts are given an id."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# What the version in meta.properties says of how it was made.
MODES = {"0": "zookeeper", "1": "kraft"}


def slurped(results: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """What a loop of `slurp` read on each host: text, "" where there is no file, None where nobody answered."""
    return {
        result["item"]: None if result.get("unreachable") else base64.b64decode(result.get("content", "")).decode()
        for result in results
    }


def kafka_identity(
    stored: Mapping[str, str | None], mode: str, node_ids: Mapping[str, Any], cluster_id: str, ask: bool
) -> dict[str, Any]:
    """Settle the ids of a cluster's nodes, and its own.

    `stored` has each host's meta.properties, "" where it holds no data, and None where that is not known. `mode` is
    kraft or zookeeper, which data stays in. `node_ids` has the numbers that the inventory gives, `cluster_id` the
    cluster's id there, both empty for none. With `ask`, a cluster without an id of its own must be given one.

    Returns `nodes`, the number of each host, `cluster`, the id or nothing, and `problems`, one sentence each.
    """
    kept = {host: _property(text, "node.id") or _property(text, "broker.id") for host, text in stored.items() if text}
    clusters = {host: _property(text, "cluster.id") for host, text in stored.items() if text}
    wanted = {host: int(number) for host, number in node_ids.items() if str(number)}
    made = {host: MODES.get(_property(text, "version"), "unknown") for host, text in stored.items() if text}
    problems = [
        f"kafka_mode is {mode}, but the data of {host} was made in the mode {its}; it takes that mode, or no data."
        for host, its in made.items()
        if its != mode
    ]
    problems += [
        f"meta.properties of {host} does not say which node its data is of; is it whole?"
        for host, number in kept.items()
        if not number.isdigit()
    ]
    kept = {host: number for host, number in kept.items() if number.isdigit()}
    problems += [
        f"kafka_node_id of {host} is {wanted[host]}, but its data is that of node {number};"
        " it takes that number, or none, or an empty data directory."
        for host, number in kept.items()
        if host in wanted and wanted[host] != int(number)
    ]
    problems += [
        f"{host} cannot be reached, so which node it is can only be said by its kafka_node_id, which is not set."
        for host, text in stored.items()
        if text is None and host not in wanted
    ]
    nodes = wanted | {host: int(number) for host, number in kept.items()}
    free = (number for number in range(1, len(stored) + len(nodes) + 1) if number not in nodes.values())
    nodes |= {host: next(free) for host in sorted(stored) if host not in nodes}
    for number in sorted(set(nodes.values())):
        same = sorted(host for host, its in nodes.items() if its == number)
        if len(same) > 1:
            problems.append(
                f"{' and '.join(same)} are both node {number} of Kafka; each takes a kafka_node_id of its own."
            )

    first, *others = sorted(clusters) or [""]
    problems += [
        f"The data of {host} is of the cluster {clusters[host]}, that of {first} of {clusters[first]}."
        for host in others
        if clusters[host] != clusters[first]
    ]
    found = clusters.get(first, "")
    if found and cluster_id and cluster_id != found:
        problems.append(
            f"kafka_cluster_id is {cluster_id}, but the data of {first} is of {found}; it takes that, or nothing."
        )
    if ask and not found and not cluster_id:
        fresh = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22].replace("-", "A", 1)
        problems.append(
            f"A cluster of several hosts needs kafka_cluster_id. This one is new: kafka_cluster_id: {fresh}"
        )
    return {"nodes": nodes, "cluster": found or cluster_id, "problems": problems}


def _property(text: str, name: str) -> str:
    match = re.search(rf"^{re.escape(name)}=(.*)$", text, flags=re.MULTILINE)
    return match[1].strip() if match else ""


class FilterModule:
    """The filters, by the names that the role uses."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions."""
        return {"kafka_identity": kafka_identity, "slurped": slurped}
