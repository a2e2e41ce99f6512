"""Shell completion: what a real bash offers, what zsh and fish are told, and how it gets installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fanwire.cli.completion import complete_scheme, complete_url
from fanwire.cli.transports import schemes
from tests.cli.terminal import environment
from tests.untested import require

COMMANDS = {"transports", "publish", "tail", "check", "demo"}


@pytest.fixture
def bash() -> str:
    found = shutil.which("bash")
    require("bash", found is not None, "what completion offers in it")
    return str(found)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A search path on which the program is called `fanwire`."""
    directory = tmp_path / "bin"
    directory.mkdir()
    script = directory / "fanwire"
    script.write_text(f'#!/bin/sh\nexec {json.dumps(sys.executable)} -m fanwire.cli "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return f"{directory}{os.pathsep}{os.environ.get('PATH', '')}"


def offered(bash: str, path: str, *words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    script = """
    eval "$(fanwire --show-completion)"
    complete -p fanwire >/dev/null || exit 9
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _fanwire_completion fanwire
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    result = subprocess.run(
        [bash, "--norc", "-c", script, "bash", "fanwire", *words], capture_output=True, text=True, check=False, env=environment(PATH=path)
    )
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.split()


def test_bash_completes_commands(bash: str, path: str) -> None:
    assert set(offered(bash, path, "")) == COMMANDS
    assert offered(bash, path, "ta") == ["tail"]
    assert offered(bash, path, "nonsense") == []


def test_bash_completes_options(bash: str, path: str) -> None:
    assert {"--topic", "--from", "--count", "--for", "--json", "--url"} <= set(offered(bash, path, "tail", "--"))
    assert offered(bash, path, "publish", "--he") == ["--header", "--help"]
    assert offered(bash, path, "--vers") == ["--version"]


def test_bash_completes_urls_and_transports(bash: str, path: str) -> None:
    assert offered(bash, path, "tail", "--url", "mem") == ["memory://"]
    assert offered(bash, path, "check", "me") == ["memory://"]
    assert offered(bash, path, "transports", "mem") == ["memory"]
    assert offered(bash, path, "check", "nonsense") == []


def test_schemes_and_urls() -> None:
    assert complete_scheme("") == list(schemes())
    assert "memory://" in complete_url("")
    assert complete_url("memory://") == ["memory://"]
    assert complete_url("memory://x") == []


@pytest.mark.parametrize(
    ("shell", "more", "expected"),
    [
        ("zsh", {"_TYPER_COMPLETE_ARGS": "fanwire ta"}, '"tail":"Show messages as they come'),
        ("fish", {"_TYPER_COMPLETE_ARGS": "fanwire ta", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "tail\tShow messages as they come"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "fanwire check mem"}, '"memory\\\\://"'),
        ("fish", {"_TYPER_COMPLETE_ARGS": "fanwire check mem", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, "memory://"),
    ],
)
def test_other_shells_are_answered(shell: str, more: dict[str, str], expected: str) -> None:
    """By their protocols: neither has to be installed."""
    result = subprocess.run(
        [sys.executable, "-m", "fanwire.cli"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(_FANWIRE_COMPLETE=f"complete_{shell}", **more),
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert expected in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_each_shell_has_its_script(shell: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "fanwire.cli"], capture_output=True, text=True, check=False, env=environment(_FANWIRE_COMPLETE=f"source_{shell}")
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "_FANWIRE_COMPLETE" in result.stdout
    assert f"complete_{shell}" in result.stdout


def test_installing_it(bash: str, path: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    changed = environment(PATH=path, HOME=str(home))
    result = subprocess.run([bash, "--norc", "-c", "fanwire --install-completion; exit $?"], capture_output=True, text=True, check=False, env=changed)
    assert (result.returncode, result.stderr) == (0, "")
    assert "completion installed in" in result.stdout
    assert (home / ".bashrc").is_file()
    check = subprocess.run(
        [bash, "--rcfile", str(home / ".bashrc"), "-ic", "complete -p fanwire"], capture_output=True, text=True, check=False, env=changed
    )
    assert "_fanwire_completion" in check.stdout


def test_an_unknown_shell() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "fanwire.cli"], capture_output=True, text=True, check=False, env=environment(_FANWIRE_COMPLETE="source_tcsh")
    )
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "Shell tcsh not supported.\n")
