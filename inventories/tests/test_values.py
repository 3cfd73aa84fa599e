"""What the roles refuse, and how they say it."""

from __future__ import annotations

from typing import Any

import pytest
from identity import kafka_identity
from pieces import carried, group_problems, roles_of
from values import address_problems, host_problems, memory_problems, name_problems, value_problems

HEAP = {"k_heap": {"heap": 128, "below": "k_max"}, "k_max": {"limit": True}}


@pytest.mark.parametrize(
    ("values", "rules", "expected"),
    [
        ({"hours": 1}, {"hours": {"least": 1, "most": 9}}, []),
        ({"hours": 9}, {"hours": {"least": 1, "most": 9}}, []),
        ({"hours": 10}, {"hours": {"least": 1, "most": 9}}, ["hours is 10; it takes a number from 1 to 9."]),
        ({"bytes": 20}, {"bytes": {"least": 4194304}}, ["bytes is 20; it takes a number of 4194304 or more."]),
        ({"port": 65535}, {"port": {"port": True}}, []),
        ({"port": 0}, {"port": {"port": True}}, ["port is 0; it takes a port from 1 to 65535."]),
        ({"port": 65536}, {"port": {"port": True}}, ["port is 65536; it takes a port from 1 to 65535."]),
        ({"k_heap": "256m", "k_max": "640M"}, HEAP, []),
        ({"k_heap": "1g", "k_max": "2G"}, HEAP, []),
        (
            {"k_heap": "64m", "k_max": "640M"},
            HEAP,
            ["k_heap is 64m; it takes a size such as 512m or 2g, 128m at least."],
        ),
        ({"k_heap": "1G", "k_max": "2G"}, HEAP, ["k_heap is 1G; it takes a size such as 512m or 2g, 128m at least."]),
        ({"k_heap": "640m", "k_max": "640M"}, HEAP, ["k_heap is 640m; it takes less than k_max, 640M."]),
        ({"k_heap": "1g", "k_max": "2 GB"}, HEAP, ["k_max is '2 GB'; it takes a size such as 512M or 2G."]),
        ({"d": "2g"}, {"d": {"heap": 64, "below": "512M"}}, ["d is 2g; it takes less than 512M."]),
        ({"at": "0.0.0.0"}, {"at": {"listens": True}}, []),
        (
            {"at": "nowhere"},
            {"at": {"listens": True}},
            ["at is nowhere; it takes an IPv4 address of the host, or 0.0.0.0 for all of them."],
        ),
        ({"rack": "a b"}, {"rack": {"like": "[a-z0-9]+", "takes": "a name"}}, ["rack is 'a b'; it takes a name."]),
        ({"rack": ""}, {"rack": {"like": "[a-z0-9]+", "takes": "a name"}}, ["rack is ''; it takes a name."]),
        ({"rack": "a1"}, {"rack": {"like": "[a-z0-9]+", "takes": "a name"}}, []),
    ],
)
def test_values(values: dict[str, Any], rules: dict[str, dict[str, Any]], expected: list[str]) -> None:
    assert value_problems(values, rules) == expected


SPECS = {
    "kafka": {"main": {"options": {"kafka_port": {}, "kafka_heap_size": {}}}},
    "common": {"main": {"options": {"common_address": {}}}, "unit": {"options": {"common_unit_early": {}}}},
    "app": {"preflight": {"options": {"app_market": {}}}},
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kafka_port", ""),
        ("kafak_port", "kafak_port is no variable; the nearest one is kafka_port."),
        ("kafka_heep", "kafka_heep is no variable; the nearest one is kafka_heap_size."),
        ("common_adress", "common_adress is no variable; the nearest one is common_address."),
        ("common_unit_early", "common_unit_early is what one role tells another; an inventory may not set it."),
        (
            "endpoint_cassandra_port",
            "endpoint_cassandra_port is computed from the groups; an inventory may not set it.",
        ),
        # Somebody else's.
        ("endpoint_of_mine", ""),
        ("app_name", ""),
        ("common_packages", ""),
        ("ansible_host", ""),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert name_problems([name, "_endpoint_cassandra_port"], SPECS) == ([expected] if expected else [])


def test_ports() -> None:
    ports = {"kafka_port": 9094, "the brokers' listener": 9094, "dashboard_port": 8501}
    assert host_problems(ports, {"22": "ssh.service"}) == [
        "kafka_port and the brokers' listener are both 9094; each takes a port of its own."
    ]
    assert host_problems({"dashboard_port": 22}, {"22": "ssh.service"}) == [
        "dashboard_port is 22, where ssh.service listens already; it takes a free port."
    ]


def test_memory() -> None:
    heaps = {"kafka_heap_size": "256m", "cassandra_heap_size": "2g"}
    assert memory_problems(heaps, 2560) == []
    assert memory_problems(heaps, 2559) == [
        "The host has 2559 MB of memory, and what it carries needs 2560 MB: kafka_heap_size 256m,"
        " cassandra_heap_size 2g, and 128m beside each. Give it more memory, or fewer groups, or smaller heaps."
    ]


def test_addresses() -> None:
    found = {
        "node1": "127.0.1.1       STREAM node1\n127.0.1.1       DGRAM  \n",
        "node2": "10.0.0.12       STREAM node2\n",
        "node3": "",
    }
    assert address_problems(found, "node1", ["10.0.0.11"]) == [
        "common_address node1 is 127.0.1.1 here, where no other host reaches it; /etc/hosts says so.",
        "common_address node3 does not resolve here; it takes a name that every host knows, or an address.",
    ]
    assert address_problems({"node2": found["node2"]}, "node2", ["10.0.0.12"]) == []
    assert address_problems({"node2": found["node2"]}, "node2", ["10.0.0.13"]) == [
        "common_address node2 is 10.0.0.12, which is no address of this host."
    ]


PIECES = {
    "kafka": {"kafka": ["kafka_controller", "kafka"]},
    "spark": {"spark-master": ["spark_master"], "spark-worker": ["spark_worker"]},
    "stream_job": {"crypto-stream-job": ["stream_job"]},
}
NEEDS = {
    "artifact": ["kafka", "spark", "app"],
    "java": ["kafka", "spark"],
    "spark": ["stream_job"],
    "app": ["stream_job"],
}


def test_what_a_host_carries() -> None:
    assert carried(PIECES, ["spark_worker", "others"]) == {"spark": ["spark-worker"]}
    assert carried(PIECES, ["others"]) == {}
    assert roles_of(["stream_job"], NEEDS) == ["artifact", "java", "spark", "app", "stream_job"]
    assert roles_of(["kafka", "spark"], NEEDS) == ["artifact", "java", "kafka", "spark"]


def test_groups() -> None:
    groups = {"kafka_controller": ["a", "b"], "kafka": ["a"], "stream_job": ["a", "b"]}
    allowed = {"kafka_controller": [1, 3], "stream_job": [1], "simulator": [0, 1], "dashboard": []}
    named = ["kafka_controller", "kafka", "cassandra", "stream_job", "simulator", "dashboard"]
    assert group_problems(named, allowed, groups) == [
        "The inventory has 2 hosts in the group kafka_controller; it takes 1 or 3.",
        "The inventory has no host in the group cassandra; it takes 1 or more.",
        "The inventory has 2 hosts in the group stream_job; it takes 1.",
    ]


def meta(node: int, cluster: str = "AAAAAAAAAAAAAAAAAAAAAA") -> str:
    """What Kafka writes beside its data."""
    return f"#\n#Thu Nov 26 04:29:00 UTC 2026\ncluster.id={cluster}\nversion=1\nnode.id={node}\n"


def test_new_nodes_get_free_numbers_in_any_order() -> None:
    new = kafka_identity({"b": "", "a": "", "c": ""}, "kraft", {"a": "", "b": "", "c": ""}, "x", ask=True)
    assert new == {"nodes": {"a": 1, "b": 2, "c": 3}, "cluster": "x", "problems": []}


def test_a_node_keeps_the_number_of_its_data() -> None:
    """The first broker is gone, another has come, and nobody is renumbered."""
    found = kafka_identity({"c1": meta(1), "b2": meta(3), "a9": "", "b3": meta(4)}, "kraft", {}, "", ask=True)
    assert found == {
        "nodes": {"c1": 1, "b2": 3, "b3": 4, "a9": 2},
        "cluster": "AAAAAAAAAAAAAAAAAAAAAA",
        "problems": [],
    }


@pytest.mark.parametrize(
    ("stored", "node_ids", "cluster", "expected"),
    [
        (
            {"a": "version=1\ncluster.id=AAAAAAAAAAAAAAAAAAAAAA\n"},
            {},
            "",
            "meta.properties of a does not say which node",
        ),
        ({"a": meta(1)}, {"a": "7"}, "", "kafka_node_id of a is 7, but its data is that of node 1"),
        ({"a": meta(1), "b": meta(1)}, {}, "", "a and b are both node 1 of Kafka"),
        ({"a": "", "b": ""}, {"a": 5, "b": "5"}, "x", "a and b are both node 5 of Kafka"),
        (
            {"a": "", "b": None},
            {},
            "x",
            "b cannot be reached, so which node it is can only be said by its kafka_node_id",
        ),
        (
            {"a": meta(1), "b": meta(2, "B" * 22)},
            {},
            "",
            "data of b is of the cluster BBBBBBBBBBBBBBBBBBBBBB, that of a of A",
        ),
        (
            {"a": meta(1)},
            {},
            "C" * 22,
            "kafka_cluster_id is CCCCCCCCCCCCCCCCCCCCCC, but the data of a is of AAAA",
        ),
        (
            {"a": "", "b": ""},
            {},
            "",
            "A cluster of several hosts needs kafka_cluster_id. This one is new: kafka_cluster_id: ",
        ),
    ],
)
def test_conflicts(stored: dict[str, str | None], node_ids: dict[str, Any], cluster: str, expected: str) -> None:
    (problem,) = kafka_identity(stored, "kraft", node_ids, cluster, ask=len(stored) > 1)["problems"]
    assert expected in problem


def test_one_host_makes_its_own_cluster() -> None:
    assert kafka_identity({"a": ""}, "kraft", {}, "", ask=False) == {"nodes": {"a": 1}, "cluster": "", "problems": []}


def test_an_unreachable_host_may_be_named() -> None:
    found = kafka_identity({"a": meta(1), "b": None}, "kraft", {"b": "2"}, "", ask=True)
    assert (found["nodes"], found["problems"]) == ({"a": 1, "b": 2}, [])


def test_data_stays_in_its_mode() -> None:
    zookeeper = "version=0\nbroker.id=3\ncluster.id=x\n"
    assert kafka_identity({"a": zookeeper}, "zookeeper", {}, "", ask=False) == {
        "nodes": {"a": 3},
        "cluster": "x",
        "problems": [],
    }
    for stored, mode, made in ((zookeeper, "kraft", "zookeeper"), (meta(1), "zookeeper", "kraft")):
        (problem,) = kafka_identity({"a": stored}, mode, {}, "", ask=False)["problems"]
        assert problem.startswith(f"kafka_mode is {mode}, but the data of a was made in the mode {made};")
