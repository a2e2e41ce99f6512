"""In Celery: a real worker that forks its processes, with a broker of files. What its tasks publish is seen by a subscription in the same process, since nothing else could see it there."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.untested import require

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")]

TASKS = """
from __future__ import annotations
import os, time
from pathlib import Path

from celery import Celery, signals
from fanwire import BlockingRealtime, Channel, errors, topic
from fanwire.runs import SQLiteStepStore

HERE = Path(__file__).parent
app = Celery("tasks", broker="filesystem://", backend=f"file://{HERE / 'results'}")
app.conf.update(
    broker_transport_options={
        "data_folder_in": str(HERE / "queue"), "data_folder_out": str(HERE / "queue"), "control_folder": str(HERE / "control"),
        "polling_interval": 0.05,
    },
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
)


class Room(Channel, name="room:{number}"):
    number: int
    a = topic(int)


room = Room(number=1)
rt = BlockingRealtime.from_url("memory://")  # opened by each process, at its first use
used = BlockingRealtime.from_url("memory://")
store = SQLiteStepStore(HERE / "steps.db")


@signals.worker_init.connect
def before_the_forks(**_: object) -> None:
    used.publish(room.a, -1)
    (HERE / "parent").write_text(f"{os.getpid()} {len(used.history(room.a))}")


@app.task
def publish(n: int) -> dict[str, object]:
    # Both processes take part: each waits until the other has begun.
    (HERE / f"pid-{os.getpid()}").touch()
    deadline = time.monotonic() + 30
    while len(list(HERE.glob("pid-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    found: dict[str, object] = {"pid": os.getpid(), "opened before": rt.stats().published > 0}
    for name, one in (("rt", rt), ("used", used)):
        with one.subscribe(room.a) as messages:
            one.publish(room.a, n)
            one.publish_many([room.a(n + i) for i in (1, 2)])
            found[name] = [messages.get(timeout=5).data for _ in range(3)]
    found["begins with"] = used.history(room.a)[0].data
    found["step"] = rt.run(f"run-{n}", steps=store).step.publish("once", room.a, n)
    return found
"""


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])}


@contextmanager
def worker(directory: Path) -> Generator[subprocess.Popen[bytes]]:
    """Run a worker with two processes."""
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool=prefork", "--concurrency=2", "--loglevel=INFO"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--without-gossip", "--without-mingle", "--without-heartbeat"],
            cwd=directory, env=environment(directory), stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def results(directory: Path, numbers: list[int]) -> list[dict[str, Any]]:  # Any: what the task returns
    """Have the tasks done, by a client in a process of its own, for Celery's globals are many."""
    code = f"""
    import json, tasks
    pending = [tasks.publish.delay(n) for n in {numbers}]
    print(json.dumps([task.get(timeout=60, interval=0.05) for task in pending]))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    try:
        done = subprocess.run(command, cwd=directory, env=environment(directory), capture_output=True, text=True, timeout=90, check=False)
    except subprocess.TimeoutExpired as error:
        raise AssertionError(f"no result in time\n{error.stderr!r}\n{(directory / 'log').read_text(encoding='utf-8')}") from error
    assert done.returncode == 0, f"{done.stderr}\n{(directory / 'log').read_text(encoding='utf-8')}"
    import json

    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_tasks_of_a_prefork_worker_publish_through_one_module_level_object(tmp_path: Path) -> None:
    require("celery", importlib.util.find_spec("celery") is not None, "the blocking façade in Celery")
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "tasks.py").write_text(TASKS, encoding="utf-8")
    numbers = [10, 20, 30, 40, 50, 60]
    with worker(tmp_path) as process:
        found = results(tmp_path, numbers)
        for number, result in zip(numbers, found, strict=True):
            assert result["rt"] == result["used"] == [number, number + 1, number + 2]
            assert result["step"] == number
        parent, kept = (tmp_path / "parent").read_text(encoding="utf-8").split()
        assert kept == "1"
        assert len({result["pid"] for result in found}) == 2, "both processes took part"
        assert int(parent) not in {result["pid"] for result in found}
        assert all(result["begins with"] != -1 for result in found), "what the parent has published is not in the children's brokers"
        for pid in {result["pid"] for result in found}:
            # Opened by the first task of a process, whichever that is, and used by the others.
            opened_before = [result["opened before"] for result in found if result["pid"] == pid]
            assert opened_before.count(False) == 1
        # Nothing of it holds up the end of the worker.
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert time.monotonic() - begin < 15
    log = (tmp_path / "log").read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert "never awaited" not in log
    assert "was destroyed" not in log
