"""`fanwire publish`: from an argument, a file and standard input; receipts; what is wrong, with its line; in a terminal and without one."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fanwire.cli import lines as input_lines
from fanwire.cli.output import emit
from fanwire.errors import PermissionDenied, Unavailable
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.cli.beside import URL, command
from tests.cli.commands import fanwire, on_a_terminal, one_line, one_object, stored, using
from tests.cli.terminal import CTRL_C, CTRL_D, Terminal, environment, plain

DECLARED = """
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from fanwire import Channel, topic


class Status(BaseModel):
    model_config = ConfigDict(strict=True)
    message: str
    at: datetime | None = None


class Chat(Channel, name="chat:{room}"):
    room: int
    status = topic(Status)
"""


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> MemoryTransport:
    return using(monkeypatch, MemoryTransport())


@pytest.fixture
def declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the module `chatfan`."""
    (tmp_path / "chatfan.py").write_text(DECLARED, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "chatfan", raising=False)
    return tmp_path


def said(transport: MemoryTransport, channel: str = "chat") -> list[Any]:  # Any: JSON
    return [message.data for message in stored(transport, channel)]


def receipts(text: str) -> list[dict[str, Any]]:  # Any: JSON
    return [json.loads(line) for line in text.splitlines()]


# ---------------------------------------------------------------- one message


def test_one_message_and_its_receipt(transport: MemoryTransport) -> None:
    result = fanwire("publish", "chat", "status", '{"message": "d\u00e9j\u00e0 vu"}', "--header", "a=1", "-H", "b=x=y", "--key", "k")
    assert result.exit_code == 0
    (message,) = stored(transport, "chat")
    assert (message.topic, message.data, message.key, message.headers) == ("status", {"message": "d\u00e9j\u00e0 vu"}, "k", {"a": "1", "b": "x=y"})
    assert result.stdout == f"published: channel chat, topic status, id {message.id}, cursor {message.cursor}\n"
    assert result.stderr.startswith("note: this transport stays inside its process")
    assert fanwire("publish", "chat", "status", "1", "--key", "k").stdout.startswith("a repeat of key 'k', dropped: channel chat")
    assert len(stored(transport, "chat")) == 1


def test_one_receipt_as_json(transport: MemoryTransport) -> None:
    result = fanwire("publish", "chat", "status", "[1, 2]", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    (receipt,) = receipts(result.stdout)
    (message,) = stored(transport, "chat")
    assert receipt == {"id": message.id, "channel": "chat", "topic": "status", "cursor": str(message.cursor), "duplicate": False, "line": None}


@pytest.mark.parametrize("data", ["0", '"text"', "null", "[]", "1e3", ' {"a": [1]} '])
def test_any_json_by_name(transport: MemoryTransport, data: str) -> None:
    assert fanwire("publish", "chat", "status", data).exit_code == 0
    assert said(transport) == [json.loads(data)]


def test_a_number_below_zero_stands_behind_two_dashes(transport: MemoryTransport) -> None:
    assert fanwire("publish", "chat", "status", "--", "-5").exit_code == 0
    assert said(transport) == [-5]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["hello"], """DATA: no JSON: Expecting value at column 1; a text is written with its quotes: '"hello"'"""),
        (["{'a': 1}"], "DATA: no JSON: Expecting property name enclosed in double quotes at column 2"),
        (["1 2"], "DATA: no JSON: Extra data at column 3"),
        (["NaN"], "topic 'status' of channel 'chat'"),
        (["[" * 100_000], "DATA: no JSON that can be read"),
        ([""], "DATA: no JSON"),
        ([], "give the data as DATA, in --file FILE, or as JSON lines on standard input with -"),
        (["1", "--file", "x"], "standard input with -: one of them"),
        (["1", "--header", "x"], "--header 'x': write NAME=VALUE"),
        (["1", "--key", ""], "key: must be 1 to 255 bytes"),
        (["1", "--key", "k" * 256], "key: must be 1 to 255 bytes"),
        (["1", "--header", f"a={'x' * 9_000}"], "headers: 9,001 bytes in all"),
        (["--file", "/missing/file"], "--file '/missing/file': there is no such file"),
        (["--file", "/"], "--file '/' is a directory"),
        (["--file", ""], "there is no such file"),
        (["--file", "a\0b"], "cannot be read"),
    ],
)
def test_unusable_arguments(transport: MemoryTransport, arguments: list[str], complaint: str) -> None:
    result = fanwire("publish", "chat", "status", *arguments)
    assert result.exit_code == 2
    assert complaint in one_line(result)
    assert said(transport) == []


def test_unusable_names(transport: MemoryTransport) -> None:
    for names in (("", "status"), ("chat", ""), (" x", "status"), ("chat", "a\nb")):
        result = fanwire("publish", *names, "1", "--json")
        assert (result.exit_code, one_object(result)["code"]) == (2, "invalid_name")


# ---------------------------------------------------------------- declared channels


def test_declared_data_is_validated(transport: MemoryTransport, declared: Path) -> None:
    chat = ("publish", "chatfan:Chat", "--app-dir", declared, "--param", "room=7", "status")
    # A strict model takes a time from JSON, and would not take it from Python's str: the data is read as the JSON it is.
    assert fanwire(*chat, '{"message": "x", "at": "2026-01-02T03:04:05Z"}').exit_code == 0
    assert said(transport, "chat:7") == [{"message": "x", "at": "2026-01-02T03:04:05Z"}]
    result = fanwire(*chat, '{"massage": "x"}')
    assert (result.exit_code, one_line(result)) == (2, "topic 'status' of channel 'chat:7': message: Field required")
    assert one_object(fanwire(*chat, '{"message": 1}', "--json"))["code"] == "invalid_payload"
    assert len(said(transport, "chat:7")) == 1


def test_a_name_is_checked_by_its_declaration(transport: MemoryTransport, declared: Path) -> None:
    where = ("--as", "chatfan:Chat", "--app-dir", declared)
    assert fanwire("publish", "chat:7", "status", '{"message": "x"}', *where).exit_code == 0
    assert "is called 'chat:7'" in one_line(fanwire("publish", "chat:007", "status", "{}", *where))
    assert "declares no topic 'stats'" in one_line(fanwire("publish", "chat:7", "stats", "{}", *where))
    assert "message: Field required" in one_line(fanwire("publish", "chat:7", "status", "{}", *where))
    assert len(said(transport, "chat:7")) == 1


# ---------------------------------------------------------------- many messages


def test_lines_of_a_file(transport: MemoryTransport, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\r\n  [2]\n\n"three"')
    result = fanwire("publish", "chat", "status", "--file", path, "--key", "k", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert said(transport) == [{"n": 1}, [2], "three"]
    assert [message.key for message in stored(transport, "chat")] == ["k-1", "k-3", "k-5"]
    assert [(receipt["line"], receipt["duplicate"]) for receipt in receipts(result.stdout)] == [(1, False), (3, False), (5, False)]
    again = fanwire("publish", "chat", "status", "--file", path, "--key", "k")
    assert again.exit_code == 0
    assert again.stdout.startswith("3 messages published on chat, topic status, in ")
    assert again.stdout.endswith(" s, 3 repeats dropped\n")
    assert len(said(transport)) == 3


def test_standard_input(transport: MemoryTransport) -> None:
    count = 1_234
    data = "".join(f'{{"n": {number}}}\n' for number in range(count))
    result = fanwire("publish", "chat", "status", "-", stdin=data)
    assert result.exit_code == 0
    assert result.stdout.startswith("1,234 messages published on chat, topic status, in ")
    assert [value["n"] for value in said(transport)] == list(range(count))[-1_000:]  # as many as its history holds
    assert fanwire("publish", "other", "status", "--file", "-", stdin="1\n").stdout.startswith("1 message published")


def test_no_lines_are_no_messages(transport: MemoryTransport) -> None:
    for stdin in ("", "\n \n"):
        result = fanwire("publish", "chat", "status", "-", stdin=stdin)
        assert result.exit_code == 0
        assert result.stdout.startswith("0 messages published")


def test_no_standard_input(transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    from fanwire.errors import ConfigError

    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="there is no standard input"), input_lines.open_source("-"):
        pass


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "no JSON: Expecting property name enclosed in double quotes at column 2"),
        (b"1 2", "no JSON: Extra data at column 3"),
        (b'"caf\xe9"', "is not UTF-8 (byte 0xe9 at offset 4)"),
        (b'{"n": NaN}', "topic 'status' of channel 'chat'"),
    ],
)
def test_a_bad_line_has_its_number_and_what_is_before_it_is_published(transport: MemoryTransport, line: bytes, complaint: str) -> None:
    stdin = b"1\n\n2\n" + line + b"\n3\n"
    result = fanwire("publish", "chat", "status", "-", stdin=stdin)
    assert (result.exit_code, result.stdout) == (2, "")
    text = result.stderr.splitlines()[-1]
    assert text.startswith("fanwire: line 4 of standard input: ")
    assert complaint in text
    assert text.endswith("; 2 messages published before it")
    assert said(transport) == [1, 2]
    result = fanwire("publish", "chat", "status", "-", "--json", stdin=stdin)
    assert [receipt["line"] for receipt in receipts(result.stdout)] == [1, 3]
    assert json.loads(result.stderr)["message"].startswith("line 4 of standard input: ")


def test_a_bad_line_far_behind(transport: MemoryTransport, declared: Path) -> None:
    rows = ['{"message": "x"}'] * 1_700
    rows[1_600] = '{"message": 3}'
    path = declared / "rows"
    path.write_text("\n".join(rows), encoding="utf-8")
    result = fanwire("publish", "chatfan:Chat", "--app-dir", declared, "-p", "room=1", "status", "--file", path, "--json")
    assert result.exit_code == 2
    error = json.loads(result.stderr)
    assert error["code"] == "invalid_payload"
    assert error["message"].startswith(f"line 1,601 of {path}: topic 'status' of channel 'chat:1': message: Input should be a valid string")
    assert error["message"].endswith("; 1,600 messages published before it")
    assert len(receipts(result.stdout)) == 1_600


def test_a_line_without_end(transport: MemoryTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanwire.cli.lines.MAX_LINE", 100_000)
    result = fanwire("publish", "chat", "status", "-", stdin=b"1\n" + b"0" * 300_000)
    assert result.exit_code == 2
    assert result.stdout.startswith("1 message published")  # in the file's first piece, before the trouble
    assert "line 2 of standard input is longer than 100,000 bytes" in result.stderr


def test_a_message_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    transport = using(monkeypatch, MemoryTransport(options=MemoryOptions(max_payload=70_000)))
    result = fanwire("publish", "chat", "status", "-", stdin=f'1\n"{"x" * 80_000}"\n')
    assert result.exit_code == 2
    assert "line 2 of standard input: topic 'status' of channel 'chat': 80," in result.stderr
    assert said(transport) == [1]


def test_what_the_broker_refuses_has_its_line(transport: MemoryTransport) -> None:
    transport.faults.refuse(PermissionDenied("not that one"), skip=2)
    result = fanwire("publish", "chat", "status", "-", "--json", stdin="1\n2\n\n3\n4\n")
    assert result.exit_code == 4
    error = json.loads(result.stderr)
    assert error["message"] == "line 4 of standard input: not that one; 2 messages published before it"
    assert (error["code"], error["remedy"]) == ("permission_denied", "the credentials are good, but must be granted this at the broker")
    assert [receipt["line"] for receipt in receipts(result.stdout)] == [1, 2]
    assert said(transport) == [1, 2]


def test_a_batch_of_which_nothing_was_accepted(transport: MemoryTransport) -> None:
    transport.faults.refuse(Unavailable("full"), count=100)
    result = fanwire("publish", "chat", "status", "-", "--timeout", "0.2", stdin="\n1\n2\n")
    assert result.exit_code == 3
    assert result.stderr.splitlines()[-1].startswith("fanwire: line 2 of standard input: full; 0 messages published before it (")


@pytest.mark.parametrize(("stdin", "where"), [("\n1\n", "line 2"), ("\n1\n2\n3\n", "lines 2 to 4")])
def test_a_batch_that_is_not_answered(transport: MemoryTransport, stdin: str, where: str) -> None:
    transport.faults.block()
    result = fanwire("publish", "chat", "status", "-", "--timeout", "0.05", "--json", stdin=stdin)
    assert result.exit_code == 3
    assert str(one_object(result)["message"]).startswith(f"{where} of standard input: ")


def test_a_broker_that_does_not_answer(transport: MemoryTransport) -> None:
    transport.faults.block()
    result = fanwire("publish", "chat", "status", "1", "--timeout", "0.05", "--json")
    assert result.exit_code == 3
    assert one_object(result)["code"] == "timeout"


# ---------------------------------------------------------------- the program


def test_a_reader_of_receipts_may_leave() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        arguments = [sys.executable, "-m", "fanwire.cli", "publish", "a", "b", "1", "--url", "memory://", "--json"]
        result = subprocess.run(arguments, stdout=closed, stderr=subprocess.PIPE, check=False, env=environment())
    assert (result.returncode, result.stderr) == (1, b"")


def test_an_output_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    from fanwire.cli.errors import OutputClosed

    def full(*args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.print", full)
    with pytest.raises(OutputClosed, match="No space left"):
        emit("x")


def test_a_signal_while_it_waits_for_lines(transport: MemoryTransport, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as fifo:
            fifo.write(b"1\n2\n")
            while transport._broker.stored("chat") < 2:
                threading.Event().wait(0.002)
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(20)

    ended = threading.Event()
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    result = fanwire("publish", "chat", "status", "--file", path)
    ended.set()
    writer.join(20)
    assert result.exit_code == 130
    assert result.stdout.startswith("2 messages published on chat")
    assert result.stderr.endswith("fanwire: interrupted\n")


def test_lines_are_published_as_they_come() -> None:
    """Through a pipe that stays open: the receipt of each line is there before the next line is written."""
    with subprocess.Popen(
        command("silence", "publish", "chat:1", "status", "-", "--json"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for number in (1, 2, 3):
            process.stdin.write(b"%d\n" % number)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["line"] == number
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait(20) == 0


def test_a_file_that_says_nothing() -> None:
    """The null device can be read and not waited for."""
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - no path
        result = subprocess.run(
            [sys.executable, "-m", "fanwire.cli", "publish", "a", "b", "-", "--url", URL],
            stdin=nothing,
            capture_output=True,
            text=True,
            check=False,
            env=environment(),
        )
    assert result.returncode == 0
    assert result.stdout.startswith("0 messages published")


# ---------------------------------------------------------------- in a terminal


def test_typed_lines_are_published_one_by_one() -> None:
    with Terminal(command("echo", "publish", "chat:1", "status", "-")) as terminal:
        terminal.wait_for("stays inside")
        for number in (1, 2):
            terminal.type(f'"typed {number}"\n')
            terminal.wait_for(f"received 'typed {number}'")
        terminal.type(CTRL_D)
        code, text = terminal.wait()
    assert code == 0
    assert "2 messages published on chat:1, topic status, in " in text


def test_ctrl_c_ends_it_and_says_how_much_was_done() -> None:
    with Terminal(command("echo", "publish", "chat:1", "status", "-")) as terminal:
        terminal.wait_for("stays inside")
        terminal.type("1\n")
        terminal.wait_for("received 1")
        terminal.type(CTRL_C)
        code, text = terminal.wait()
    assert code == 130
    assert "1 message published on chat:1" in text
    assert text.endswith("fanwire: interrupted\n")


def test_progress_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_text("1\n" * 20_000, encoding="utf-8")
    with Terminal(command("silence", "publish", "chat:1", "status", "--file", path)) as terminal:
        code, text = terminal.wait()
    assert code == 0
    assert "\x1b[?25l" in terminal.raw  # the cursor is hidden while the bar moves ...
    assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")  # ... and comes back
    assert " messages" in text.partition("20,000 messages published")[0]
    assert "20,000 messages published on chat:1, topic status" in text


def test_what_is_drawn_of_progress(transport: MemoryTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = on_a_terminal(monkeypatch)
    path = tmp_path / "long"
    path.write_text("1\n" * 3_000, encoding="utf-8")
    assert fanwire("publish", "chat", "status", "--file", path).exit_code == 0
    assert "3,000 messages" in plain(written.getvalue())
    assert fanwire("publish", "chat", "status", "-", stdin="1\n").exit_code == 0
    before = len(written.getvalue())
    assert fanwire("publish", "chat", "status", "--file", path, "--json").exit_code == 0
    assert len(written.getvalue()) == before


def test_one_message_in_a_terminal() -> None:
    with Terminal(command("silence", "publish", "chat:1", "status", '"x"')) as terminal:
        code, text = terminal.wait()
    assert code == 0
    assert "published: channel chat:1, topic status, id " in text
    with Terminal(command("silence", "publish", "chat:1", "status", "x")) as terminal:
        code, text = terminal.wait()
    assert (code, text.splitlines()[-1].startswith("fanwire: DATA: no JSON")) == (2, True)
