"""What users write, under mypy and pyright in their strict modes: tests/typing/must_pass.py is accepted, each marked line of must_fail.py is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.untested import require

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FILES = ("declarations.py", "must_pass.py", "must_fail.py", "attrs_schemas.py", "blocking.py", "events_and_stats.py")
CONTROL = "control.py"
MARK = re.compile(r"# E(?:: (mypy|pyright))?$")

Lines = dict[tuple[str, int], str]
"""Text by file and line: what a checker says, or what is written there."""


def roots() -> list[str]:
    """Where the packages are, unless the interpreter finds them as installed ones."""
    found: list[str] = []
    for package in ("fanwire", "fanwire_schemas"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent.parent
        if root.name != "site-packages":  # mypy refuses to be told of that one
            found.append(str(root))
    return found


def marked(tool: str) -> Lines:
    lines: Lines = {}
    for file in FILES:
        text = (Path(__file__).parent / "typing" / file).read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if (found := MARK.search(line)) and found[1] in {None, tool}:
                lines[file, number] = line.strip()
    return lines


def mypy(directory: Path, cache: Path) -> Lines:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}", "--explicit-package-bases", "--no-error-summary"]
    environment = {**os.environ, "MYPYPATH": os.pathsep.join([str(directory), *roots()]), "NO_COLOR": "1"}
    result = subprocess.run([*command, "--no-pretty", *FILES, CONTROL], cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    found = re.finditer(r"^(\w+\.py):(\d+): error: (.*)$", result.stdout, re.MULTILINE)
    return {(line[1], int(line[2])): line[3] for line in found}


def pyright(directory: Path, cache: Path) -> Lines:
    config = {"include": ["."], "extraPaths": roots(), "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (directory / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(directory)]
    result = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    report: dict[str, Any] = json.loads(result.stdout)  # Any: pyright's own format
    said = [item for item in report["generalDiagnostics"] if item["severity"] != "information"]
    return {(Path(item["file"]).name, item["range"]["start"]["line"] + 1): item["message"] for item in said}


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_exactly_the_marked_lines_are_refused(checker: Any, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    tool = checker.__name__
    require(tool, importlib.util.find_spec(tool) is not None, f"types under {tool}")
    for file in FILES:
        shutil.copy(Path(__file__).parent / "typing" / file, tmp_path)
    # Proves that the checker sees our types at all: without them each name would be Any, and everything accepted.
    (tmp_path / CONTROL).write_text("from declarations import chat\n\nchat.status(3)\n", encoding="utf-8")
    assert pytestconfig.cache is not None
    said = checker(tmp_path, pytestconfig.cache.mkdir(f"typing-{tool}"))
    assert said.pop((CONTROL, 3), None), said
    expected = marked(tool)
    assert len(expected) > 80
    unexpected = {where: text for where, text in said.items() if where not in expected}
    assert unexpected == {}, f"{tool} refuses what users may write, or says more than is marked"
    accepted = {where: text for where, text in expected.items() if where not in said}
    assert accepted == {}, f"{tool} accepts what users must not write"
