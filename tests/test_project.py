"""The files around the code: the lock file, what may not be committed, the scripts and the wheel's check."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.sources import CHECKOUT, project
from tests.untested import require

pytestmark = pytest.mark.checkout

REGISTRY = re.compile(
    r"pypi\.(?:org|io)|pythonhosted\.org|npmjs\.(?:org|com)|registry\.yarnpkg|(?:static|index)\.crates\.io|crates\.io/api|proxy\.golang\.org"
    r"|repo1?\.maven|maven\.org|deb\.debian\.org|security\.debian\.org|archive\.ubuntu\.com",
    re.IGNORECASE,
)
MACHINE_PATH = re.compile(r"(?<![\w.:/~*-])(?:/(?:root|home/\w+|Users/\w+|work|opt/wheels|private/var|var/folders)/|[A-Z]:\\Users\\)")


def committed() -> Iterator[tuple[str, str]]:
    """Yield path and text of every text file that is or would be committed."""
    git = shutil.which("git")
    require("git", git is not None and (CHECKOUT / ".git").exists(), "the repository itself, to know which files belong to it")
    listed = subprocess.run(
        [str(git), "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = CHECKOUT / name
        if path.is_file():
            try:
                yield name, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture


def test_no_file_names_a_registry_or_a_path_of_one_machine() -> None:
    seen = 0
    found: list[str] = []
    for name, text in committed():
        seen += 1
        for number, line in enumerate(text.splitlines(), 1):
            if match := REGISTRY.search(line) or MACHINE_PATH.search(line):
                found.append(f"{name}:{number}: {match[0]}")
    assert seen > 10
    assert not found


@pytest.mark.parametrize(
    "line", ["https://files.python" + "hosted.org/x", "--index-url https://py" + "pi.org/simple", "see /ro" + "ot/x", "open('/home/" + "someone/x')"]
)
def test_what_may_not_be_committed_is_recognised(line: str) -> None:
    assert REGISTRY.search(line) or MACHINE_PATH.search(line)


@pytest.mark.parametrize("line", ["/usr/bin/env bash", "https://example.com/home/page/x", "~/work/x", "core/fanwire/hub", "$HOME/x", "docs/work/x"])
def test_what_may_be_committed_is_left_alone(line: str) -> None:
    assert not REGISTRY.search(line)
    assert not MACHINE_PATH.search(line)


# ---------------------------------------------------------------- the lock file


def locked() -> dict[str, tuple[str, str]]:
    """Return ``{package: (version, rest of its entry)}`` of requirements.lock."""
    text = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)(.*?)(?=^[A-Za-z0-9]|\Z)", text, re.MULTILINE | re.DOTALL)
    return {canonicalize_name(name): (version, rest) for name, version, rest in entries}


def test_the_lock_file_holds_versions_and_hashes_and_no_addresses() -> None:
    text = (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    shape = re.compile(r"[A-Za-z0-9._-]+==\S+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in lines if not shape.fullmatch(line)] == []
    assert [line for line in text.splitlines() if re.search(r"://|^\s*-(-index|-find|-extra|f|i)|@ ", line)] == []
    entries = locked()
    assert len(entries) > 30
    assert [name for name, (_, rest) in entries.items() if "--hash=sha256:" not in rest] == []


def requirements() -> Iterator[Requirement]:
    """Yield every direct requirement of pyproject.toml: of users, of extras and of developers."""
    config = project()
    yield from map(Requirement, config["project"]["dependencies"])
    yield from map(Requirement, config["build-system"]["requires"])
    for extra in config["project"]["optional-dependencies"].values():
        yield from map(Requirement, extra)
    for group in config["dependency-groups"].values():
        yield from (Requirement(entry) for entry in group if isinstance(entry, str))


def test_the_lock_file_satisfies_pyproject() -> None:
    entries = locked()
    wrong: list[str] = []
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        if name == "fanwire":
            continue  # the extra `all` names this project's own extras
        version, _ = entries.get(name, ("nothing", ""))
        if version == "nothing" or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement} is locked at {version}: run make lock")
    assert not wrong


def test_no_lock_file_that_records_addresses() -> None:
    names = {Path(name).name for name, _ in committed()}
    assert "requirements.lock" in names
    assert names & {"uv.lock", "poetry.lock", "Pipfile.lock"} == set()


# ---------------------------------------------------------------- scripts


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["scripts/bootstrap", "scripts/test-wheel", ".ci/run"])
def test_shell_scripts_are_sound(name: str) -> None:
    path = CHECKOUT / name
    assert path.stat().st_mode & 0o100, f"{name} is not executable"
    bash = shutil.which("bash")
    require("bash", bash is not None, "syntax check of the shell scripts")
    subprocess.run([str(bash), "-n", str(path)], check=True, capture_output=True)
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")


def test_make_help_lists_every_target() -> None:
    make = shutil.which("make")
    require("make", make is not None, "the Makefile")
    listed = subprocess.run([str(make), "help"], cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout
    targets = {
        target
        for line in re.findall(r"^\.PHONY: (.+)$", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        for target in line.split()
    }
    assert targets >= {"demo", "test", "test-wheel", "lint", "typecheck", "bench", "docs", "lock", "clean"}
    assert set(re.findall(r"^  make ([a-z-]+)", listed, re.MULTILINE)) == targets


META = {f"fanwire-0.1.0.dist-info/{name}" for name in ("METADATA", "entry_points.txt", "licenses/LICENSE")}
WHOLE = {"fanwire/__init__.py", "fanwire/py.typed", "fanwire_x/__init__.py", "fanwire_x/py.typed"}


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        pytest.param(META | WHOLE, None, id="right"),
        pytest.param(META | WHOLE - {"fanwire_x/__init__.py"}, "missing from the wheel: fanwire_x/__init__.py", id="module"),
        pytest.param(META | WHOLE - {"fanwire_x/py.typed"}, "not typed: fanwire_x/py.typed is missing", id="py.typed"),
        pytest.param(META | WHOLE | {"NOTES.md"}, "a file beside the packages: NOTES.md", id="stray"),
        pytest.param(META | WHOLE | {"tests/__init__.py"}, "not in the sources: tests/__init__.py", id="foreign-package"),
        pytest.param(META | {name for name in WHOLE if "_x" not in name}, "missing from the wheel: fanwire_x/__init__.py", id="package"),
        pytest.param(WHOLE, "missing from the wheel's metadata: METADATA", id="metadata"),
    ],
)
def test_the_wheel_check_finds_what_is_wrong(names: set[str], complaint: str | None) -> None:
    lines: list[str] = script("check_wheel").differences(names, WHOLE)
    if complaint is None:
        assert lines == []
    else:
        assert any(complaint in line for line in lines), lines


def test_every_markdown_link_leads_somewhere() -> None:
    links = script("check_links")
    files: list[Path] = list(links.markdown_files(CHECKOUT))
    assert CHECKOUT / "CONTRIBUTING.md" in files
    assert [f"{path.name}: {problem}" for path in files for problem in links.broken_links(path)] == []


def test_a_markdown_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One thing\n\n## One thing\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](other.md) [b](other.md#one-thing-1) [c](https://example.com/none) [d](#page)\n"
        "`[code](none.md)`\n```\n[fence](none.md)\n```\n[gone](none.md) [wrong](other.md#two) ![picture](none.png)\n\n[ref]: missing.md\n",
        encoding="utf-8",
    )
    found: list[str] = script("check_links").broken_links(page)
    assert found == ["none.md: no such file", "other.md#two: no such heading", "none.png: no such file", "missing.md: no such file"]
