"""`fanwire demo` as it is typed: what it prints where there is no terminal, its exit codes, and every error as one line."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fanwire import Realtime, __version__
from fanwire.cli import app as cli
from fanwire.cli import document as documents
from fanwire.cli import main
from fanwire.cli.demo import DemoResult
from fanwire.cli.demo_view import HEADER
from fanwire.cli.document import load_document
from fanwire.cli.errors import guarded
from fanwire.errors import ConfigError, PermissionDenied
from fanwire_memory import MemoryTransport
from tests.cli.commands import fanwire, one_line, one_object
from tests.cli.support import ESCAPE, HALF, SHA256, TEXT, TOKENS, program


@pytest.fixture
def transport(monkeypatch: pytest.MonkeyPatch) -> MemoryTransport:
    """The transport that the command line will use, for scripting its faults."""
    transport = MemoryTransport()

    def open_realtime(url: str, timeout: float) -> Realtime:
        return Realtime(transport, timeout=timeout)

    monkeypatch.setattr(cli, "open_realtime", open_realtime)
    return transport


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
    twice = TOKENS + HALF  # the worker is killed half way, and streams again
    assert [(*row[:7], row[9]) for row in table] == [
        ("status", "4", "4", "0", "0", "-", "0", "yes"),
        ("tokens", f"{twice:,}", f"{twice:,}", "0", "0", f"{HALF:,}", "-", "yes"),
        ("both", f"{twice + 4:,}", f"{twice + 4:,}", "0", "0", f"{HALF:,}", "0", "yes"),
    ]
    assert all(re.fullmatch(r"\d+\.\d{3}", row[7]) and re.fullmatch(r"\d+\.\d{3}", row[8]) for row in table)
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
    for name in ("tokens", "both"):
        assert f"{name}: 1 message of topic 'tokens' lost, the first is number 17 of attempt 1" in lines


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
    result = fanwire("demo", "--input", file)
    assert result.exit_code == 2
    assert "is larger than" in one_line(result)
    assert one_object(fanwire("demo", "--json", "--input", file))["code"] == "config"


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


def test_unknown_options_and_commands_are_usage_errors() -> None:  # more of them in test_errors
    for arguments in (["demo", "--nonsense"], ["nonsense"], ["demo", "--speed", "fast"]):
        result = fanwire(*arguments)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


def test_an_error_of_the_broker_is_one_object_with_its_remedy(transport: MemoryTransport, file: Path) -> None:
    transport.faults.refuse(PermissionDenied("the broker does not\nallow this"), skip=5)
    result = fanwire("demo", "--json", "--input", file)
    assert result.exit_code == 4
    error = one_object(result)
    assert (error["code"], error["message"]) == ("permission_denied", "the broker does not allow this")
    assert error["remedy"]


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    def fail(url: str, timeout: float) -> Realtime:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(cli, "open_realtime", fail)
    result = fanwire("demo", "--input", file)
    assert result.exit_code == 1
    assert one_line(result) == "unexpected ZeroDivisionError: planted (--debug shows the traceback)"


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
        assert guarded(demo) == 1
    assert capfd.readouterr() == ("", complaint)


def test_an_interrupt_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    def interrupt(url: str, timeout: float) -> Realtime:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "open_realtime", interrupt)
    result = fanwire("demo", "--input", file)
    assert result.exit_code == 130
    assert one_line(result) == "interrupted"


# ---------------------------------------------------------------- the program


def test_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["fanwire", "demo", "--json", "--input", str(file)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "passed"


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


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")])
def test_signals(file: Path, number: signal.Signals, code: int, said: str) -> None:
    with subprocess.Popen(program("demo", "-i", file, "--speed", "1"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "Thinking" not in process.stdout.readline():  # at one token a second it goes on thinking for minutes
            assert process.poll() is None
        process.send_signal(number)
        try:
            assert process.wait(20) == code
        finally:
            process.kill()
        assert process.stderr.read() == f"fanwire: {said}\n"


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "fanwire.cli.app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert 'pip install "fanwire[cli]"' in err


def test_an_interrupt_while_it_starts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Impatient(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "fanwire.cli.app", Impatient("fanwire.cli.app"))
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 130
    assert capsys.readouterr() == ("", "fanwire: interrupted\n")


def test_a_defect_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fanwire.cli.app")
    monkeypatch.setitem(sys.modules, "fanwire.cli.options", None)
    with pytest.raises(ModuleNotFoundError, match=r"fanwire\.cli\.options"):
        main()
