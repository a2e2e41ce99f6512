"""`fanwire tail`: messages, gaps, invalid messages and the connection, in a terminal, as lines and as JSON; and how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import anyio
import pytest
from rich.console import Console
from typer.testing import Result

from fanwire import Cursor, Gap, GapReason, Realtime
from fanwire.cli.output import Outlet
from fanwire.cli.tail_view import MOST_ROWS, LiveScreen, json_line, plain_line
from fanwire.cli.targets import Target
from fanwire.errors import ConnectionLost, PermissionDenied
from fanwire.events import ConnectionEvent, ConnectionState, InvalidMessage
from fanwire.messages import RawMessage
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.cli.beside import Story, beside, command, publish, subscribed, three, troubles
from tests.cli.commands import fanwire, on_a_terminal, one_object, store, using
from tests.cli.terminal import CTRL_C, Terminal, environment, plain

CHANNELS = """
from pydantic import BaseModel

from fanwire import Channel, StaticChannel, topic


class Status(BaseModel):
    message: str


class Chat(Channel, name="chat:{room}"):
    room: int
    status = topic(Status)
    tokens = topic(int)


class Alerts(StaticChannel, name="alerts"):
    alert = topic(Status)
"""


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> MemoryTransport:
    """A broker that has ten messages of channel `chat:1`."""
    transport = using(monkeypatch, MemoryTransport())
    store(transport, "chat:1", *(("status", {"message": f"number {number}"}) if number % 2 else ("tokens", number) for number in range(10)))
    return transport


@pytest.fixture
def url() -> str:
    """A broker that no other test uses."""
    return f"memory://tail-{uuid.uuid4().hex}"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tailfan.py").write_text(CHANNELS, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "tailfan", raising=False)
    return tmp_path


def tail(*arguments: object, story: Story | None = None, url: str = "memory://", **more: Any) -> Result:  # Any: as CliRunner takes it
    if story is None:
        return fanwire("tail", *arguments, "--url", url, **more)
    with beside(story, url):
        return fanwire("tail", *arguments, "--url", url, **more)


def objects(text: str) -> list[dict[str, Any]]:  # Any: JSON
    return [json.loads(line) for line in text.splitlines()]


def data(result: Result) -> list[Any]:  # Any: JSON
    return [found["data"] for found in objects(result.stdout) if found["type"] == "message"]


# ---------------------------------------------------------------- what is shown


def test_live_messages_as_lines(url: str) -> None:
    result = tail("chat:1", "--count", 3, story=three, url=url)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  ", "", line) for line in lines] == [
        f'chat:1  status  {{"message":"number {number}"}}' for number in range(3)
    ]
    note, summary = result.stderr.splitlines()
    assert note.startswith("note: this transport stays inside its process")
    assert re.fullmatch(r"3 messages, 0 gaps, 0 invalid in \d+\.\d s; go on with --from \S+:3:[0-9a-f]{8}", summary)


def test_live_messages_as_json(url: str) -> None:
    async def story(rt: Realtime, transport: MemoryTransport) -> None:
        await subscribed(transport)
        await publish(rt, "chat:1", "status", {"text": "d\u00e9j\u00e0\u2028\x9b"}, key="k", headers={"a": "b"})

    result = tail("chat:1", "--count", 1, "--json", story=story, url=url)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.isascii()
    (found,) = objects(result.stdout)
    assert Cursor.parse(found.pop("cursor")).offset == 1
    assert datetime.fromisoformat(found.pop("created_at")).tzinfo is not None
    assert found.pop("id").endswith(".1")
    assert found == {
        "type": "message", "channel": "chat:1", "topic": "status", "kind": "data", "run_id": None, "key": "k", "headers": {"a": "b"},
        "data": {"text": "d\u00e9j\u00e0\u2028\x9b"},
    }  # fmt: skip


def test_everything_that_can_happen_as_json(url: str) -> None:
    result = tail("chat:1", "--count", 3, "--json", story=troubles, url=url)
    assert (result.exit_code, result.stderr) == (0, "")
    found = objects(result.stdout)
    assert [each["message"] for each in data(result)] == ["before", "behind the gap", "the end \x1b]0;title\x07"]
    gap, invalid = ([each for each in found if each["type"] == kind] for kind in ("gap", "invalid"))
    assert gap == [{"type": "gap", "channel": "chat:1", "reason": "hole", "lost": 1}]
    kinds = [each["type"] for each in found]
    assert [kind for kind in kinds if kind not in {"connection", "invalid"}] == ["message", "gap", "message", "message"]
    assert [(each["channel"], each["topic"], each["bytes"]) for each in invalid] == [("chat:1", None, 15)]
    assert "not JSON" in invalid[0]["reason"]
    states = [each for each in found if each["type"] == "connection"]
    assert [each["state"] for each in states][:1] == ["disconnected"]
    assert states[0]["error"]["code"] == "connection_lost"


def test_everything_that_can_happen_as_lines(url: str) -> None:
    result = tail("chat:1", "--count", 3, story=troubles, url=url)
    assert result.exit_code == 0
    troubled = [line.partition("Z  ")[2] for line in result.stdout.splitlines() if line.startswith("!! ")]
    assert "gap: 1 message lost on channel 'chat:1' (hole)" in troubled
    assert [line for line in troubled if line.startswith("invalid: 15 bytes on channel 'chat:1': the frame is not JSON")]
    assert [line for line in troubled if line.startswith("connection: disconnected: memory: ")]
    assert "\x1b" not in result.output
    assert ", 1 gap, 1 message lost, 1 invalid in " in result.stderr


def test_several_channels(transport: MemoryTransport) -> None:
    store(transport, "chat:2", ("status", "two"))
    store(transport, "chat:3", ("status", "three"))
    result = tail("chat:2", "chat:3", "--from", "earliest", "-n", 2, "--json")
    assert sorted((each["channel"], each["data"]) for each in objects(result.stdout)) == [("chat:2", "two"), ("chat:3", "three")]
    result = tail("chat:2", "chat:3", "--from", "earliest", "-n", 2)
    assert "go on with" not in result.stderr  # two channels have two positions


def test_only_some_topics(transport: MemoryTransport) -> None:
    result = tail("chat:1", "--topic", "tokens", "--from", "earliest", "-n", 5, "--json")
    assert data(result) == [0, 2, 4, 6, 8]
    result = tail("chat:1", "-t", "tokens", "-t", "status", "-t", "tokens", "--from", "earliest", "-n", 10, "--json")
    assert len(data(result)) == 10


# ---------------------------------------------------------------- declared channels


def test_a_declared_channel_shows_what_its_schema_refuses(transport: MemoryTransport, directory: Path) -> None:
    store(transport, "chat:7", ("status", {"message": "good"}), ("status", {"massage": "secret text"}), ("other", 1), ("tokens", 5))
    result = tail("tailfan:Chat", "--app-dir", directory, "-p", "room=7", "--from", "earliest", "-n", 2, "--json")
    assert result.exit_code == 0
    first, invalid, last = objects(result.stdout)
    assert (first["data"], last["data"]) == ({"message": "good"}, 5)
    assert (invalid["type"], invalid["topic"], invalid["reason"]) == ("invalid", "status", "message: Field required")
    assert "secret" not in json.dumps(invalid)
    assert ", 1 invalid in " in tail("chat:7", "--as", "tailfan:Chat", "--app-dir", directory, "--from", "earliest", "-n", 2).stderr
    # By name there is no schema, and what is not declared is shown too.
    assert len(data(tail("chat:7", "--from", "earliest", "-n", 4, "--json"))) == 4


def test_another_kind_of_message_has_no_schema(url: str, directory: Path) -> None:
    frame = {"id": "x.1", "topic": "status", "kind": "run", "channel": "chat:7", "created_at": "2026-01-02T03:04:05.006Z", "data": {"any": 1}}

    async def story(rt: Realtime, transport: MemoryTransport) -> None:
        await subscribed(transport)
        transport._broker.inject("chat:7", json.dumps(frame, separators=(",", ":")).encode())

    result = tail("tailfan:Chat", "--app-dir", directory, "-p", "room=7", "-n", 1, story=story, url=url)
    assert result.stdout == '2026-01-02T03:04:05.006Z  chat:7  status (run)  {"any":1}\n'


def test_unusable_arguments(transport: MemoryTransport, directory: Path) -> None:
    for arguments, complaint in (
        (["chat:1", "--count", "0"], "--count must be at least 1, got 0"),
        (["chat:1", "--for", "0"], "--for must be more than 0 seconds, got 0"),
        (["chat:1", "--for", "nan"], "--for must be more than 0 seconds, got nan"),
        (["chat:1", "--from", "yesterday"], "--from 'yesterday' is no start: write live, earliest"),
        (["chat:1", "chat:1"], "a channel is named twice"),
        (["chat:1", "chat:2", "--from", "abc:1:-"], "goes with one channel"),
        (["chat:1", "--topic", ""], "topic"),
        (["", "--topic", "x"], "channel"),
        (["tailfan:Chat", "--app-dir", str(directory), "-p", "room=1", "-t", "stats"], "declares no topic 'stats'"),
        (["tailfan:Chat", "--app-dir", str(directory)], "Chat needs --param room=VALUE"),
    ):
        result = tail(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert complaint in result.stderr.splitlines()[-1]


# ---------------------------------------------------------------- --from


@pytest.mark.parametrize(("begin", "first"), [("earliest", 0), ("last:3", 7), ("4", 6), ("1h", 0), ("2020-01-01", 0)])
def test_where_it_begins(transport: MemoryTransport, begin: str, first: int) -> None:
    result = tail("chat:1", "--from", begin, "--count", 10 - first, "--json")
    assert result.exit_code == 0
    assert [Cursor.parse(each["cursor"]).offset for each in objects(result.stdout)] == list(range(first + 1, 11))


def test_going_on_from_a_cursor(transport: MemoryTransport) -> None:
    result = tail("chat:1", "--from", "earliest", "--count", 4)
    cursor = result.stderr.rpartition("--from ")[2].strip()
    assert [Cursor.parse(each["cursor"]).offset for each in objects(tail("chat:1", "--from", cursor, "-n", 6, "--json").stdout)] == [
        5,
        6,
        7,
        8,
        9,
        10,
    ]
    transport.faults.trim("chat:1", keep=2)
    result = tail("chat:1", "--from", cursor, "-n", 2, "--json")
    assert result.exit_code == 1
    error = one_object(result)
    assert (error["code"], error["remedy"]) == ("cursor_expired", "begin at what is left, with --from earliest")


def test_a_history_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    using(monkeypatch, MemoryTransport(options=MemoryOptions(history=0)))
    result = tail("chat:1", "--from", "5m", "--json")
    error = one_object(result)
    assert (result.exit_code, error["code"]) == (2, "unsupported")
    assert error["message"] == "--from 5m: history cannot be read so on this transport with these options; what there is: none"


# ---------------------------------------------------------------- how it ends


def test_time_is_up(transport: MemoryTransport) -> None:
    result = tail("chat:1", "--from", "last:2", "--for", 0.05)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 2
    assert "2 messages, 0 gaps, 0 invalid in " in result.stderr


def test_time_is_up_before_there_are_enough(transport: MemoryTransport) -> None:
    result = tail("chat:1", "--from", "last:2", "--for", 0.05, "-n", 3)
    assert result.exit_code == 1
    assert result.stdout.count("\n") == 2
    assert result.stderr.rstrip().endswith(": fewer than the 3 of --count")
    result = tail("chat:1", "--from", "last:2", "--for", 0.05, "-n", 3, "--json")
    assert (result.exit_code, len(data(result)), result.stderr) == (1, 2, "")


def test_refused_at_once(transport: MemoryTransport) -> None:
    transport.faults.deny("chat:1", PermissionDenied("not this one"))
    result = tail("chat:1", "--json")
    assert result.exit_code == 4
    assert one_object(result)["code"] == "permission_denied"
    result = tail("chat:2", "chat:1")
    assert result.exit_code == 4
    assert result.stderr.splitlines()[-1].startswith("fanwire: not this one (")


def test_refused_later(url: str) -> None:
    async def story(rt: Realtime, transport: MemoryTransport) -> None:
        await subscribed(transport)
        transport._broker.deny("chat:1", PermissionDenied("not any more"))
        transport.faults.disconnect()

    result = tail("chat:1", "--json", story=story, url=url)
    assert result.exit_code == 4
    assert [each["type"] for each in objects(result.stdout)][:1] == ["connection"]
    assert json.loads(result.stderr)["message"] == "not any more"


def test_an_unexpected_error_in_the_middle_is_no_group(transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(message: object) -> str:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("fanwire.cli.tail_view.plain_line", stumble)
    result = tail("chat:1", "--from", "earliest", "-n", 1)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "fanwire: unexpected ZeroDivisionError: planted (--debug shows the traceback)"


def start(story: str, *arguments: object, stdout: int | BinaryIO = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(story, "tail", *arguments), stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_signal_ends_it_with_the_summary(number: signal.Signals, code: int, as_json: bool) -> None:
    with start("three", "chat:1", *["--json"] * as_json) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(3):
            assert process.stdout.readline()
        process.send_signal(number)
        try:
            assert process.wait(20) == code
        finally:
            process.kill()
        assert process.stdout.read() == ""
        errors = process.stderr.read()
        assert (errors == "") if as_json else errors.splitlines()[-1].startswith("3 messages, 0 gaps, 0 invalid in ")


def test_a_reader_that_leaves_ends_it() -> None:
    with start("flood", "chat:1", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        try:
            assert process.wait(20) == 1
        finally:
            process.kill()
        assert process.stderr.read() == ""


def test_a_reader_that_stands_still_does_not_keep_it_from_ending() -> None:
    """As in front of a pager: the pipe is full, and Ctrl-C ends the command all the same."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as held, os.fdopen(writing, "wb") as output, start("flood", "chat:1", "--json", stdout=output) as process:
        output.close()
        assert held.read(1) == b"{"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(20) == 130
        finally:
            process.kill()


def test_a_file_gets_everything(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("wb") as file, start("flood", "chat:1", "--json", "-n", 20_001, stdout=file) as process:
        try:
            assert process.wait(50) == 0
        finally:
            process.kill()
    found = objects(path.read_text(encoding="utf-8"))
    assert [each["data"].get("number") for each in found] == [*range(20_000), None]


def test_a_signal_within_the_process(url: str) -> None:
    async def story(rt: Realtime, transport: MemoryTransport) -> None:
        await subscribed(transport)
        os.kill(os.getpid(), signal.SIGTERM)

    result = tail("chat:1", story=story, url=url)
    assert result.exit_code == 143
    assert result.stderr.splitlines()[-1].startswith("0 messages, 0 gaps, 0 invalid in ")


def test_output_goes_to_pipes_and_files(tmp_path: Path) -> None:
    from fanwire.cli.errors import OutputClosed

    async def write(text: str) -> None:
        await Outlet().write(text)

    with (tmp_path / "file").open("w", encoding="ascii") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", file)
        anyio.run(write, "d\u00e9j\u00e0\n" * 10_000)
    assert (tmp_path / "file").read_text(encoding="ascii") == "d\\xe9j\\xe0\n" * 10_000
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as pipe, os.fdopen(writing, "w", encoding="utf-8") as output, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        anyio.run(write, "d\u00e9j\u00e0")
        assert pipe.read(6) == "d\u00e9j\u00e0".encode()
        pipe.close()
        with pytest.raises(OutputClosed) as caught:
            anyio.run(write, "x")
        assert caught.value.reason is None


def test_an_output_that_is_full(transport: MemoryTransport) -> None:
    class Full(io.StringIO):
        encoding = "utf-8"

        def write(self, text: str, /) -> int:
            raise OSError(28, "No space left on device")

    from fanwire.cli.errors import OutputClosed

    async def write() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", Full())
            await Outlet().write("x")

    with pytest.raises(OutputClosed, match="No space left"):
        anyio.run(write)


# ---------------------------------------------------------------- in a terminal


def test_a_terminal_shows_a_table_that_grows() -> None:
    with Terminal(command("three", "tail", "chat:1")) as terminal:
        terminal.wait_for(r"3 messages .* 0 gaps +0 invalid +Ctrl-C ends")
        terminal.type(CTRL_C)
        code, text = terminal.wait()
    assert code == 130
    assert re.search(r"TIME +TOPIC +DATA", text)
    for number in range(3):
        assert re.search(rf'\d\d:\d\d:\d\d\.\d{{3}}  status  {{"message":"number {number}"}}', text)
    assert "\x1b[?25l" in terminal.raw  # the cursor is hidden meanwhile ...
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")  # ... and comes back
    assert text.splitlines()[-1].startswith("3 messages, 0 gaps, 0 invalid in ")
    assert "interrupted" not in text


def test_a_terminal_shows_every_trouble() -> None:
    with Terminal(command("troubles", "tail", "chat:1", "--count", "3"), columns=72) as terminal:
        code, text = terminal.wait()
    assert code == 0
    shown = " ".join(text.split())
    assert "gap: 1 message lost on channel 'chat:1' (hole)" in shown
    assert "invalid: 15 bytes on channel 'chat:1': the frame is not JSON" in shown
    assert "connection: disconnected: memory: the connection was broken" in shown
    assert "1 gap, 1 message lost, 1 invalid in" in shown
    assert "\x1b]0;" not in terminal.raw  # a message does not steer the terminal
    assert "\x1b[2J" not in terminal.raw


def test_a_terminal_is_not_flooded() -> None:
    with Terminal(command("flood", "tail", "chat:1", "--count", "20001")) as terminal:
        code, text = terminal.wait(40)
    assert code == 0
    rows = len(re.findall(r'\{"number":\d+\}', text))
    skipped = sum(int(count.replace(",", "")) for count in re.findall(r"([\d,]+) messages? not shown", text))
    assert skipped > 0
    assert rows + skipped == 20_000
    assert "the last one" in text
    assert "20,001 messages, 0 gaps, 0 invalid" in text


@pytest.mark.parametrize("changes", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_terminal_without_colours(changes: dict[str, str]) -> None:
    with Terminal(command("three", "tail", "chat:1", "-n", "3"), env=environment(**changes)) as terminal:
        code, text = terminal.wait()
    assert code == 0
    assert text.count('{"message":"number ') == 3
    assert not re.search(r"\x1b\[(?:\d+;)*[34]\d", terminal.raw)
    assert ("\x1b" in terminal.raw) == ("NO_COLOR" in changes)


def test_json_in_a_terminal() -> None:
    with Terminal(command("three", "tail", "chat:1", "-n", "3", "--json")) as terminal:
        code, text = terminal.wait()
    assert (code, [each["data"]["message"] for each in objects(text)]) == (0, ["number 0", "number 1", "number 2"])


# ---------------------------------------------------------------- drawing


def raw_message(text: str, *, channel: str = "chat:1", topic: str = "status", kind: str = "data") -> RawMessage:
    encoded = json.dumps(text, ensure_ascii=False).encode()
    when = datetime(2026, 1, 2, 3, 4, 5, 6_000, tzinfo=UTC)
    return RawMessage("x.1", channel, topic, encoded, kind, when, None, None, None, None, encoded, text)


@pytest.fixture
def drawn() -> tuple[LiveScreen, io.StringIO]:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=60, height=12, color_system="truecolor")
    return LiveScreen([Target("chat:1", None, {}), Target("a-very-long-name-of-a-channel-\u6f22\u5b57\u6f22\u5b57", None, {})], console), written


def lines_of(written: io.StringIO) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue()).splitlines()


def test_what_is_drawn(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    written = on_a_terminal(monkeypatch)
    result = tail("chat:1", "--count", 3, story=troubles, url=url)
    assert result.exit_code == 0
    assert result.stdout.startswith("3 messages, 1 gap, 1 message lost, 1 invalid in ")
    text = plain(written.getvalue())
    for part in ("TIME", "before", "gap: 1 message lost", "invalid: 15 bytes", "connection: disconnected", "the end"):
        assert part in text


def test_a_row_fits_the_terminal(drawn: tuple[LiveScreen, io.StringIO]) -> None:
    from rich.cells import cell_len

    screen, written = drawn
    for text in ("short", "x" * 5_000, "\u6f22\u5b57" * 50, "\x1b[2J\x9b\u202e", "line\nbreak"):
        screen.put(raw_message(text, topic="t" * 60))
        screen.put(raw_message(text, channel="a-very-long-name-of-a-channel-\u6f22\u5b57\u6f22\u5b57", kind="run"))
    screen._draw()
    lines = lines_of(written)
    assert len(lines) == 10
    assert all(cell_len(line) <= 60 for line in lines)
    assert all(line.isprintable() for line in lines)
    assert cell_len(screen._footer().plain) <= 57


def test_a_trouble_is_shown_in_full(drawn: tuple[LiveScreen, io.StringIO]) -> None:
    screen, written = drawn
    screen.put(InvalidMessage("chat:1", "status", "the reason is " + "long " * 30 + "and ends here", b"x"))
    screen.put(Gap(None, GapReason.LAGGED, None))
    screen.put(ConnectionEvent(ConnectionState.DISCONNECTED, 0.0, 2, ConnectionLost("gone")))
    screen.put(ConnectionEvent(ConnectionState.CONNECTED, 0.0, 0, None))
    screen._draw()
    text = " ".join(" ".join(lines_of(written)).split())
    for part in (
        "and ends here",
        "gap: an unknown number of messages lost (lagged)",
        "connection: disconnected, attempt 2: gone",
        "connection: connected",
    ):
        assert part in text
    assert screen._footer().plain.startswith(" connected ")


def test_what_is_too_much_is_counted_and_troubles_are_kept(drawn: tuple[LiveScreen, io.StringIO]) -> None:
    screen, written = drawn
    screen._console.width = 100
    total = MOST_ROWS * 30
    for number in range(total):
        screen.put(raw_message(f"n{number}"))
        if number % MOST_ROWS == 0:
            screen.put(Gap("chat:1", GapReason.HOLE, number))
    assert len(screen._rows) <= 9 * MOST_ROWS
    screen._draw()
    text = "\n".join(lines_of(written))
    assert text.count("gap: ") == 30
    shown = len(re.findall(r'"n\d+"', text))
    skipped = sum(int(count.replace(",", "")) for count in re.findall(r"([\d,]+) messages? not shown", text))
    assert (shown, shown + skipped) == (MOST_ROWS, total)
    assert f'"n{total - 1}"' in text


def test_a_foreign_publishers_line_breaks_break_no_line() -> None:
    message = raw_message("x")
    foreign = RawMessage("x.1", "chat:1", "status", b'{\n  "a": 1\n}', "data", message.created_at, None, None, None, None, b"", {"a": 1})
    assert plain_line(foreign) == '2026-01-02T03:04:05.006Z  chat:1  status  {"a":1}'
    assert "\n" not in json_line(foreign)
    assert plain_line(raw_message("\x1b[2J\u202e")).endswith('status  "\\u001b[2J\ufffd"')
    assert plain_line(raw_message("a", topic="b\x9b")).endswith('b\ufffd  "a"')
