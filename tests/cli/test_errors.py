"""How commands end: exit codes, one line or one JSON object per error, what it most likely means, and no secret in any of it."""

from __future__ import annotations

import errno
import json
import logging
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import typer
from typer.main import get_command

from fanwire import errors
from fanwire.cli import app as cli
from fanwire.cli import diagnosis
from fanwire.cli import errors as endings
from fanwire.cli.connection import Place, load
from fanwire.cli.diagnosis import Rule, causes, diagnose
from fanwire.cli.errors import EXIT_CODES, Located, OutputClosed, guarded, report_of
from fanwire.cli.redaction import forget, hide, scrub, secrets_of
from fanwire.cli.running import Interrupted
from fanwire.errors import (
    AuthError,
    Closed,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    CursorExpired,
    DeclarationError,
    FanwireError,
    FieldError,
    Internal,
    InvalidName,
    InvalidPayload,
    MissingExtra,
    PartialPublish,
    PayloadTooLarge,
    PermissionDenied,
    Timeout,
    TokenExpired,
    Unauthenticated,
    Unavailable,
    UnknownTransport,
    Unsupported,
)
from fanwire.messages import Receipt
from tests.cli.commands import fanwire, one_line, one_object
from tests.cli.terminal import Terminal, environment

COMMANDS = ("transports", "publish", "tail", "check", "demo")


def raiser(error: BaseException) -> Callable[[], int]:
    def command() -> int:
        raise error

    return command


def raiser_of(error: BaseException) -> Callable[..., None]:
    def end(*args: object, **options: object) -> None:
        raise error

    return end


# ---------------------------------------------------------------- exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FanwireError("x"), 1),
        (Closed("x"), 1),
        (CursorExpired("x"), 1),
        (Internal("x"), 1),
        (ZeroDivisionError("x"), 1),
        (ConfigError("x"), 2),
        (UnknownTransport("x"), 2),
        (MissingExtra("x"), 2),
        (DeclarationError("x"), 2),
        (InvalidName("x"), 2),
        (InvalidPayload("c", "t", [FieldError("", "x")]), 2),
        (PayloadTooLarge("c", "t", 2, 1), 2),
        (Unsupported("x"), 2),
        (Unavailable("x"), 3),
        (ConnectFailed("x"), 3),
        (ConnectionLost("x"), 3),
        (Timeout("x"), 3),
        (AuthError("x"), 4),
        (Unauthenticated("x"), 4),
        (PermissionDenied("x"), 4),
        (TokenExpired("x"), 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_the_exit_code_follows_the_class(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raiser(error)) == code
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert err.startswith("fanwire: ")
    if isinstance(error, FanwireError):
        assert report_of(error).code == error.code
        assert report_of(error).retryable == error.retryable


def test_a_command_that_returns_has_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: 0) == 0
    assert guarded(lambda: 7) == 7
    assert capsys.readouterr() == ("", "")


def test_every_code_is_documented() -> None:
    for text in (EXIT_CODES, endings.__doc__ or ""):
        for code in ("0", "1", "2", "3", "4", "130", "143"):
            assert code in text.replace(":", " ").replace(";", " ").split()
    shown = fanwire("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command}" in shown
    for command in COMMANDS:
        text = fanwire(command, "--help").stdout
        assert "the broker refuses the credentials" in text
        assert "--debug" in text
        assert "\b" not in text
        assert "--json" in text


# ---------------------------------------------------------------- lines and objects


def test_a_line_has_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    guarded(raiser(PermissionDenied("the broker does not\nallow this\x1b[2J")))
    assert (
        capsys.readouterr().err
        == "fanwire: the broker does not allow this\ufffd[2J (the credentials are good, but must be granted this at the broker)\n"
    )
    guarded(raiser(ConfigError("write it so")))
    assert capsys.readouterr().err == "fanwire: write it so\n"
    guarded(raiser(Located("line 3 of x", ConfigError("is wrong"), "2 messages published before it")))
    assert capsys.readouterr().err == "fanwire: line 3 of x: is wrong; 2 messages published before it\n"


def test_an_object_has_code_message_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raiser(Timeout("too\nlate")), as_json=True) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert json.loads(err) == {"code": "timeout", "message": "too late", "remedy": "a longer --timeout may help", "retryable": True}
    guarded(raiser(Located("line 3 of x", ConfigError("is wrong"))), as_json=True)
    assert json.loads(capsys.readouterr().err) == {"code": "config", "message": "line 3 of x: is wrong", "remedy": None, "retryable": False}
    guarded(raiser(KeyError("x")), as_json=True)
    assert json.loads(capsys.readouterr().err)["code"] == "unexpected"


def test_a_partial_publish_has_the_remedy_of_what_refused_it() -> None:
    error = PartialPublish([Receipt("i", "c", "t", None, False), PermissionDenied("no")])
    report = report_of(error)
    assert (report.code, report.exit_code) == ("partial_publish", 1)
    assert report.remedy == diagnose(PermissionDenied("no")).remedy


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("error", "code", "word"),
    [(KeyboardInterrupt(), 130, "interrupted"), (Interrupted(signal.SIGINT), 130, "interrupted"), (Interrupted(signal.SIGTERM), 143, "terminated")],
)
def test_interrupts(error: BaseException, code: int, word: str, as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raiser(error), as_json=as_json) == code
    err = capsys.readouterr().err
    assert (json.loads(err)["code"] == word) if as_json else (err == f"fanwire: {word}\n")


def test_an_output_that_is_gone(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "_abandon_stdout", lambda: None)
    assert guarded(raiser(OutputClosed(None))) == 1
    assert capfd.readouterr() == ("", "")
    assert guarded(raiser(OutputClosed("No space left on device"))) == 1
    assert capfd.readouterr().err == "fanwire: standard output cannot be written (No space left on device)\n"


def test_an_output_that_is_gone_is_not_flushed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert guarded(raiser(OutputClosed(None))) == 1
        file.write("nobody reads this")
        monkeypatch.undo()
    assert (tmp_path / "out").read_text(encoding="utf-8") == ""


def test_what_the_extra_brings_may_be_missing_only_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raiser(ModuleNotFoundError("No module named 'rich.live'", name="rich.live"))) == 2
    assert 'pip install "fanwire[cli]"' in capsys.readouterr().err
    assert guarded(raiser(ModuleNotFoundError("No module named 'other'", name="other"))) == 1


# ---------------------------------------------------------------- --debug, and the log


def test_a_traceback_only_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(raiser(ZeroDivisionError("planted"))) == 1
    assert capsys.readouterr().err == "fanwire: unexpected ZeroDivisionError: planted (--debug shows the traceback)\n"
    assert guarded(raiser(ZeroDivisionError("planted")), debug=True) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "fanwire: unexpected ZeroDivisionError: planted"


@pytest.mark.parametrize("debug", [False, True])
def test_the_log_is_shown_with_debug_only(debug: bool, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    logger = logging.getLogger("fanwire.connection")

    def command() -> int:
        hide(["hunter2"])
        logger.warning("attempt %d with %s", 1, "hunter2")
        logger.debug("detail")
        return 0

    before = list(logging.getLogger("fanwire").handlers)
    assert guarded(command, debug=debug) == 0
    err = capsys.readouterr().err
    assert ("WARNING fanwire.connection: attempt 1 with ***" in err) == debug
    assert ("detail" in err) == debug
    assert logging.getLogger("fanwire").handlers == before


def test_python_itself_prints_no_warning_for_want_of_a_handler() -> None:
    code = "import logging; from fanwire.cli.errors import guarded; guarded(lambda: logging.getLogger('fanwire.x').warning('loud') or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert result.stderr == ""
    control = subprocess.run(
        [sys.executable, "-c", "import logging; logging.getLogger('fanwire.x').warning('loud')"], capture_output=True, text=True, check=True
    )
    assert "loud" in control.stderr


# ---------------------------------------------------------------- wrong usage


@pytest.mark.parametrize(
    ("arguments", "text", "help"),
    [
        (["nonsense"], "No such command 'nonsense'", "fanwire --help"),
        (["tial", "x"], "Did you mean 'tail'?", "fanwire --help"),
        (["tail", "--nonsense", "x"], "No such option: --nonsense", "fanwire tail --help"),
        (["tail"], "Missing argument 'CHANNEL'", "fanwire tail --help"),
        (["tail", "x", "--count", "many"], "--count", "fanwire tail --help"),
        (["publish", "x"], "Missing argument 'TOPIC'", "fanwire publish --help"),
        (["check", "memory://", "redis://app:hunter2@host/0"], "redis://app:***@host/0", "fanwire check --help"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], text: str, help: str) -> None:
    result = fanwire(*arguments)
    assert result.exit_code == 2
    line = one_line(result).replace("root", "fanwire")  # the test runner calls the program so
    assert text in line
    assert line.endswith(f"(see {help})")
    assert "hunter2" not in line
    assert one_object(fanwire(*arguments, "--json"))["code"] == "usage"


def test_as_a_part_of_another_program() -> None:
    group = get_command(cli.app)
    assert group.main(["transports", "memory"], standalone_mode=False) == 0
    assert group.main(["nonsense"], standalone_mode=False) == 2


@pytest.mark.parametrize(("error", "code"), [(typer.Abort(), 1), (typer.Exit(7), 7)])
def test_what_typer_itself_raises(error: Exception, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_end", raiser_of(error))
    assert fanwire("transports").exit_code == code


def test_a_defect_outside_of_a_command_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_end", raiser_of(ZeroDivisionError("planted")))
    assert isinstance(fanwire("transports").exception, ZeroDivisionError)


def test_behind_two_dashes_nothing_is_an_option() -> None:
    assert one_line(fanwire("tail", "--nonsense", "--", "--json")).startswith("No such option")


def test_without_a_command_there_is_help() -> None:
    result = fanwire()
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Commands:" in result.stderr


def test_in_a_terminal_an_error_is_one_line_too() -> None:
    for arguments, code in ((["tail", "--nonsense"], 2), (["check", "--pings", "0", "memory://"], 2), (["transports", "nonsense"], 2)):
        with Terminal([sys.executable, "-m", "fanwire.cli", *arguments]) as terminal:
            ended, text = terminal.wait()
        assert ended == code
        assert terminal.raw.count("\n") == 1
        assert text.startswith("fanwire: ")


def test_help_comes_without_what_only_commands_need() -> None:
    code = "import sys; from fanwire.cli.app import app; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment()).stdout.split())
    assert "fanwire.cli.app" in loaded
    heavy = {"rich.console", "asyncio", "fanwire.realtime", "fanwire.config", "pydantic_settings", "fanwire.cli.demo", "fanwire.cli.tail", "ssl"}
    assert loaded & heavy == set()


# ---------------------------------------------------------------- what an error most likely means


def because(cause: BaseException, error: BaseException | None = None) -> BaseException:
    error = error or ConnectFailed("no connection")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnknownTransport("x"), "unknown_scheme"),
        (MissingExtra("x"), "missing_extra"),
        (ConfigError("x"), "bad_option"),
        (because(FileNotFoundError(), ConfigError("x")), "bad_option"),
        (Unauthenticated("x"), "credentials"),
        (because(Unauthenticated("x")), "credentials"),
        (PermissionDenied("x"), "permission"),
        (TokenExpired("x"), "token_expired"),
        (CursorExpired("x"), "cursor_expired"),
        (because(ssl.SSLCertVerificationError("x")), "tls_certificate"),
        (because(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]")), "tls"),
        (because(socket.gaierror(-2, "Name or service not known")), "dns"),
        (because(ConnectionRefusedError(111, "refused")), "refused"),
        (because(OSError(errno.EHOSTUNREACH, "no route")), "unreachable"),
        (because(OSError(errno.ENOSPC, "full")), "no_connection"),
        (because(ConnectionResetError()), "closed"),
        (because(anyio.EndOfStream()), "closed"),
        (because(FileNotFoundError()), "no_socket"),
        (because(PermissionError()), "socket_permission"),
        (because(TimeoutError()), "timeout"),
        (because(ExceptionGroup("several", [OSError("x"), ConnectionRefusedError()]), OSError("All connection attempts failed")), "refused"),
        (Timeout("x"), "timeout"),
        (ConnectFailed("x"), "no_connection"),
        (ConnectionLost("x"), "connection_lost"),
        (Unavailable("x"), "unavailable"),
        (because(ConnectionResetError(), Internal("x")), "defect"),
        (ZeroDivisionError("x"), "unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_diagnosis(error: BaseException, kind: str) -> None:
    assert diagnose(error).kind == kind


def test_a_cause_is_found_through_other_errors() -> None:
    innermost = socket.gaierror(-2, "x")
    assert diagnose(because(because(innermost, OSError("y")))).kind == "dns"
    for suppressed, kind in ((False, "refused"), (True, "no_connection")):
        error = ConnectFailed("raised in the handler of another")
        error.__context__, error.__suppress_context__ = ConnectionRefusedError(), suppressed
        assert diagnose(error).kind == kind


def test_a_circle_of_causes_ends() -> None:
    first, second = ConnectFailed("a"), ConnectFailed("b")
    first.__cause__, second.__cause__ = second, first
    assert list(causes(first)) == [first, second]


def test_a_rule_for_a_client_names_its_classes_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class BusyLoadingError(Exception):
        pass

    BusyLoadingError.__module__, BusyLoadingError.__qualname__ = "redis.exceptions", "BusyLoadingError"

    class Derived(BusyLoadingError):
        pass

    monkeypatch.setattr(diagnosis, "RULES", [Rule("busy", ("redis.exceptions.BusyLoadingError",), "wait"), *diagnosis.RULES])
    assert diagnose(because(Derived())) == ("busy", "wait")
    assert diagnose(because(ValueError())).kind == "no_connection"


def test_every_error_of_fanwire_is_known() -> None:
    kinds = [
        value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AuthError | ConfigError | Unavailable | Timeout)
    ]
    assert len(kinds) > 8
    assert {kind.__name__ for kind in kinds if diagnose(kind("x")).kind == "unknown"} == set()


# ---------------------------------------------------------------- secrets


def test_secrets_are_taken_out_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        hide(secrets_of("redis://app:hunter%402@db:6379/0?token=abcdef&db=0", {"password": "swordfish", "history": 50}))
        raise ConnectFailed("no login as app with hunter%402, hunter@2, abcdef or swordfish at db; see redis://app:other@db")

    for debug in (False, True):
        guarded(command, debug=debug)
        err = capsys.readouterr().err
        for secret in ("hunter", "abcdef", "swordfish", "other@"):
            assert secret not in err
        assert "db" in err
    assert scrub("hunter@2") == "***"
    guarded(lambda: 0)  # the next command has other secrets
    assert scrub("hunter@2") == "hunter@2"


def test_short_texts_are_no_secrets() -> None:
    hide(["", "a", "ab"])
    try:
        assert scrub("abracadabra") == "abracadabra"
    finally:
        forget()


def test_loading_the_configuration_hides_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FANWIRE_URL", "redis://app:hunter2@db")
    monkeypatch.setenv("FANWIRE_OPTIONS__API_KEY", "swordfish")
    load(Place())
    try:
        assert scrub("hunter2 and swordfish") == "*** and ***"
    finally:
        forget()


def test_without_a_url_the_option_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    result = fanwire("tail", "x")
    assert result.exit_code == 2
    assert one_line(result).endswith("or give --url URL")
    result = fanwire("tail", "x", env={"FANWIRE_NONSENSE": "1"})
    assert "FANWIRE_NONSENSE: unknown setting" in one_line(result)
    assert "--url" not in one_line(result)


def test_the_configuration_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.toml").write_text('url = "nonsense://"\n', encoding="utf-8")
    assert "nonsense://" in one_line(fanwire("tail", "x", "--config", "other.toml"))
    assert "nonsense2://" in one_line(fanwire("tail", "x", env={"FANWIRE_URL": "nonsense2://"}))
    assert "nonsense3://" in one_line(fanwire("tail", "x", "--url", "nonsense3://", env={"FANWIRE_URL": "nonsense2://"}))
    assert "no such file" in one_line(fanwire("tail", "x", "--config", "missing.toml"))
    assert "--timeout must be more than 0 seconds, got nan" in one_line(fanwire("tail", "x", "--url", "memory://", "--timeout", "nan"))
    assert "namespace" in one_line(fanwire("tail", "x", "--url", "memory://", "--namespace", "a b"))


def test_the_application_has_no_duplicate_names() -> None:
    names = [command.name or (command.callback.__name__ if command.callback else "") for command in cli.app.registered_commands]
    assert sorted(names) == sorted(COMMANDS)
