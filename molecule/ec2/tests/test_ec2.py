"""Making instances, finding them, and removing them again. The tests follow one another as a user's steps do."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, TypeAlias

import pytest
import yaml
from cloud import ADDRESSES, NEWEST, REGION, Cloud
from sandbox import ROOT

# One instance carries what the sample of one host does: everything but the simulator.
GROUPS = set(yaml.safe_load((ROOT / "inventories/sample/one.yml").read_text())["all"]["children"])
Refusal: TypeAlias = CompletedProcess[str]
FROM_OUTSIDE = {("tcp", 22, 22, "203.0.113.7/32"), ("tcp", 8501, 8501, "203.0.113.7/32")}


def members(inventory: dict[str, Any]) -> dict[str, list[str]]:
    """The groups of an inventory that site.yml knows."""
    return {name: sorted(group["hosts"]) for name, group in inventory.items() if name in GROUPS}


def rules(cloud: Cloud) -> set[tuple[str, int, int, str]]:
    """Protocol, ports and source of everything that may come in, of the one group that the instances have."""
    (group_id,) = {group["GroupId"] for instance in cloud.instances() for group in instance["SecurityGroups"]}
    (group,) = cloud.api.describe_security_groups(GroupIds=[group_id])["SecurityGroups"]
    found = set()
    for permission in group["IpPermissions"]:
        assert permission["Ipv6Ranges"] == permission["PrefixListIds"] == []
        sources = [item["CidrIp"] for item in permission["IpRanges"]]
        sources += ["itself" if item["GroupId"] == group_id else "another" for item in permission["UserIdGroupPairs"]]
        found |= {
            (permission["IpProtocol"], permission["FromPort"], permission["ToPort"], source) for source in sources
        }
    return found


def nothing_is_left(cloud: Cloud) -> None:
    """Nothing but what was there before: a security group that each network has."""
    assert cloud.instances("pending", "running", "shutting-down", "stopping", "stopped") == []
    assert {group["GroupName"] for group in cloud.api.describe_security_groups()["SecurityGroups"]} == {"default"}
    assert cloud.api.describe_key_pairs()["KeyPairs"] == []
    assert cloud.api.describe_volumes()["Volumes"] == []


WRONG: dict[str, tuple[dict[str, Any], list[str]]] = {
    "nothing given": (
        {"ec2_region": "", "ec2_allowed_from": "", "ec2_public_key_file": "/nowhere/id.pub", "ec2_count": 3},
        [
            "ec2_region is ''; it takes a region such as eu-central-1: export AWS_REGION",
            "ec2_allowed_from is ''; it takes the IPv4 address that you come from",
            "ec2_public_key_file is '/nowhere/id.pub', which does not exist",
            "ec2_private_addresses has 2 for 3 instances",
        ],
    ),
    "everybody": (
        {
            "ec2_region": "europe",
            "ec2_allowed_from": "0.0.0.0/0",
            "ec2_public_key_file": str(ROOT / "README.md"),
            "ec2_groups": ["kafak"],
        },
        [
            "ec2_region is 'europe'",
            "ec2_allowed_from is '0.0.0.0/0'",
            "README.md', which holds no public ed25519 or RSA key",
            "ec2_groups has kafak; it takes of kafka_controller, kafka",
        ],
    ),
    "misspelt": (
        {"ec2_count": 0, "ec2_tpye": "t3.large"},
        ["ec2_tpye is no variable; the nearest one is ec2_type"],
    ),
    "none": (
        {"ec2_count": 0},
        ["ec2_count is 0; it takes a number from 1 to 100"],
    ),
    "no such choice": (
        {"ec2_state": "abesnt"},
        ["ec2_state must be one of: present, absent, got: abesnt"],
    ),
    "wrong region": ({"ec2_region": "eu-central-9"}, ["ec2_region is 'eu-central-9', where no EC2 answers"]),
    "missing credentials": (
        {},
        ["There are no AWS credentials: export AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"],
    ),
}
NO_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}


def refuse(cloud: Cloud, case: str) -> Refusal:
    return cloud.playbook(environment=NO_CREDENTIALS if case == "missing credentials" else {}, **WRONG[case][0])


@pytest.fixture(scope="module")
def refusals(cloud: Cloud) -> dict[str, Refusal]:
    """All of these runs: they change nothing, so they need not wait for one another."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(WRONG, pool.map(lambda case: refuse(cloud, case), WRONG), strict=True))


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_named_and_makes_nothing(cloud: Cloud, refusals: dict[str, Refusal], case: str) -> None:
    run = refusals[case]
    assert run.returncode != 0
    output = " ".join(run.stdout.split())
    assert [message for message in WRONG[case][1] if not re.search(message, output)] == [], run.stdout
    assert "changed=0" in output
    nothing_is_left(cloud)


def test_a_type_that_the_region_does_not_have(cloud: Cloud) -> None:
    run = cloud.playbook(ec2_type="t3.medum")
    assert run.returncode != 0
    expected = f"EC2 makes no instance of ec2_type 't3.medum' in ec2_region '{REGION}': "
    assert expected in " ".join(run.stdout.split())
    assert cloud.instances() == []


def test_ssh_that_never_answers(cloud: Cloud) -> None:
    """The instance is there; running the playbook again goes on from it."""
    run = cloud.playbook(_ec2_ssh_port=1, ec2_ssh_timeout_seconds=2)
    assert run.returncode != 0
    (instance,) = cloud.instances()
    expected = (
        f"Instance crypto-stream-1 ({instance['InstanceId']}) runs, but ssh did not answer at 127.0.0.10 within 2 s."
    )
    assert expected in " ".join(run.stdout.split())


def test_what_one_instance_is(cloud: Cloud) -> None:
    (instance,) = cloud.instances()
    assert instance["ImageId"] == NEWEST
    assert instance["InstanceType"] == "t3.medium"
    assert instance["KeyName"] == "crypto-stream"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert tags == {"Name": "crypto-stream-1", "crypto-stream": "crypto-stream"}
    (volume,) = cloud.api.describe_volumes()["Volumes"]
    assert [attachment["InstanceId"] for attachment in volume["Attachments"]] == [instance["InstanceId"]]
    assert (volume["VolumeType"], volume["Size"], volume["Encrypted"]) == ("gp3", 30, True)
    assert rules(cloud) == FROM_OUTSIDE


def test_one_instance_carries_everything(cloud: Cloud) -> None:
    inventory = cloud.inventory()
    assert members(inventory) == {name: ["crypto-stream-1"] for name in GROUPS}
    assert "simulator" not in inventory
    variables = inventory["_meta"]["hostvars"]["crypto-stream-1"]
    assert variables["ansible_host"] == variables["common_address"] == ADDRESSES[0]
    assert (variables["ansible_user"], variables["ansible_become"]) == ("ubuntu", True)


def test_a_second_instance(cloud: Cloud) -> None:
    # As -e ec2_count=2 on the command line is.
    run = cloud.playbook(ec2_count="2", ec2_private_addresses=",".join(ADDRESSES))
    assert run.returncode == 0, run.stdout
    assert "crypto-stream-2: ssh ubuntu@127.0.0.11, dashboard http://127.0.0.11:8501" in run.stdout
    assert {instance["PrivateIpAddress"] for instance in cloud.instances()} == set(ADDRESSES)
    assert rules(cloud) == FROM_OUTSIDE | {("tcp", 0, 65535, "itself")}


def test_an_instance_that_was_replaced(cloud: Cloud) -> None:
    """The other one stays as it is."""
    before = {each["PrivateIpAddress"]: each for each in cloud.instances()}
    lost = before[ADDRESSES[1]]["InstanceId"]
    cloud.api.terminate_instances(InstanceIds=[lost])
    run = cloud.playbook(ec2_count=2)
    assert run.returncode == 0, run.stdout
    after = {each["PrivateIpAddress"]: each for each in cloud.instances()}
    assert after[ADDRESSES[0]] == before[ADDRESSES[0]]
    assert after[ADDRESSES[1]]["InstanceId"] != lost
    assert set(cloud.inventory()["_meta"]["hostvars"]) == {"crypto-stream-1", "crypto-stream-2"}


def test_again_changes_nothing(cloud: Cloud) -> None:
    """Nor does it take away a tag that somebody has added."""
    second = next(each["InstanceId"] for each in cloud.instances() if each["PrivateIpAddress"] == ADDRESSES[1])
    tags = [{"Key": "crypto-stream-groups", "Value": "spark_worker, dashboard"}]
    cloud.api.create_tags(Resources=[second], Tags=tags)
    run = cloud.playbook(ec2_count=2)
    assert run.returncode == 0, run.stdout
    assert "changed=0" in run.stdout


def test_the_key_of_instances_is_not_replaced(cloud: Cloud, tmp_path: Path) -> None:
    """They would go on with the old one, which nobody would find again by the pair's name."""
    another = tmp_path / "another"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(another)], check=True)
    (before,) = cloud.api.describe_key_pairs()["KeyPairs"]
    run = cloud.playbook(ec2_count=2, ec2_public_key_file=f"{another}.pub")
    assert run.returncode != 0
    expected = "which is not the key that the instances of crypto-stream were made with"
    assert expected in " ".join(run.stdout.split())
    assert cloud.api.describe_key_pairs()["KeyPairs"] == [before]


def test_groups_by_tag_of_what_runs(cloud: Cloud) -> None:
    """An instance that does not run is not in the inventory, and neither is somebody else's."""
    launch = {"ImageId": NEWEST, "MinCount": 1, "MaxCount": 1, "SubnetId": cloud.subnet}
    cloud.api.run_instances(**launch)
    tags = [{"Key": "crypto-stream", "Value": "crypto-stream"}, {"Key": "Name", "Value": "crypto-stream-3"}]
    (stopped,) = cloud.api.run_instances(**launch, TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])[
        "Instances"
    ]
    cloud.api.stop_instances(InstanceIds=[stopped["InstanceId"]])

    inventory = cloud.inventory()
    assert set(inventory["_meta"]["hostvars"]) == {"crypto-stream-1", "crypto-stream-2"}
    both = ["spark_worker", "dashboard"]
    one, two = "crypto-stream-1", "crypto-stream-2"
    assert members(inventory) == {name: [one, two] if name in both else [one] for name in GROUPS}


def test_no_instance_is_removed_alone(cloud: Cloud) -> None:
    run = cloud.playbook(ec2_count=2)
    assert run.returncode != 0
    assert "ec2_count is 2, and there are crypto-stream-3 besides." in " ".join(run.stdout.split())


def test_removal_leaves_nothing(cloud: Cloud) -> None:
    """It needs neither key nor address, and takes only what it has made."""
    run = cloud.playbook(
        environment={"AWS_ENDPOINT_URL": ""},
        ec2_endpoint_url=cloud.endpoint,
        ec2_state="absent",
        ec2_allowed_from="",
        ec2_public_key_file="/nowhere/id.pub",
    )
    assert run.returncode == 0, run.stdout
    (foreign,) = cloud.instances()
    cloud.api.terminate_instances(InstanceIds=[foreign["InstanceId"]])
    nothing_is_left(cloud)
