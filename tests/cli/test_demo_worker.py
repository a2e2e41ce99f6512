"""The demo's worker as a process: it is killed for good and retried, whatever goes wrong with it is told in one line, and it never outlives its parent."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
from typer.testing import CliRunner

from fanwire import Realtime
from fanwire.cli import app as cli
from fanwire.cli.demo import DemoResult, WorkerFailed, WorkerProcess, run_demo
from fanwire.cli.demo_channel import Status, read_stamp, stamp
from fanwire.cli.demo_process import ending_of
from fanwire.cli.demo_worker import KILLED, Announcement, Job, Pipe, attempt
from fanwire.cli.document import make_document
from fanwire.cli.relay import terms_of
from fanwire.errors import PermissionDenied, Timeout, Unavailable
from fanwire_memory import MemoryTransport
from tests.cli.support import HALF, SHA256, TEXT, TOKENS, Notes, program
from tests.cli.terminal import CTRL_C, Terminal
from tests.planting import planting

DOCUMENT = make_document("text", TEXT.encode())
MEMORY = WorkerProcess("memory://")


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that nobody has waited for yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid: int) -> None:
    until = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < until, f"process {pid} still runs"
        time.sleep(0.01)


def workers(view: Notes) -> list[int]:
    """Return the processes that the view was told of."""
    return [int(found[1]) for who, text in view.notes if who == "worker" and (found := re.fullmatch(r"attempt \d runs in process (\d+)", text))]


def running(code: str) -> WorkerProcess:
    """Return a worker that runs a program in place of the real one."""
    return WorkerProcess("memory://", command=[sys.executable, "-c", code])


def patched(code: str) -> WorkerProcess:
    """Return the real worker, with something changed by a program before it."""
    return running(f"import fanwire.cli.demo_worker as worker\n{code}\nworker.main()")


async def demo(worker: WorkerProcess, transport: MemoryTransport | None = None, *, view: Notes | None = None, timeout: float = 10.0) -> DemoResult:
    async with Realtime(transport or MemoryTransport()) as rt:
        return await run_demo(DOCUMENT, rt, view or Notes(), worker, timeout=timeout)


# ---------------------------------------------------------------- it works


@pytest.mark.anyio
async def test_a_process_is_killed_half_way_and_another_one_goes_on() -> None:
    view = Notes()
    result = await demo(MEMORY, view=view)
    assert result.verdict == "passed"
    assert [(row.tokens, row.statuses, row.replayed, row.returncode) for row in result.attempts] == [(HALF, 3, 0, -signal.SIGKILL), (TOKENS, 2, 3, 0)]
    assert result.suppressed == 1
    both = HALF + TOKENS
    assert [(row.published, row.delivered, row.lost, row.repeats, row.durable_repeats) for row in result.rows] == [
        (4, 4, 0, None, 0),
        (both, both, 0, HALF, None),
        (both + 4, both + 4, 0, HALF, 0),
    ]
    assert [row.sha256 for row in result.rows] == [None, SHA256, SHA256]
    for row in result.rows:
        assert row.p50_ms is not None
        assert 0 < row.p50_ms < 10_000  # the two processes read one clock
    first, second = workers(view)
    assert len({first, second, os.getpid()}) == 3
    assert not alive(first)
    assert not alive(second)


@pytest.mark.anyio
async def test_a_message_lost_on_the_way_fails_it() -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=2 + 2 * HALF + 2 + 17, stored=False)
    result = await demo(MEMORY, transport)
    assert result.verdict == "failed"
    assert [(row.lost, row.announced, bool(row.problems)) for row in result.rows] == [(0, 1, False), (1, 1, True), (1, 1, True)]


def test_a_durable_message_without_its_key_is_seen_twice_and_fails_it() -> None:
    keyless = patched("import fanwire.runs.run as run; run._key = lambda run_id, step: None")
    result = anyio.run(demo, keyless)
    assert result.verdict == "failed"
    assert [row.durable_repeats for row in result.rows] == [1, None, 1]
    assert result.rows[0].problems == ("1 message of the durable part received again",)


def test_a_connection_that_breaks_meanwhile_costs_nothing() -> None:
    transport = MemoryTransport()
    transport.faults.lose_ack(1, skip=2 + 20)

    class Breaking(Notes):
        def note(self, who: str, text: str, /) -> None:
            super().note(who, text)
            if text.startswith("Half way"):
                transport.faults.disconnect()

    result = anyio.run(lambda: demo(MEMORY, transport, view=Breaking()))
    assert (result.verdict, [row.announced for row in result.rows]) == ("passed", [0, 0, 0])


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """A file that stands for a broker, and its transport, installed where only this process looks."""
    (tmp_path / "planted").mkdir()
    with planting(tmp_path / "planted", monkeypatch) as planter:
        planter.modules.append("spoolfan")
        shutil.copy(Path(__file__).with_name("spool.py"), planter.root / "spoolfan.py")
        planter.metadata("spoolfan", {"spool": "spoolfan:SpoolTransport"})
        yield tmp_path / "spool"


def read_lines(path: str) -> list[Any]:  # Any: JSON
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.mark.anyio
async def test_a_broker_of_several_processes_is_opened_by_the_worker_itself(spool: Path) -> None:
    url = f"spool://{spool}?password=hunter%32"
    async with Realtime.from_url(url) as rt:
        result = await run_demo(DOCUMENT, rt, Notes(), WorkerProcess(url))
    assert result.verdict == "passed"
    assert [row.durable_repeats for row in result.rows] == [0, None, 0]  # nobody but the receiving hub can have suppressed it
    messages = [json.loads(frame) for _, frame in read_lines(str(spool))]
    keys = [message["key"] for message in messages if message["topic"] == "status"]
    assert (len(keys), len(set(keys))) == (5, 4)
    openers = read_lines(f"{spool}.openers")
    assert len({opener["pid"] for opener in openers}) == 3
    for opener in openers:
        assert opener["password"] == "hunter2"
        assert not any("hunter" in argument for argument in opener["arguments"])


def test_it_imports_what_its_parent_may_import_and_nothing_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("anyio", "pydantic", "sqlite3"):
        (tmp_path / f"{name}.py").write_text("raise AssertionError('taken from the working directory')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert anyio.run(demo, MEMORY).verdict == "passed"


def test_it_needs_neither_typer_nor_rich() -> None:
    code = "import sys, fanwire.cli.demo_worker; print(sorted({'typer', 'rich', 'click'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---------------------------------------------------------------- it does not


def test_a_worker_that_cannot_be_started(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    for command, complaint in (
        ("/no/such/python", "the worker process cannot be started: '/no/such/python': No such file or directory"),
        (str(plain), f"the worker process cannot be started: {str(plain)!r}: Permission denied"),
        ("", "Python does not know the path of its own interpreter"),
    ):
        with pytest.raises(WorkerFailed) as caught:
            anyio.run(demo, WorkerProcess("memory://", command=[command]))
        assert complaint in str(caught.value)


@pytest.mark.anyio
async def test_a_worker_that_ends_at_once() -> None:
    with pytest.raises(WorkerFailed) as caught:
        await demo(running("import sys; print('to whom it may concern', file=sys.stderr); sys.exit('there is no such thing')"))
    assert str(caught.value) == "attempt 1 of the worker ended with exit code 1: there is no such thing"
    assert caught.value.__notes__ == ["Standard error of the worker:\nto whom it may concern\nthere is no such thing"]


def test_a_worker_that_says_what_is_no_announcement() -> None:
    with pytest.raises(WorkerFailed) as caught:
        anyio.run(demo, running("import sys; print('hello', flush=True); sys.exit(4)"))
    assert str(caught.value) == "attempt 1 of the worker ended with exit code 4: hello"


def test_a_worker_that_fails_unexpectedly() -> None:
    with pytest.raises(WorkerFailed) as caught:
        anyio.run(demo, patched("def fail(*args): print('stray'); raise ZeroDivisionError('planted')\nworker.split_tokens = fail"))
    assert str(caught.value) == "attempt 1 of the worker ended with exit code 1: ZeroDivisionError: planted"
    assert "stray\nTraceback (most recent call last):" in caught.value.__notes__[0]


def test_a_worker_that_is_killed_by_another() -> None:
    with pytest.raises(WorkerFailed, match=r"^attempt 1 of the worker was killed by SIGTERM$"):
        anyio.run(demo, running("import os, signal; os.kill(os.getpid(), signal.SIGTERM)"))
    with pytest.raises(WorkerFailed, match=r"was killed by SIGKILL after 0 tokens; it was to be killed half way, after \d"):
        anyio.run(demo, running("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))


def test_a_worker_that_is_killed_both_times() -> None:
    view = Notes()
    always = patched(
        "read = worker.Job.model_validate_json\nworker.Job.model_validate_json = lambda line: read(line).model_copy(update={'fatal': True})"
    )
    with pytest.raises(WorkerFailed) as caught:
        anyio.run(lambda: demo(always, view=view))
    complaint = f"attempt 2 of the worker was killed by SIGKILL after {HALF:,} tokens, as if the first one had not been enough; there is no other"
    assert str(caught.value) == complaint
    assert len(workers(view)) == 2


def test_a_worker_that_does_not_start_in_time(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    stuck = running(f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(Timeout, match=r"the worker process did not start within 0\.5 s"):
        anyio.run(lambda: demo(stuck, timeout=0.5))
    assert time.monotonic() - begin < 20
    if pid.exists() and (text := pid.read_text()):  # it got as far as that
        wait_until_gone(int(text))


@pytest.mark.slow
def test_a_worker_that_closes_its_output_and_goes_on() -> None:
    silent = running('import os, time; os.write(1, b\'{"kind": "started", "pid": 1}\\n\'); os.close(1); os.close(2); time.sleep(60)')
    with pytest.raises(WorkerFailed, match="attempt 1 of the worker did not end when it was done"):
        anyio.run(lambda: demo(silent, timeout=2))


@pytest.mark.anyio
async def test_an_error_of_the_broker_is_of_the_class_it_was() -> None:
    transport = MemoryTransport()
    transport.faults.refuse(PermissionDenied("the broker does not allow this"), skip=5)
    with pytest.raises(PermissionDenied, match=r"^the broker does not allow this$"):
        await demo(MEMORY, transport)


def test_an_error_of_the_store_is_of_the_class_it_was(tmp_path: Path) -> None:
    nowhere = f"read = worker.Job.model_validate_json\nworker.Job.model_validate_json = lambda line: read(line).model_copy(update={{'steps': '{tmp_path}/no/steps'}})"
    with pytest.raises(Unavailable, match="cannot be reached: unable to open database file"):
        anyio.run(demo, patched(nowhere))


@pytest.mark.slow
def test_a_broker_that_does_not_answer() -> None:
    transport = MemoryTransport()

    class Blocking(Notes):
        def note(self, who: str, text: str, /) -> None:
            super().note(who, text)
            if text == "Answering...":
                transport.faults.block()

    view = Blocking()
    with pytest.raises(Timeout, match="publishing took longer than 5 s: it was handed over, the outcome is unknown"):
        anyio.run(lambda: demo(MEMORY, transport, view=view, timeout=5))
    (pid,) = workers(view)
    assert not alive(pid)


def test_the_command_says_it_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "document.md"
    path.write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    result = CliRunner().invoke(cli.app, ["demo", "--json", "--input", str(path)])
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert json.loads(line) == {
        "code": "worker_failed",
        "message": "the worker process cannot be started: '/no/such/python': No such file or directory",
        "remedy": None,
        "retryable": False,
    }


# ---------------------------------------------------------------- nothing is left behind


@pytest.mark.anyio
async def test_a_worker_does_not_outlive_a_cancelled_demo() -> None:
    view = Notes()
    async with Realtime(MemoryTransport()) as rt:
        with anyio.CancelScope() as scope:

            class Cancelling(Notes):
                def note(self, who: str, text: str, /) -> None:
                    view.note(who, text)
                    if who == "tokens":
                        scope.cancel()

            await run_demo(DOCUMENT, rt, Cancelling(), MEMORY, rate=400)
    assert scope.cancelled_caught
    (pid,) = workers(view)
    assert not alive(pid)


@pytest.mark.parametrize(
    ("number", "group", "code", "said"),
    [
        pytest.param(signal.SIGINT, True, 130, "fanwire: interrupted\n", id="ctrl-c"),  # which a terminal sends to both
        pytest.param(signal.SIGINT, False, 130, "fanwire: interrupted\n", id="sigint"),
        pytest.param(signal.SIGTERM, False, 143, "fanwire: terminated\n", id="sigterm"),
        pytest.param(signal.SIGKILL, False, -signal.SIGKILL, "", id="sigkill"),
    ],
)
def test_a_worker_does_not_outlive_its_parent(file: Path, tmp_path: Path, number: signal.Signals, group: bool, code: int, said: str) -> None:
    command = program("demo", "-i", file, "--speed", "1")  # at one token a second it goes on thinking for minutes
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pid = 0
        try:
            while "Thinking" not in (line := process.stdout.readline()):
                assert process.poll() is None
                if found := re.search(r"attempt 1 runs in process (\d+)", line):
                    pid = int(found[1])
            assert alive(pid)
            assert pid != process.pid
            if group:
                os.killpg(process.pid, number)
            else:
                process.send_signal(number)
            assert process.wait(20) == code
        finally:
            process.kill()
        assert process.stderr.read() == said
    wait_until_gone(pid)
    if number != signal.SIGKILL:  # which leaves no time to clean up
        assert list((tmp_path / "temporary").iterdir()) == []


def test_ctrl_c_typed_at_a_terminal_ends_both(file: Path) -> None:
    with Terminal(program("demo", "-i", file, "--speed", "20")) as terminal:
        found = re.search(r"attempt 1 runs in process (\d+)", terminal.wait_for(r"attempt 1 runs in process \d+"))
        assert found is not None
        terminal.type(CTRL_C)
        code, text = terminal.wait()
    assert code == 130
    assert text.rstrip().endswith("fanwire: interrupted")
    assert "Traceback" not in text
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")  # the cursor is back
    wait_until_gone(int(found[1]))


def test_an_output_that_closes_ends_the_worker_too(file: Path) -> None:
    with subprocess.Popen(program("demo", "-i", file, "--speed", "400"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while not (found := re.search(r"attempt 1 runs in process (\d+)", process.stdout.readline())):
            assert process.poll() is None
        process.stdout.close()
        try:
            assert process.wait(20) == 1
        finally:
            process.kill()
        assert process.stderr.read() == ""
    wait_until_gone(int(found[1]))


# ---------------------------------------------------------------- the worker's side, in this process


def test_a_job_without_a_process(tmp_path: Path) -> None:
    to_worker, from_parent = os.pipe()
    to_parent, from_worker = os.pipe()
    orphaned = threading.Event()
    job = Job(
        attempt=2,
        run_id="run",
        steps=str(tmp_path / "steps.db"),
        thread_id="1",
        document="text",
        text="a b",
        rate=float("inf"),
        timeout=float("inf"),
        fatal=False,
        terms=terms_of(MemoryTransport().capabilities),
    )
    heard: list[Announcement] = []
    relayed: list[str] = []

    def parent() -> None:
        with os.fdopen(to_parent, "rb") as lines:
            for line in lines:
                if line.startswith(b"["):
                    batch = json.loads(line)
                    relayed.extend(f"{message['topic']}: {json.loads(message['data']).get('text', '')}" for message in batch)
                    os.write(
                        from_parent, json.dumps({"results": [{"cursor": None, "duplicate": False}] * len(batch), "raised": None}).encode() + b"\n"
                    )
                else:
                    heard.append(Announcement.model_validate_json(line))

    os.write(from_parent, job.model_copy(update={"rate": 0.0}).model_dump_json().encode() + b"\n")
    thread = threading.Thread(target=parent)
    thread.start()
    with os.fdopen(from_worker, "wb") as writing:
        assert attempt(Pipe(to_worker, writing, orphaned.set))
    thread.join(20)
    os.close(from_parent)
    assert orphaned.wait(20)  # the parent has closed its end
    os.close(to_worker)
    assert relayed == ["status: ", "status: ", "tokens: a", "status: ", "tokens:  b", "status: "]
    assert [said.kind for said in heard] == ["started", *_STORY, "done"]
    assert heard[0].pid == os.getpid()
    assert heard[-3].status == Status(number=3, message="Done: 2 tokens", tokens=2, sha256=hashlib.sha256(b"a b").hexdigest(), last=True)


_STORY = ["status", "recorded", "recorded", "status", "recorded", "tokens", "status", "recorded", "tokens", "status", "recorded"]


def test_a_job_that_fails_says_why(tmp_path: Path) -> None:
    to_worker, from_parent = os.pipe()
    job = Job(attempt=1, run_id="run", steps="", thread_id="1", document="x", text="x", rate=0, timeout=1, fatal=True, url="nonsense://host")
    os.write(from_parent, job.model_dump_json().encode() + b"\n")
    told = tmp_path / "told"
    with told.open("wb") as writing:
        assert not attempt(Pipe(to_worker, writing, lambda: None))
    os.close(from_parent)
    started, failed = (Announcement.model_validate_json(line) for line in told.read_bytes().splitlines())
    assert (started.kind, failed.kind, failed.code) == ("started", "failed", "unknown_transport")
    assert "nonsense://" in failed.text


def test_what_a_job_holds_stays_what_it_is_on_the_way() -> None:
    job = Job(attempt=1, run_id="r", steps="", thread_id="1", document="\udcff", text="\ud83e", rate=0, timeout=1, fatal=True)
    for timeout in (0.1, float("inf")):
        sent = job.model_copy(update={"timeout": timeout, "document": "d", "text": "a\x00\u2028\U0001f9f5\n", "url": "x://:secret@h"})
        assert Job.model_validate_json(sent.model_dump_json()) == sent
        assert "secret" not in repr(sent)
        assert "\U0001f9f5" not in repr(sent)


def test_stamps() -> None:
    before = time.perf_counter_ns()
    found = read_stamp(stamp(2))
    assert found is not None
    assert found[0] == 2
    assert before <= found[1] <= time.perf_counter_ns()
    for headers in (None, {}, {"attempt": "1"}, {"attempt": "-1", "sent": "1"}, {"attempt": "1", "sent": "now"}, {"attempt": "", "sent": ""}):
        assert read_stamp(headers) is None


def test_how_a_process_ended_in_words() -> None:
    assert ending_of(3) == "ended with exit code 3"
    assert ending_of(KILLED) == "was killed by SIGKILL"
    assert ending_of(-15) == "was killed by SIGTERM"
    assert ending_of(-100) == "was killed by signal 100"
