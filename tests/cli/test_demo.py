"""`fanwire demo`: a document streamed to three subscribers arrives whole, or the command says what is missing and fails."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import anyio
import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner, Result

from fanwire import Realtime, TopicRef, __version__
from fanwire.cli import app as cli
from fanwire.cli import document as documents
from fanwire.cli import main
from fanwire.cli.demo import Conversation, DemoResult, Reader, Row, Status, Token, run_demo
from fanwire.cli.demo_view import HEADER, LiveScreen, PlainScreen, cells, printable
from fanwire.cli.document import load_document, make_document, split_tokens
from fanwire.errors import ConfigError, PermissionDenied
from fanwire.events import InvalidMessage
from fanwire_memory import MemoryTransport

TEXT = (
    """# fanwire

Typed realtime channels for Python, over the message broker you already run: déjà vu, 漢字, 🧵.

| transport | history |
|---|---|
| `memory://` | per channel |
"""
    * 20
)
TOKENS = len(split_tokens(TEXT))
SHA256 = hashlib.sha256(TEXT.encode()).hexdigest()
ESCAPE = "\x1b"


class Notes:
    """A view that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, str]] = []

    def watch(self, conversation: Conversation, /) -> AbstractContextManager[object]:
        return nullcontext()

    def note(self, reader: Reader, text: str, /) -> None:
        self.notes.append((reader.name, text))


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> MemoryTransport:
    """The transport that the command line will use, for scripting its faults."""
    transport = MemoryTransport()

    def open_realtime(url: str, timeout: float) -> Realtime:
        return Realtime(transport, timeout=timeout)

    monkeypatch.setattr(cli, "open_realtime", open_realtime)
    return transport


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "document.md"
    path.write_bytes(TEXT.encode())
    return path


def fanwire(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=stdin)


def one_line(result: Result) -> str:
    """Return the only line on standard error; there must be no traceback and nothing on standard output."""
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("fanwire: ")
    return line


def by_name(result: DemoResult) -> dict[str, Row]:
    return {row.subscriber: row for row in result.rows}


# ---------------------------------------------------------------- the job


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TEXT, id="readme-like"),
        pytest.param("x", id="one-character"),
        pytest.param("\ufeffa\r\nb\rc\x00d\u2028e\n", id="line-ends-and-controls"),
        pytest.param(" \n" * 500, id="white-space"),
        pytest.param("x" * 5_000, id="one-word"),
        pytest.param("e\u0301\u202e\U0001f469\u200d\U0001f4bb " * 300, id="combining"),
    ],
)
async def test_every_subscriber_receives_what_was_published(text: str) -> None:
    view = Notes()
    async with Realtime(MemoryTransport()) as rt:
        result = await run_demo(make_document("text", text.encode()), rt, view)
    tokens = len(split_tokens(text))
    assert result.verdict == "passed"
    assert (result.bytes, result.tokens) == (len(text.encode()), tokens)
    assert [(row.subscriber, row.published, row.delivered, row.lost, row.announced, row.problems) for row in result.rows] == [
        ("status", 3, 3, 0, 0, ()),
        ("tokens", tokens, tokens, 0, 0, ()),
        ("both", tokens + 3, tokens + 3, 0, 0, ()),
    ]
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert [row.sha256 for row in result.rows] == [None, sha256, sha256]
    for row in result.rows:
        assert row.p50_ms is not None
        assert row.p99_ms is not None
        assert 0 < row.p50_ms <= row.p99_ms < 10_000
    told = [text for name, text in view.notes if name == "status"]
    assert told == ["Thinking...", "Answering...", f"Done: {tokens:,} tokens, SHA-256 {sha256}"]


@pytest.mark.anyio
async def test_a_rate_paces_the_tokens() -> None:
    document = make_document("text", b"one two three four five six seven eight nine ten eleven")
    async with Realtime(MemoryTransport()) as rt:
        result = await run_demo(document, rt, Notes(), rate=2_000)
    assert result.verdict == "passed"
    assert result.seconds >= 210 / 2_000  # as long as 200 tokens take it thinks, and between eleven tokens are ten pauses


@pytest.mark.anyio
async def test_a_message_lost_for_good_is_announced_and_fails_the_job() -> None:
    transport, view = MemoryTransport(), Notes()
    transport.faults.drop(1, skip=2 + 17, stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(make_document("text", TEXT.encode()), rt, view, timeout=5)
    assert result.verdict == "failed"
    rows = by_name(result)
    for name, published in (("tokens", TOKENS), ("both", TOKENS + 3)):
        row = rows[name]
        assert (row.published, row.delivered, row.lost, row.announced) == (published, published - 1, 1, 1)
        assert row.sha256 != SHA256
        assert row.problems == (
            "1 message of topic 'tokens' lost, the first is number 17",
            f"SHA-256 of the tokens received is {row.sha256}, of the document {SHA256}",
        )
        assert any(reader == name and re.match(r"1 message lost on channel", text) for reader, text in view.notes)
    assert rows["status"].problems == ()  # it was told of the gap, and has all that is its own
    assert (rows["status"].lost, rows["status"].announced) == (0, 1)


@pytest.mark.anyio
async def test_a_lost_status_fails_those_who_take_it() -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=1, stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(make_document("text", TEXT.encode()), rt, Notes())
    rows = by_name(result)
    assert [bool(row.problems) for row in rows.values()] == [True, False, True]
    assert rows["status"].problems == ("1 message of topic 'status' lost, the first is number 1",)
    assert rows["both"].sha256 == SHA256


@pytest.mark.anyio
async def test_a_lost_message_that_the_history_has_is_repaired() -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=2 + 17)  # as above, where it is lost for good
    transport.faults.duplicate(3, skip=2 + 40)
    async with Realtime(transport) as rt:
        result = await run_demo(make_document("text", TEXT.encode()), rt, Notes())
        assert rt.stats().duplicates >= 3
    assert result.verdict == "passed"
    assert [row.announced for row in result.rows] == [0, 0, 0]


@pytest.mark.anyio
@pytest.mark.parametrize("lost", ["last token", "last status"])
async def test_a_lost_last_message_ends_in_a_report(lost: str) -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=2 + TOKENS - (lost == "last token"), stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(make_document("text", TEXT.encode()), rt, Notes(), timeout=0.1)
    assert result.verdict == "failed"
    rows = by_name(result)
    if lost == "last token":
        assert rows["tokens"].problems[0] == f"1 message of topic 'tokens' lost, the first is number {TOKENS - 1}"
        assert rows["tokens"].announced == 1  # the status behind it showed the hole
    else:
        # Nothing follows, so nothing can show that it is missing; the account does.
        assert rows["status"].problems == ("1 message of topic 'status' lost, the first is number 2", "of 1 message lost, gaps announced 0")


@pytest.mark.anyio
async def test_a_refused_publish_is_raised_as_it_is() -> None:
    transport = MemoryTransport()
    error = PermissionDenied("the broker does not allow this")
    transport.faults.refuse(error, skip=5)
    async with Realtime(transport) as rt:
        with pytest.raises(PermissionDenied, match="does not allow this") as caught:
            await run_demo(make_document("text", TEXT.encode()), rt, Notes())
    assert not isinstance(caught.value, ExceptionGroup)


@pytest.mark.anyio
async def test_repeats_late_foreign_and_invalid_messages_are_accounted_for() -> None:
    invalid: list[InvalidMessage] = []
    conversation = Conversation(make_document("text", b"a b c d"), Notes())
    chat, reader = conversation.chat, conversation.readers[1]
    async with (
        Realtime(MemoryTransport(), on_invalid=invalid.append) as rt,
        rt.subscribe(chat.tokens).with_gaps() as messages,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(reader.read, messages)
        conversation.sent["tokens"] += [0, 0, 0, 0]
        await rt.publish(TopicRef(chat.name, "tokens"), {"number": "none"})
        for number, text in ((0, "a"), (2, " c"), (1, " b"), (1, " b"), (99, "?"), (-1, "?")):
            await rt.publish(chat.tokens, Token(number=number, text=text))
        await rt.publish(chat.tokens, Token(number=3, text=" d", last=True))
        await reader.finished.wait()
        tasks.cancel_scope.cancel()
    assert len(invalid) == 1
    row = reader.row()
    assert (row.delivered, row.lost, row.sha256) == (7, 0, hashlib.sha256(b"a c b b?? d").hexdigest())
    assert row.problems[:-1] == (
        "1 message received twice",
        "1 message out of order",
        "2 messages not of this conversation",
        "1 message skipped because they could not be parsed",
    )
    assert row.problems[-1].startswith("SHA-256 of the tokens received is ")


@pytest.mark.anyio
async def test_a_changed_status_is_noticed() -> None:
    conversation = Conversation(make_document("text", b"a"), Notes())
    chat, reader = conversation.chat, conversation.readers[0]
    async with (
        Realtime(MemoryTransport()) as rt,
        rt.subscribe(chat.status).with_gaps() as messages,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(reader.read, messages)
        for number in range(3):
            conversation.sent["status"].append(0)
            conversation.statuses.append(Status(number=number, message="sent", last=number == 2))
            await rt.publish(chat.status, Status(number=number, message="changed", last=number == 2))
        await reader.finished.wait()
        tasks.cancel_scope.cancel()
    assert reader.row().problems == ("the statuses received are not those published",)


# ---------------------------------------------------------------- the command, without a terminal


def test_plain_lines_and_a_table(file: Path) -> None:
    result = fanwire("demo", "--input", file)
    assert (result.exit_code, result.stderr) == (0, "")
    assert ESCAPE not in result.stdout
    lines = result.stdout.splitlines()
    assert lines[0] == f"document: {file}, {len(TEXT.encode()):,} bytes, {TOKENS:,} tokens, SHA-256 {SHA256}"
    assert re.fullmatch(r"channel: agent-chat:[0-9a-f]{8}", lines[1])
    for line in ("status: Thinking...", "both:   Answering...", f"tokens: {TOKENS // 4:,} of {TOKENS:,} tokens"):
        assert line in lines
    assert lines[-2:] == [f"SHA-256 {SHA256}", "passed: all 3 subscribers received exactly what was published"]
    header = next(index for index, line in enumerate(lines) if line.startswith("subscriber"))
    assert tuple(re.split(r"  +", lines[header])) == HEADER
    table = [re.split(r"  +", line) for line in lines[header + 1 : header + 4]]
    assert [(*row[:5], row[7]) for row in table] == [
        ("status", "3", "3", "0", "0", "yes"),
        ("tokens", f"{TOKENS:,}", f"{TOKENS:,}", "0", "0", "yes"),
        ("both", f"{TOKENS + 3:,}", f"{TOKENS + 3:,}", "0", "0", "yes"),
    ]
    assert all(re.fullmatch(r"\d+\.\d{3}", row[5]) and re.fullmatch(r"\d+\.\d{3}", row[6]) for row in table)
    assert len({len(line) for line in lines[header : header + 4]}) == 1


def test_json_is_all_there_is_on_standard_output(file: Path) -> None:
    result = fanwire("demo", "--json", "--input", file)
    assert (result.exit_code, result.stderr) == (0, "")
    outcome = json.loads(result.stdout)
    assert (outcome["verdict"], outcome["sha256"], outcome["tokens"]) == ("passed", SHA256, TOKENS)
    assert [row["subscriber"] for row in outcome["rows"]] == ["status", "tokens", "both"]
    assert DemoResult.model_validate(outcome).rows[1].sha256 == SHA256


def test_standard_input() -> None:
    result = fanwire("demo", "--json", "--input", "-", stdin=TEXT.encode())
    assert result.exit_code == 0
    outcome = json.loads(result.stdout)
    assert (outcome["document"], outcome["sha256"]) == ("standard input", SHA256)


def test_a_suppressed_message_fails_the_command(transport: MemoryTransport, file: Path) -> None:
    transport.faults.drop(1, skip=2 + 17, stored=False)
    result = fanwire("demo", "--input", file)
    assert (result.exit_code, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[-1] == "FAILED: tokens, both did not receive exactly what was published"
    assert "tokens: 1 message of topic 'tokens' lost, the first is number 17" in lines
    assert any(re.fullmatch(rf"both: SHA-256 of the tokens received is [0-9a-f]{{64}}, of the document {SHA256}", line) for line in lines)


def test_a_suppressed_message_fails_the_command_in_json(transport: MemoryTransport, file: Path) -> None:
    transport.faults.drop(2, skip=2 + 17, stored=False)
    result = fanwire("demo", "--json", "--input", file)
    assert result.exit_code == 1
    outcome = json.loads(result.stdout)
    assert outcome["verdict"] == "failed"
    assert [(row["lost"], bool(row["problems"])) for row in outcome["rows"]] == [(0, False), (2, True), (2, True)]


# ---------------------------------------------------------------- what goes wrong, in one line


def test_unusable_documents(tmp_path: Path) -> None:
    binary, empty = tmp_path / "binary", tmp_path / "empty"
    binary.write_bytes(b"abc\xff\x00")
    empty.touch()
    for source, complaint in (
        (tmp_path / "missing.md", "there is no such file"),
        (tmp_path, "is a directory"),
        (binary, "is not UTF-8 text (byte 0xff at offset 3)"),
        (empty, "is empty"),
        (empty / "below", "cannot be read (Not a directory)"),
        (Path("a\0b"), "cannot be read"),
    ):
        result = fanwire("demo", "--input", source)
        assert result.exit_code == 2
        assert complaint in one_line(result)
        assert repr(str(source)) in one_line(result)
    assert "no such file" in one_line(fanwire("demo", "--input", ""))
    assert "'standard input' is empty" in one_line(fanwire("demo", "--input", "-", stdin=b""))


def test_a_document_has_a_largest_size(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    monkeypatch.setattr(documents, "MAX_BYTES", len(TEXT.encode()))
    assert fanwire("demo", "--json", "--input", file).exit_code == 0
    monkeypatch.setattr(documents, "MAX_BYTES", len(TEXT.encode()) - 1)
    result = fanwire("demo", "--json", "--input", file)
    assert result.exit_code == 2
    assert "is larger than" in one_line(result)


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ConfigError, match="there is no standard input"):
        load_document("-")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--url", "nonsense://host"], "nonsense://"),
        (["--url", "memory://?nonsense=1"], "nonsense"),
        (["--tokens-per-second", "-1"], "--tokens-per-second must be 0 or more, got -1"),
        (["--speed", "nan"], "--tokens-per-second must be 0 or more, got nan"),
        (["--timeout", "0"], "--timeout must be more than 0 seconds, got 0"),
        (["--timeout", "nan"], "--timeout must be more than 0 seconds, got nan"),
    ],
)
def test_unusable_options(file: Path, arguments: list[str], complaint: str) -> None:
    result = fanwire("demo", "--input", file, *arguments)
    assert result.exit_code == 2
    assert complaint in one_line(result)


def test_unknown_options_and_commands_are_usage_errors() -> None:
    for arguments in (["demo", "--nonsense"], ["nonsense"], ["demo", "--speed", "fast"]):
        result = fanwire(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def test_an_error_of_the_broker_is_one_line_with_its_remedy(transport: MemoryTransport, file: Path) -> None:
    transport.faults.refuse(PermissionDenied("the broker does not\nallow this"), skip=5)
    result = fanwire("demo", "--json", "--input", file)
    assert result.exit_code == 1
    assert one_line(result) == "fanwire: the broker does not allow this (check the credentials in the URL)"


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    def fail(url: str, timeout: float) -> Realtime:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(cli, "open_realtime", fail)
    result = fanwire("demo", "--input", file)
    assert result.exit_code == 1
    assert one_line(result) == "fanwire: unexpected ZeroDivisionError: planted (--debug shows the traceback)"


@pytest.mark.parametrize("arguments", [["--debug", "demo"], ["demo", "--debug"]])
def test_debug_shows_the_traceback(tmp_path: Path, arguments: list[str]) -> None:
    result = fanwire(*arguments, "--input", tmp_path / "missing.md")
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback (most recent call last):")
    assert "FileNotFoundError" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("fanwire: ")


@pytest.mark.parametrize(
    ("number", "complaint"), [(errno.ENOSPC, "fanwire: standard output cannot be written (No space left on device)\n"), (errno.EPIPE, "")]
)
def test_an_output_that_fails(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], file: Path, number: int, complaint: str) -> None:
    class Full(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(number, os.strerror(number))

    def demo() -> int:
        return cli._demo(str(file), "memory://", None, 10.0, as_json=False)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Full())
        assert cli._guarded(demo, debug=False) == 1
    assert capfd.readouterr() == ("", complaint)


def test_an_interrupt_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    def interrupt(url: str, timeout: float) -> Realtime:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "open_realtime", interrupt)
    result = fanwire("demo", "--input", file)
    assert result.exit_code == 130
    assert one_line(result) == "fanwire: interrupted"


# ---------------------------------------------------------------- the program


def test_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["fanwire", "demo", "--json", "--input", str(file)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "passed"


def program(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "fanwire.cli", *map(str, arguments)]


def test_version() -> None:
    result = subprocess.run(program("--version"), capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"fanwire {__version__}\n", "")


def test_an_output_that_cannot_show_the_text(tmp_path: Path) -> None:
    path = tmp_path / "漢字.md"
    path.write_text(TEXT, encoding="utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = subprocess.run(program("demo", "-i", path), capture_output=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert rb"\u6f22\u5b57.md" in result.stdout


def test_whoever_reads_the_output_may_leave(file: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        result = subprocess.run(program("demo", "-i", file), stdout=closed, stderr=subprocess.PIPE, check=False)
    assert (result.returncode, result.stderr) == (1, b"")


def test_interrupt(file: Path) -> None:
    with subprocess.Popen(program("demo", "-i", file, "--speed", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "Thinking" not in process.stdout.readline():  # at one token a second it goes on thinking for minutes
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == "fanwire: interrupted\n"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "fanwire.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert 'pip install "fanwire[cli]"' in err


def test_a_defect_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fanwire.cli.app")
    monkeypatch.setitem(sys.modules, "fanwire.cli.demo", None)
    with pytest.raises(ModuleNotFoundError, match=r"fanwire\.cli\.demo"):
        main()


# ---------------------------------------------------------------- on a terminal


def on_terminal(*arguments: str | Path, terminal: str = "xterm-256color", rows: int = 24, columns: int = 100) -> tuple[int, str]:
    """Run the program in a pseudo-terminal; return its exit code and everything it wrote there."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (rows, columns))
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"}}
    with subprocess.Popen(program(*arguments), stdin=slave, stdout=slave, stderr=slave, env={**environment, "TERM": terminal}) as process:
        os.close(slave)
        written = bytearray()
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:  # Linux says so when the last writer has closed the terminal
                break
            if not piece:
                break
            written += piece
        os.close(master)
        return process.wait(20), written.decode()


def test_a_terminal_shows_a_live_picture(file: Path) -> None:
    code, written = on_terminal("demo", "-i", file, "--speed", "4000")
    assert code == 0
    assert f"{ESCAPE}[?25l" in written  # the cursor is hidden while the picture moves ...
    assert written.rindex(f"{ESCAPE}[?25h") > written.rindex(f"{ESCAPE}[?25l")  # ... and comes back
    assert written.count("╭─") > 1  # more than one frame
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    assert f"Done: {TOKENS:,} tokens" in text
    assert f"{TOKENS:,}/{TOKENS:,}" in text
    assert "déjà vu, 漢字, 🧵" in text
    assert "passed: all 3 subscribers received exactly what was published" in text
    assert f"SHA-256 {SHA256}" in text


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(file: Path) -> None:
    code, written = on_terminal("demo", "-i", file, terminal="dumb")
    assert code == 0
    assert ESCAPE not in written
    assert "status: Thinking..." in written


def test_json_on_a_terminal(file: Path) -> None:
    code, written = on_terminal("demo", "-i", file, "--json")
    assert code == 0
    assert json.loads(written)["verdict"] == "passed"


@pytest.mark.anyio
@pytest.mark.parametrize("height", [24, 5])
async def test_every_frame_fits_the_terminal(height: int) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=60, height=height, color_system="truecolor")
    transport, screen = MemoryTransport(), LiveScreen(console)
    transport.faults.drop(1, skip=30, stored=False)
    document = make_document("\x1b]0;a\nname\x07.md", f"{TEXT}\x1b[2J\x9b2J\u202e".encode())
    async with Realtime(transport) as rt:
        screen.report(await run_demo(document, rt, screen))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue())
    assert ESCAPE not in text
    assert "\x9b" not in text
    assert all(cell_len(line) <= 60 for line in re.split(r"[\r\n]+", text))
    assert "\ufffd]0;a name\ufffd.md on agent-chat:" in text
    assert "tokens: 1 message of topic 'tokens' lost" in text
    if height == 24:
        assert re.search(r"tokens +━+.* 99 % +\d+/\d+ +1 gap", text)


def outcome(problems: tuple[str, ...] = ()) -> DemoResult:
    row = Row(
        subscriber="tokens", published=1_000, delivered=999, lost=1, announced=None, p50_ms=None, p99_ms=1.5, sha256="0" * 64, problems=problems
    )
    verdict: Literal["passed", "failed"] = "failed" if problems else "passed"
    return DemoResult(verdict=verdict, document="x", bytes=1, tokens=1, sha256="1" * 64, channel="agent-chat:x", seconds=0.1, rows=(row,))


@pytest.mark.parametrize("columns", [100, 80, 40])
def test_no_figure_is_cut_off_on_a_terminal(columns: int) -> None:
    written = io.StringIO()
    screen = LiveScreen(Console(file=written, force_terminal=True, width=columns, height=24, color_system="truecolor"))
    screen.report(outcome(("1 message lost",)))
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue())
    assert all(len(line) <= columns for line in text.splitlines())
    words = set(re.split(r"[\s,]+", text.replace("1,000", "1000")))
    assert {"tokens", "1000", "999", "1", "unknown", "-", "1.500", "NO", "FAILED:"} <= words
    assert "tokens: 1 message lost" in text


def test_a_row_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cells(outcome().rows[0]) == ("tokens", "1,000", "999", "1", "unknown", "-", "1.500", "yes")
    PlainScreen().report(outcome(("1 message lost",)))
    out = capsys.readouterr().out
    assert "\ntokens: 1 message lost\n" in out
    assert out.endswith("FAILED: tokens did not receive exactly what was published\n")


def test_a_document_cannot_steer_the_terminal() -> None:
    assert printable("plain") == "plain"
    assert printable("a\tb\r\n\x1b[2Jc\x07\u202ed\u200be\u00a0f\ufeff") == "a   b\n\ufffd[2Jc\ufffd\ufffdde f"
    assert not set(printable("".join(map(chr, range(0x300))))) & {chr(code) for code in (*range(10), *range(11, 32), *range(0x7F, 0xA0))}


# ---------------------------------------------------------------- documents


def test_the_default_document_is_the_readme() -> None:
    document = load_document(None)
    assert "README" in document.name
    assert "fanwire" in document.text
    assert document.sha256 == hashlib.sha256(document.text.encode()).hexdigest()


def test_a_checkout_is_known_by_its_project(tmp_path: Path) -> None:
    module = tmp_path / "core" / "fanwire" / "cli" / "document.py"
    assert documents._checkout_readme(module) is None
    (tmp_path / "README.md").write_text("# other\n", encoding="utf-8")
    for project in ('[project]\nname = "other"\n', "project = 3\n", "not toml", '[tool.fanwire]\nurl = "memory://"\n'):
        (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
        assert documents._checkout_readme(module) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "fanwire"\n', encoding="utf-8")
    assert documents._checkout_readme(module) == tmp_path / "README.md"


def test_an_installed_wheel_has_the_readme_in_its_metadata(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    information = tmp_path / "fanwire-0.0.dist-info"
    information.mkdir()
    monkeypatch.setattr(documents, "__file__", str(tmp_path / "document.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match="README of fanwire is not installed; give a document with --input FILE"):
        load_document(None)
    (information / "METADATA").write_text("Metadata-Version: 2.3\nName: fanwire\nVersion: 0.0\n\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="README of fanwire is not installed"):
        load_document(None)
    (information / "METADATA").write_text("Metadata-Version: 2.3\nName: fanwire\nVersion: 0.0\n\n# fanwire\n\ndéjà vu\n", encoding="utf-8")
    document = load_document(None)
    assert (document.name, document.text) == ("README of fanwire", "# fanwire\n\ndéjà vu\n")


@pytest.mark.parametrize("text", [TEXT, "x" * 100, "\n" * 100, "a\u00a0b\u3000c", " a" * 50])
def test_tokens_joined_are_the_text(text: str) -> None:
    tokens = split_tokens(text)
    assert "".join(tokens) == text
    assert all(1 <= len(token) <= 56 for token in tokens)
    assert len(tokens) > 1
