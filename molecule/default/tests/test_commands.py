"""What an operator types, as a user without privileges."""

from __future__ import annotations

import json

import pytest
from testinfra.host import Host


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("kafka-topics.sh --list", "crypto.prices"),
        ("kafka-topics.sh --describe --topic crypto.prices", "PartitionCount: 2"),
        ("kafka-console-consumer.sh --topic crypto.prices --from-beginning --max-messages 1", '"price_usd"'),
        ("cqlsh -e 'select * from crypto.prices limit 5'", "(5 rows)"),
        ("nodetool status", "UN  127.0.0.1"),
        ("spark-submit --version", "version 3.5.1"),
        ("java -version", 'version "1.8.0_'),
        ("crypto-check", "Data flows."),
    ],
)
def test_command(operator: Host, command: str, expected: str) -> None:
    run = operator.run(command)
    assert run.rc == 0, run.stderr
    assert expected in run.stdout + run.stderr
    assert "warn" not in run.stderr.lower()


def test_the_check_for_programs(operator: Host) -> None:
    report = json.loads(operator.check_output("crypto-check --json"))
    assert report["ok"]
    assert [hop["name"] for hop in report["hops"] if not hop["ok"]] == []
