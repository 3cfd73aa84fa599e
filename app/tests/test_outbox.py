from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from crypto_stream.messages import Record
from crypto_stream.outbox import Outbox
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

TS = 1_700_000_000_000
TOPIC = "crypto.prices"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.sqlite"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    outbox = Outbox(path, 10**9, 10**9)
    yield outbox
    outbox.close()


def record(key: str | None, value: str, ts: int = TS, topic: str = TOPIC) -> Record:
    return Record(topic, None if key is None else key.encode(), value.encode(), ts)


def waiting(outbox: Outbox, *in_flight: int, topic: str = TOPIC, limit: int = 100) -> list[str]:
    return [found.value.decode() for _, found in outbox.waiting(topic, set(in_flight), limit)]


def test_records_come_back_as_they_were_in_order(outbox: Outbox) -> None:
    records = [record("90", "a"), record(None, "b", ts=TS + 1), record("80", "c")]
    outbox.put(records, TS)
    assert [found for _, found in outbox.waiting(TOPIC, set(), 100)] == records
    assert len(outbox) == 3
    assert outbox.oldest_ts() == TS


def test_topics_are_apart_and_a_limit_is_kept(outbox: Outbox) -> None:
    outbox.put([record("x", "x", topic="other"), record("a", "a"), record("b", "b")], TS)
    assert waiting(outbox) == ["a", "b"]
    assert waiting(outbox, limit=1) == ["a"]
    assert waiting(outbox, topic="other") == ["x"]


def test_a_key_is_held_back_while_an_older_record_of_it_waits_or_flies(outbox: Outbox) -> None:
    outbox.put(
        [record("90", "old"), record("90", "new"), record("80", "other"), record(None, "x"), record(None, "y")], TS
    )
    assert waiting(outbox) == ["old", "other", "x", "y"]
    old = outbox.waiting(TOPIC, set(), 1)[0][0]
    assert waiting(outbox, old) == ["other", "x", "y"]
    outbox.remove([old])
    assert waiting(outbox) == ["new", "other", "x", "y"]


def test_what_is_too_much_costs_the_oldest(path: Path) -> None:
    outbox = Outbox(path, max_bytes=10_000, max_age_seconds=10**9)
    dropped = sum(outbox.put([record(None, f"{number:03}" + "x" * 47)], TS) for number in range(300))
    assert dropped > 0
    assert dropped + len(outbox) == 300
    assert waiting(outbox, limit=1000)[-1].startswith("299")
    assert waiting(outbox, limit=1000)[0].startswith(f"{dropped:03}")
    assert len(outbox) * 50 <= 10_000


def test_what_is_too_old_goes_first(path: Path) -> None:
    outbox = Outbox(path, max_bytes=10**9, max_age_seconds=60)
    outbox.put([record(None, "old", ts=TS), record(None, "young", ts=TS + 50_000)], TS)
    assert outbox.put([record(None, "new", ts=TS + 61_000)], TS + 61_000) == 1
    assert waiting(outbox) == ["young", "new"]


def test_an_acknowledgement_of_something_dropped_is_no_error_and_numbers_are_not_used_again(path: Path) -> None:
    outbox = Outbox(path, max_bytes=10**9, max_age_seconds=1)
    outbox.put([record(None, "a")], TS)
    ((number, _),) = outbox.waiting(TOPIC, set(), 1)
    assert outbox.put([record(None, "b", ts=TS + 5000)], TS + 5000) == 1
    outbox.remove([number])
    assert waiting(outbox) == ["b"]
    ((last, _),) = outbox.waiting(TOPIC, set(), 1)
    outbox.remove([last])
    outbox.put([record(None, "c", ts=TS + 5000)], TS + 5000)
    ((fresh, _),) = outbox.waiting(TOPIC, set(), 1)
    assert fresh > last


def raise_late() -> None:
    raise OSError("late")


def test_all_of_a_page_or_nothing(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        outbox.put([record(None, "a"), record(None, "b", ts=None)], TS)  # type: ignore[arg-type]
    assert (len(outbox), waiting(outbox)) == (0, [])
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "oldest_ts", raise_late)
        with pytest.raises(OSError, match="late"):
            outbox.put([record(None, "a")], TS)
    assert (len(outbox), waiting(outbox)) == (0, [])
    outbox.put([record(None, "b")], TS)
    assert waiting(outbox) == ["b"]


def test_a_new_process_finds_what_the_last_one_left(path: Path) -> None:
    first = Outbox(path, 10**9, 10**9)
    first.put([record("90", "a"), record("80", "b")], TS)
    first.remove([first.waiting(TOPIC, set(), 1)[0][0]])
    first.close()
    second = Outbox(path, 10**9, 10**9)
    assert (len(second), waiting(second)) == (1, ["b"])


def test_a_kill_loses_nothing_that_was_put(path: Path) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from crypto_stream.messages import Record\n"
        "from crypto_stream.outbox import Outbox\n"
        "outbox = Outbox(Path(sys.argv[1]), 10**9, 10**9)\n"
        "number = 0\n"
        "while True:\n"
        "    outbox.put([Record('t', None, b'%d' % number, 0)] * 50, 0)\n"
        "    number += 1\n"
        "    print(number, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    said += [int(line) for line in process.stdout.read().split()]
    process.wait()
    outbox = Outbox(path, 10**9, 10**9)
    assert len(outbox) % 50 == 0
    assert said[-1] <= len(outbox) // 50 <= said[-1] + 1
    assert outbox.damaged is None


def test_a_damaged_file_is_set_aside_and_a_new_one_begun(path: Path) -> None:
    whole = Outbox(path, 10**9, 10**9)
    whole.put([record(None, "x" * 1000) for _ in range(100)], TS)
    whole.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    outbox = Outbox(path, 10**9, 10**9)
    assert outbox.damaged is not None
    assert outbox.damaged.exists()
    outbox.put([record(None, "b")], TS)
    assert waiting(outbox) == ["b"]


def test_a_place_that_cannot_be_written_is_an_error_and_no_damage(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        Outbox(tmp_path / "missing" / "outbox", 10**9, 10**9)


class Model(RuleBasedStateMachine):
    """The same as a plain list, whatever is done to it."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "outbox"
        self.outbox = Outbox(self.path, 10**9, 10**9)
        self.model: dict[int, Record] = {}

    @rule(keys=st.lists(st.sampled_from(["1", "2", "3", None]), max_size=5))
    def put(self, keys: list[str | None]) -> None:
        records = [record(key, f"{key}/{number}") for number, key in enumerate(keys)]
        before = max(self.model, default=0)
        self.outbox.put(records, TS)
        rows = sqlite3.connect(self.path).execute("SELECT number FROM outbox ORDER BY number").fetchall()
        fresh = [number for (number,) in rows if number not in self.model]
        assert all(number > before for number in fresh)
        self.model |= dict(zip(fresh, records, strict=True))

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = data.draw(st.lists(st.sampled_from([0, *self.model]), max_size=3))
        self.outbox.remove(gone)
        self.model = {number: kept for number, kept in self.model.items() if number not in gone}

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self.outbox = Outbox(self.path, 10**9, 10**9)

    @invariant()
    def same(self) -> None:
        assert len(self.outbox) == len(self.model)
        seen: set[bytes] = set()
        expected = []
        for number, kept in sorted(self.model.items()):
            if kept.key is None or kept.key not in seen:
                expected.append((number, kept))
            if kept.key is not None:
                seen.add(kept.key)
        assert self.outbox.waiting(TOPIC, set(), 1000) == expected

    def teardown(self) -> None:
        self.outbox.close()
        self.directory.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
