"""`fanwire check`: every step, what it tells of a broker that works, and its diagnosis of each that does not."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute, SocketStream

from fanwire.cli.check import STEPS, Latency, Outcome, Step
from fanwire.errors import PermissionDenied, Unavailable
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.cli.commands import fanwire, on_a_terminal, one_line, one_object, using
from tests.cli.terminal import CTRL_C, Terminal, environment, plain
from tests.planting import Planter, planting

Talk = Callable[[SocketStream], Awaitable[None]]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Planter]:
    """The transport `tcp://`, which makes a real connection."""
    with planting(tmp_path, monkeypatch) as planter:
        planter.modules.append("tcpfan")
        shutil.copy(Path(__file__).with_name("tcpfan.py"), tmp_path)
        planter.metadata("tcpfan", {"tcp": "tcpfan:TcpTransport", "tcps": "tcpfan:TcpTransport"})
        yield planter


@contextmanager
def serving(talk: Talk) -> Generator[int]:
    """Serve on a port of this machine, in a thread with a loop of its own; yield the port."""
    ports: list[int] = []
    ready, over = Event(), Event()

    async def handle(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream):  # when the client has had enough
                await talk(stream)

    async def main() -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        ports.append(listener.extra(SocketAttribute.local_port))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, handle)
            ready.set()
            await anyio.to_thread.run_sync(over.wait)
            tasks.cancel_scope.cancel()
        await listener.aclose()

    thread = Thread(target=anyio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield ports[0]
    finally:
        over.set()
        thread.join(10)


async def welcome(stream: SocketStream) -> None:
    await stream.send(b"+ok\n")
    await stream.receive()


async def refuse(stream: SocketStream) -> None:
    await stream.send(b"-wrong password\n")


async def be_silent(stream: SocketStream) -> None:
    await stream.receive()


async def hang_up(stream: SocketStream) -> None:
    return None


async def chatter(stream: SocketStream) -> None:
    await stream.send(b"220 some other service, which speaks first\r\n")
    await stream.receive()


def checked(*arguments: object) -> tuple[int, dict[str, Any]]:  # Any: JSON
    """Return the exit code and the report."""
    result = fanwire("check", *arguments, "--json")
    assert (result.stderr, result.stdout.count("\n")) == ("", 1)
    found: dict[str, Any] = json.loads(result.stdout)
    assert [step["name"] for step in found["steps"]] == list(STEPS)
    assert found["ok"] == (result.exit_code == 0)
    return result.exit_code, found


def statuses(found: dict[str, Any]) -> dict[str, str]:  # Any: JSON
    return {step["name"]: step["status"] for step in found["steps"]}


def failure(found: dict[str, Any]) -> dict[str, Any]:  # Any: JSON
    (step,) = [step for step in found["steps"] if step["status"] == "failed"]
    result: dict[str, Any] = step
    return result


# ---------------------------------------------------------------- a broker that works


def test_every_step_is_a_line() -> None:
    result = fanwire("check", "memory://")
    assert (result.exit_code, result.stderr) == (0, "")
    *lines, verdict = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", name] for name in STEPS]
    assert all(re.search(r"\d\.\d ms  \S", line) for line in lines)
    assert "memory, of fanwire 0." in lines[1]
    assert "exactly once, order one per channel" in lines[3]
    assert re.search(r"20 round trips: min \d+\.\d{3} ms, p50 \d+\.\d{3} ms, p99 \d+\.\d{3} ms", lines[7])
    assert verdict == "passed: this connection may subscribe, publish and read history; it stays inside this process"


def test_the_report_as_json() -> None:
    code, found = checked("memory://", "--pings", 5, "--namespace", "here")
    assert code == 0
    assert set(found) == {"ok", "url", "steps", "capabilities", "latency_ms", "may"}
    assert found["url"] == "memory://"
    assert found["may"] == {"subscribe": True, "publish": True, "history": True}
    assert found["capabilities"]["delivery"] == "exactly_once"
    latency = found["latency_ms"]
    assert latency["trips"] == 5
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] < 1_000
    assert all(set(step) == {"name", "status", "seconds", "detail", "code", "diagnosis", "remedy"} for step in found["steps"])
    assert found["steps"][0]["detail"] == "memory://, namespace here"
    assert found["steps"][8]["detail"] == "1 message read back"


def test_the_configured_broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fanwire.toml").write_text('url = "memory://configured"\n', encoding="utf-8")
    assert checked()[1]["url"] == "memory://configured"
    code, found = checked("--config", "missing.toml")
    assert (code, failure(found)["diagnosis"]) == (2, "bad_option")
    assert found["url"] is None
    assert set(statuses(found).values()) == {"failed", "skipped"}


def test_over_a_real_connection(plant: Planter) -> None:
    with serving(welcome) as port:
        code, found = checked(f"tcp://app:hunter2@127.0.0.1:{port}")
    assert code == 0
    assert found["url"] == f"tcp://app:***@127.0.0.1:{port}"
    assert found["steps"][1]["detail"] == "tcp, of tcpfan 1.0"


def test_each_check_has_a_channel_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = using(monkeypatch, MemoryTransport())
    channels = {checked("memory://")[1]["steps"][4]["detail"] for _ in range(3)}
    assert len(channels) == 3
    assert all(re.fullmatch(r"fanwire-check:[0-9a-f]{12}", channel) for channel in channels)
    assert transport._broker.subscribed() == 0


@pytest.mark.parametrize(("history", "detail"), [(0, "the transport declares none"), (1, "1 message read back")])
def test_history_where_there_is_some(monkeypatch: pytest.MonkeyPatch, history: int, detail: str) -> None:
    using(monkeypatch, MemoryTransport(options=MemoryOptions(history=history)))
    code, found = checked("memory://")
    assert code == 0
    assert (found["steps"][8]["status"], found["steps"][8]["detail"]) == ("ok" if history else "skipped", detail)
    assert found["may"]["history"] is (True if history else None)


@pytest.mark.parametrize(("forms", "status"), [(["last_n"], "ok"), (["since_time"], "ok"), (["after_cursor"], "skipped")])
def test_history_of_each_form(monkeypatch: pytest.MonkeyPatch, forms: list[str], status: str) -> None:
    from dataclasses import replace

    full = MemoryTransport().capabilities
    monkeypatch.setattr(MemoryTransport, "capabilities", replace(full, history=frozenset(forms)))  # type: ignore[arg-type]  # the names of forms
    _, found = checked("memory://")
    assert statuses(found)["history"] == status


# ---------------------------------------------------------------- the way there


@pytest.mark.parametrize(
    ("url", "code", "step", "diagnosis", "text"),
    [
        ("nonsense", 2, "url", "bad_option", "no '://'"),
        ("", 2, "url", "bad_option", "must not be empty"),
        ("nonsense://app:hunter2@host", 2, "transport", "unknown_scheme", "no transport is registered for nonsense://"),
        ("needy://host", 2, "transport", "missing_extra", 'pip install "needyfan[client]"'),
        ("tcp://host?levl=2", 2, "transport", "bad_option", "unknown option 'levl'; did you mean 'level'?"),
        ("tcp://host?level=9", 2, "transport", "bad_option", "less than or equal to 3"),
        ("memory://a/b", 2, "transport", "bad_option", "a memory URL is"),
        ("tcp://app:hunter2@127.0.0.1:1", 3, "connect", "refused", "no connection within"),
        ("tcp://app:hunter2@no-such-host.invalid:1", 3, "connect", "dns", "no connection within"),
    ],
)
def test_what_is_wrong_before_there_is_a_server(plant: Planter, url: str, code: int, step: str, diagnosis: str, text: str) -> None:
    plant.module("needyfan", "import a_client_nobody_has\n")
    plant.metadata("needyfan", {"needy": "needyfan:Needy [client]"})
    ended, found = checked(url, "--timeout", "0.3")
    failed = failure(found)
    assert (ended, failed["name"], failed["diagnosis"]) == (code, step, diagnosis)
    assert text in failed["detail"]
    assert "hunter2" not in json.dumps(found)
    assert found["may"] == {"subscribe": None, "publish": None, "history": None}
    result = fanwire("check", url, "--timeout", "0.3")
    assert (result.exit_code, result.stderr) == (code, "")
    assert result.stdout.splitlines()[-1] == f"FAILED: {step} ({diagnosis})"
    assert "hunter2" not in result.stdout
    assert "Traceback" not in result.stdout


@pytest.mark.parametrize(
    ("scheme", "talk", "code", "diagnosis"),
    [
        ("tcp", refuse, 4, "credentials"),
        ("tcp", be_silent, 3, "no_connection"),
        ("tcp", hang_up, 3, "closed"),
        ("tcps", chatter, 3, "tls"),
    ],
)
def test_what_is_wrong_with_a_server(plant: Planter, scheme: str, talk: Talk, code: int, diagnosis: str) -> None:
    with serving(talk) as port:
        ended, found = checked(f"{scheme}://app:hunter2@127.0.0.1:{port}", "--timeout", "0.5")
    failed = failure(found)
    assert (ended, failed["name"], failed["diagnosis"]) == (code, "connect", diagnosis)
    assert failed["remedy"]
    assert "hunter2" not in json.dumps(found)
    assert [name for name, status in statuses(found).items() if status == "skipped"] == ["subscribe", "publish", "receive", "latency", "history"]
    if diagnosis == "credentials":
        assert found["may"] == {"subscribe": None, "publish": None, "history": None}
        assert "the server says 'wrong password' to '***'" in failed["detail"]


# ---------------------------------------------------------------- what the credentials allow


def test_a_subscription_that_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = using(monkeypatch, MemoryTransport())
    monkeypatch.setattr(transport._broker, "_denied", AnyChannel(PermissionDenied("not for you")))
    code, found = checked("memory://")
    assert (code, failure(found)["diagnosis"]) == (4, "permission")
    assert found["may"] == {"subscribe": False, "publish": True, "history": True}
    assert statuses(found)["receive"] == "skipped"
    assert fanwire("check", "memory://").stdout.splitlines()[-1] == "FAILED: subscribe (permission)"


class AnyChannel(dict[str, Exception]):
    """Holds one error for every name."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> Exception:
        return self.error


def test_a_publish_that_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = using(monkeypatch, MemoryTransport())
    transport.faults.refuse(PermissionDenied("read only"))
    code, found = checked("memory://")
    assert (code, failure(found)["name"]) == (4, "publish")
    assert found["may"] == {"subscribe": True, "publish": False, "history": True}
    assert (found["steps"][6]["detail"], found["steps"][8]["detail"]) == ("nothing was published", "may be read")


def test_a_message_that_does_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = using(monkeypatch, MemoryTransport())
    transport.faults.drop(1, stored=False)
    code, found = checked("memory://", "--timeout", "0.1")
    assert code == 3  # the first of two failures decides
    assert [step["name"] for step in found["steps"] if step["status"] == "failed"] == ["receive", "history"]
    assert found["steps"][6]["detail"] == "nothing was received within 0.1 s of what the broker accepted"
    assert found["steps"][8]["detail"] == "the history does not have what was published"


def test_a_broker_that_stops_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = using(monkeypatch, MemoryTransport())
    transport.faults.refuse(Unavailable("busy"), count=10_000)
    code, found = checked("memory://", "--timeout", "0.1")
    assert code == 3
    assert failure(found)["name"] == "publish"
    assert found["may"]["publish"] is None  # it was not denied


def test_a_foreign_message_is_not_taken_for_the_own_one(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = using(monkeypatch, MemoryTransport())
    publish = transport._broker.accept

    def changed(channel: str, topic: str, id: str, key: str | None, frame: bytes, now: float, **more: Any) -> Any:  # Any: as the broker has it
        return publish(channel, topic, id, key, frame.replace(b'{"check"', b'{"chock"'), now, **more)

    monkeypatch.setattr(transport._broker, "accept", changed)
    code, found = checked("memory://")
    assert code == 1
    assert found["steps"][6]["detail"].startswith("what was received is not what was published: {'chock'")


# ---------------------------------------------------------------- arguments, values


def test_unusable_arguments() -> None:
    for arguments, complaint in (
        (["--pings", "0"], "--pings must be at least 1, got 0"),
        (["--timeout", "0"], "--timeout must be more than 0 seconds, got 0"),
        (["--timeout", "nan"], "--timeout must be more than 0 seconds, got nan"),
    ):
        result = fanwire("check", "memory://", *arguments)
        assert (result.exit_code, one_line(result)) == (2, complaint)
        assert one_object(fanwire("check", "memory://", *arguments, "--json"))["message"] == complaint


def test_a_verdict_in_words() -> None:
    ok = [Step(name=name, status="ok") for name in STEPS]
    assert Outcome("x", [step for step in ok if step.name != "history"]).verdict() == "passed: this connection may subscribe and publish"
    denied = Step(name="publish", status="failed", diagnosis="permission")
    lost = Step(name="receive", status="failed", diagnosis="timeout")
    assert Outcome("x", [ok[4], denied, lost]).verdict() == "FAILED: publish (permission), receive (timeout)"
    assert Outcome("x", [denied]).may() == {"subscribe": None, "publish": False, "history": None}


def test_the_percentiles(monkeypatch: pytest.MonkeyPatch) -> None:
    from fanwire import Realtime

    times = iter([number / 1_000 for number in range(200, 0, -1)])

    async def ping(self: Realtime) -> float:
        return next(times)

    monkeypatch.setattr(Realtime, "ping", ping)
    assert checked("memory://", "--pings", 200)[1]["latency_ms"] == Latency(200, 1.0, 100.0, 198.0)._asdict()


# ---------------------------------------------------------------- in a terminal


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fanwire.cli", "check", *map(str, arguments)]


def test_in_a_terminal_a_line_moves_until_the_step_is_over() -> None:
    with Terminal(program("memory://"), columns=70) as terminal:
        code, text = terminal.wait()
    assert code == 0
    assert "\x1b[?25l" in terminal.raw
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")
    for name in STEPS:
        assert re.search(rf"ok +{name} +[\d,]+\.\d ms", text)
    assert "it stays inside this process" in " ".join(text.split())


def test_in_a_terminal_a_failure_has_its_diagnosis() -> None:
    with Terminal(program("nonsense://app:hunter2@host"), columns=70) as terminal:
        code, text = terminal.wait()
    assert code == 2
    shown = " ".join(text.split())
    assert "FAILED transport" in shown
    assert "unknown_scheme: see what there is with: fanwire transports" in shown
    assert "FAILED: transport (unknown_scheme)" in shown
    assert "hunter2" not in terminal.raw


def test_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    written = on_a_terminal(monkeypatch)
    transport = using(monkeypatch, MemoryTransport())
    transport.faults.refuse(PermissionDenied("read only"))
    assert fanwire("check", "memory://").exit_code == 4
    text = " ".join(plain(written.getvalue()).split())
    assert "FAILED publish" in text
    assert "permission: the credentials are good, but must be granted this at the broker" in text
    assert "- receive nothing was published" in text
    assert "FAILED: publish (permission)" in text
    assert written.getvalue().endswith("\n")


def test_ctrl_c_while_it_waits(plant: Planter) -> None:
    root = Path(__file__).resolve().parents[2]
    with (
        serving(be_silent) as port,
        Terminal(program(f"tcp://127.0.0.1:{port}", "--timeout", "60"), env=environment(PYTHONPATH=f"{plant.root}:{root}")) as terminal,
    ):
        terminal.wait_for(r"connect \.\.\.")
        terminal.type(CTRL_C)
        code, text = terminal.wait()
    assert code == 130
    assert text.rstrip().endswith("fanwire: interrupted")
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")


def test_a_dumb_terminal_gets_lines() -> None:
    with Terminal(program("memory://"), env=environment(TERM="dumb")) as terminal:
        code, text = terminal.wait()
    assert (code, "\x1b" in terminal.raw) == (0, False)
    assert text.count("\nok ") == len(STEPS) - 1
