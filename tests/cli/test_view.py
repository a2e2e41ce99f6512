"""What is shown of the job on a terminal, and how its outcome is put into words and columns."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from fanwire import Realtime
from fanwire.cli.demo import AttemptRow, DemoResult, Row, run_demo
from fanwire.cli.demo_view import HEADER, LiveScreen, PlainScreen, cells
from fanwire.cli.document import make_document
from fanwire.cli.output import printable
from fanwire_memory import MemoryTransport
from tests.cli.support import ESCAPE, HALF, SHA256, TEXT, TOKENS, InProcess, program


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
    assert f"attempt 1 was killed after {HALF:,} tokens, retrying" in text
    assert re.search(rf"{HALF:,} +0 +\d+\.\d{{3}} +\d+\.\d{{3}} +yes", text)  # repeats, durable repeats, times, verified


def test_the_retry_begins_anew_with_what_is_not_durable_and_goes_on_with_what_is(file: Path) -> None:
    code, written = on_terminal("demo", "-i", file, "--speed", "500")
    assert code == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
    frames = [frame.partition("╭─")[0] for frame in text.split("╰─")[1:]]
    killed = next(index for index, frame in enumerate(frames) if "was killed" in frame)

    def shown(name: str, frame: str) -> int:
        found = re.search(rf"{name} +[━╸╺].* % +([\d,]+)/", frame)
        assert found is not None
        return int(found[1].replace(",", ""))

    before = [shown("tokens", frame) for frame in frames[:killed]]
    after = [shown("tokens", frame) for frame in frames[killed:]]
    assert before == sorted(before)
    assert after[0] == HALF  # until the second attempt repeats the first token
    again = after[next(index for index, value in enumerate(after) if value < HALF) :]
    assert again == sorted(again)
    assert again[-1] == TOKENS
    statuses = [shown("status", frame) for frame in frames]
    assert statuses == sorted(statuses)
    assert (statuses[killed], statuses[-1]) == (3, 4)
    assert f" {HALF:,} repeats" in frames[-1]


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
        screen.report(await run_demo(document, rt, screen, InProcess()))
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue())
    assert ESCAPE not in text
    assert "\x9b" not in text
    assert all(cell_len(line) <= 60 for line in re.split(r"[\r\n]+", text))
    assert "\ufffd]0;a name\ufffd.md on agent-chat:" in text
    assert "tokens: 1 message of topic 'tokens' lost" in text
    if height == 24:
        assert re.search(r"tokens +━+.* 100 % +\d+/\d+ +\d+ repeats +1 gap", text)
        assert "attempt 1 was killed after " in text


def outcome(problems: tuple[str, ...] = (), durable_repeats: int = 0) -> DemoResult:
    row = Row(
        subscriber="tokens",
        published=1_000,
        delivered=1_333,
        lost=1,
        announced=None,
        repeats=334,
        durable_repeats=durable_repeats,
        p50_ms=None,
        p99_ms=1.5,
        sha256="0" * 64,
        problems=problems,
    )
    return DemoResult(
        verdict="failed" if problems else "passed",
        document="x",
        bytes=1,
        tokens=1,
        sha256="1" * 64,
        channel="agent-chat:x",
        seconds=0.1,
        attempts=(AttemptRow(attempt=1, tokens=1, statuses=3, replayed=0, returncode=-9),),
        suppressed=1,
        rows=(row,),
    )


@pytest.mark.parametrize("columns", [100, 80, 40])
def test_no_figure_is_cut_off_on_a_terminal(columns: int) -> None:
    written = io.StringIO()
    screen = LiveScreen(Console(file=written, force_terminal=True, width=columns, height=24, color_system="truecolor"))
    screen.report(outcome(("1 message lost",)))
    text = re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue())
    assert all(len(line) <= columns for line in text.splitlines())
    words = set(re.split(r"[\s,]+", text.replace("1,", "1")))
    assert {"tokens", "1000", "1333", "1", "unknown", "334", "0", "-", "1.500", "NO", "FAILED:"} <= words
    assert "tokens: 1 message lost" in text


def test_the_table_of_a_usual_document_fits_80_columns() -> None:
    written = io.StringIO()
    screen = LiveScreen(Console(file=written, force_terminal=True, width=80, height=24, color_system="truecolor"))
    result = outcome(durable_repeats=2)
    largest = result.rows[0].model_copy(update={"published": 99_999, "delivered": 99_999, "announced": 0, "p50_ms": 99.999, "p99_ms": 99.999})
    screen.report(result.model_copy(update={"rows": (largest,)}))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue()).splitlines()
    assert any(re.fullmatch(r"tokens +99,999 +99,999 +1 +0 +334 +2 +99.999 +99.999 +yes", line) for line in lines)
    assert re.search(r"\x1b\[1;31m2\x1b", written.getvalue())  # what must be 0 and is not stands out


def test_a_row_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert cells(outcome().rows[0]) == ("tokens", "1,000", "1,333", "1", "unknown", "334", "0", "-", "1.500", "yes")
    neither = outcome().rows[0].model_copy(update={"repeats": None, "durable_repeats": None})
    assert cells(neither)[5:7] == ("-", "-")
    assert len(cells(neither)) == len(HEADER)
    PlainScreen().report(outcome(("1 message lost",)))
    out = capsys.readouterr().out
    assert "\ntokens: 1 message lost\n" in out
    assert out.endswith("FAILED: tokens did not receive exactly what was published\n")


def test_a_document_cannot_steer_the_terminal() -> None:
    assert printable("plain") == "plain"
    assert printable("a\tb\r\n\x1b[2Jc\x07\u202ed\u200be\u00a0f\ufeff") == "a   b\n\ufffd[2Jc\ufffd\ufffdde f"
    assert not set(printable("".join(map(chr, range(0x300))))) & {chr(code) for code in (*range(10), *range(11, 32), *range(0x7F, 0xA0))}
