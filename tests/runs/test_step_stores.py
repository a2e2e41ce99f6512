"""Both stores hold what a store has to, and the checks find stores that do not."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from fanwire.errors import Closed, ConfigError, Unavailable
from fanwire.runs import MemoryStepStore, SQLiteStepStore, StepRecord, StepStore
from fanwire.testing.step_stores import CHECKS, DURABLE_CHECKS, Check

RECORD = StepRecord("run", None, None, b"1")


def name(check: Check) -> str:
    return getattr(check, "__name__", "")


@pytest.mark.anyio
@pytest.mark.parametrize("check", CHECKS, ids=name)
async def test_memory(check: Check) -> None:
    await check(MemoryStepStore)


@pytest.mark.anyio
@pytest.mark.parametrize("check", [*CHECKS, *DURABLE_CHECKS], ids=name)
async def test_sqlite(check: Check, tmp_path: Path) -> None:
    await check(lambda: SQLiteStepStore(tmp_path / "steps.db"))


# ---------------------------------------------------------------- the checks can fail


class Broken:
    """A store with one defect."""

    def __init__(self, defect: str) -> None:
        self.defect = defect
        self.steps: dict[object, StepRecord] = {}

    def key(self, run_id: str, step_id: str) -> object:
        return (
            f"{run_id}:{step_id}"
            if self.defect == "joins ids"
            else run_id.lower() + "/" + step_id.lower()
            if self.defect == "ignores case"
            else (run_id, step_id)
        )

    async def load(self, run_id: str, step_id: str, /) -> StepRecord | None:
        return self.steps.get(self.key(run_id, step_id), RECORD if self.defect == "makes one up" else None)

    async def record(self, run_id: str, step_id: str, record: StepRecord, /) -> StepRecord:
        key = self.key(run_id, step_id)
        if self.defect == "truncates":
            record = record._replace(data=record.data[:1000])
        if self.defect == "overwrites":
            self.steps[key] = record
        if self.defect == "races":
            known = self.steps.get(key)
            await anyio.lowlevel.checkpoint()
            self.steps[key] = known or record
            return known or record
        kept = self.steps.setdefault(key, record)
        return record if self.defect == "tells its own" else kept

    async def forget(self, run_id: str, /) -> None:
        for key in list(self.steps):
            if self.defect == "forgets all" or (isinstance(key, tuple) and key[0] == run_id and self.defect != "forgets nothing"):
                del self.steps[key]


DEFECTS = {
    "makes one up": "unknown_steps_are_none",
    "truncates": "records_are_read_back",
    "overwrites": "the_first_record_stands",
    "tells its own": "the_first_record_stands",
    "races": "one_of_many_wins",
    "joins ids": "runs_and_steps_are_apart",
    "ignores case": "runs_and_steps_are_apart",
    "forgets all": "forgetting_drops_one_run",
    "forgets nothing": "forgetting_drops_one_run",
}


@pytest.mark.anyio
@pytest.mark.parametrize("defect", [*DEFECTS, "none"])
async def test_the_checks_find_defects(defect: str) -> None:
    found: list[str] = []
    for check in CHECKS:
        try:
            await check(lambda: Broken(defect))
        except AssertionError:
            found.append(name(check))
    assert found == [] if defect == "none" else DEFECTS[defect] in found


@pytest.mark.anyio
async def test_a_store_in_memory_is_not_durable() -> None:
    with pytest.raises(AssertionError, match="what another store sees"):
        await DURABLE_CHECKS[0](MemoryStepStore)


# ---------------------------------------------------------------- SQLite


@pytest.mark.anyio
async def test_several_stores_and_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "steps.db"
    program = (
        "import anyio, sys\nfrom fanwire.runs import SQLiteStepStore, StepRecord\n"
        "async def main():\n  store = SQLiteStepStore(sys.argv[1])\n"
        "  for n in range(50): print((await store.record('run', str(n), StepRecord('run', None, None, sys.argv[2].encode()))).data.decode())\n"
        "  await store.aclose()\nanyio.run(main)\n"
    )
    told: list[list[str]] = []

    async def attempt(number: int) -> None:
        result = await anyio.run_process([sys.executable, "-c", program, str(path), str(number)])
        told.append(result.stdout.decode().split())

    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(attempt, number)
    assert len(told[0]) == 50
    assert told[0] == told[1] == told[2]


@pytest.mark.anyio
async def test_a_store_is_opened_by_entering_it_and_closed_for_good(tmp_path: Path) -> None:
    async with SQLiteStepStore(str(tmp_path / "steps.db")) as store:
        assert repr(store) == f"<SQLiteStepStore {str(tmp_path / 'steps.db')!r}>"
        assert (tmp_path / "steps.db").exists()
        await store.record("run", "step", RECORD)
    with pytest.raises(Closed, match="is closed"):
        await store.load("run", "step")
    await store.aclose()


@pytest.mark.anyio
async def test_wrong_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, it is a text of some length, longer than a header" * 20)
    with pytest.raises(ConfigError, match="not a database of steps"):
        await SQLiteStepStore(tmp_path / "text").load("run", "step")
    with pytest.raises(Unavailable, match="cannot be reached: unable to open") as caught:
        await SQLiteStepStore(tmp_path / "missing" / "steps.db").load("run", "step")
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    with sqlite3.connect(tmp_path / "newer") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigError, match="newer fanwire"):
        async with SQLiteStepStore(tmp_path / "newer"):
            pass
    with pytest.raises(ConfigError, match="timeout must be positive"):
        SQLiteStepStore(tmp_path / "steps.db", timeout=0)


@pytest.mark.anyio
async def test_a_file_that_is_locked_for_too_long(tmp_path: Path) -> None:
    async with SQLiteStepStore(tmp_path / "steps.db", timeout=0.05) as store:
        other = sqlite3.connect(tmp_path / "steps.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            await store.record("run", "step", RECORD)
        other.close()
        assert await store.record("run", "step", RECORD) == RECORD


@pytest.mark.anyio
async def test_prune_drops_runs_by_their_newest_step(tmp_path: Path) -> None:
    async with SQLiteStepStore(tmp_path / "steps.db") as store:
        for run, step in (("old", "a"), ("old", "b"), ("mixed", "a"), ("mixed", "b")):
            await store.record(run, step, RECORD)
        other = sqlite3.connect(store.path)
        with other:
            other.execute("UPDATE fanwire_steps SET recorded_at = recorded_at - 7200 WHERE run_id = 'old' OR step_id = 'a'")
        other.close()
        assert await store.prune(timedelta(hours=1)) == 2
        assert await store.load("old", "b") is None
        assert await store.load("mixed", "a") == RECORD


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_store_opened_before_a_fork_works_in_the_child(tmp_path: Path) -> None:
    program = (
        "import anyio, os, sys\nfrom fanwire.runs import SQLiteStepStore, StepRecord\n"
        "store = SQLiteStepStore(sys.argv[1])\nrecord = StepRecord('run', None, None, b'1')\n"
        "async def both(name):\n  await store.record('run', name, record)\n  assert await store.load('run', 'parent') == record\n"
        "anyio.run(both, 'parent')\npid = os.fork()\n"
        "if not pid:\n  anyio.run(both, 'child')\n  os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "async def end():\n  assert await store.load('run', 'child') == record\n  await store.aclose()\n"
        "anyio.run(end)\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", program, tmp_path / "steps.db"], check=False, capture_output=True, timeout=30)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_store_is_usable_from_one_event_loop_after_another(tmp_path: Path) -> None:
    store: StepStore = SQLiteStepStore(tmp_path / "steps.db")
    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(store.record, "run", "step", RECORD, backend=backend) == RECORD
