"""A third party's transport, from its source to a proof: built as a wheel, installed beside fanwire's in a fresh environment, opened by its URL, and put to the kit in ten lines."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from fanwire.testing.checks import CHECKS
from tests.sources import CHECKOUT
from tests.untested import require

pytestmark = [pytest.mark.slow, pytest.mark.checkout]

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "poorfan"
version = "0.1"
requires-python = ">=3.11"
dependencies = ["fanwire"]

[project.entry-points."fanwire.transports"]
poor = "poorfan:PoorTransport"

[tool.hatch.build.targets.wheel]
include = ["poorfan.py"]
"""

TEN_LINES = """
from fanwire.testing.harness import Harness
from fanwire.testing.suite import TransportSuite
from fanwire.transport import TransportOptions
from poorfan import PoorTransport

class PoorHarness(Harness):
    crowd = 1000
    def transport(self, **options):
        return PoorTransport(TransportOptions(namespace=self.namespace, **options))

class TestPoor(TransportSuite):
    harness = PoorHarness
"""

BOAST = """
from dataclasses import replace

class Boaster(PoorTransport):
    @property
    def capabilities(self):
        return replace(super().capabilities, ordering="publisher")

class BoastingHarness(Harness):
    patience = 0.5

    def transport(self, **options):
        return Boaster(TransportOptions(namespace=self.namespace, **options))

class TestBoaster(TransportSuite):
    harness = BoastingHarness
"""

BY_URL = """
import sys
import anyio
from fanwire import Realtime
from fanwire.errors import UnknownTransport
from fanwire.registry import installed
from fanwire.testing.tools import Room

assert "poorfan" not in sys.modules
print(*installed()["poor"])

async def main():
    room = Room(number=1)
    async with Realtime.from_url("poor://here") as rt, Realtime.from_url("poor://here") as other, rt.subscribe(room.a) as messages:
        while True:
            await other.publish(room.a, 7)
            with anyio.move_on_after(0.01):
                print((await anext(messages)).data)
                break
    try:
        Realtime.from_url("pore://here")
    except UnknownTransport as error:
        print(error)

anyio.run(main)
print(sys.modules["fanwire"].__file__)
"""

NEEDED = ("anyio", "pydantic", "pydantic-settings", "typing-extensions", "pytest")


class Environment(NamedTuple):
    """A fresh environment, and a directory to work in."""

    python: Path
    directory: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run its interpreter, with nothing of this one's surroundings."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV", "COV", "PYTEST"))}
        return subprocess.run([str(self.python), *arguments], cwd=self.directory, env=clean, capture_output=True, text=True, timeout=50, check=False)


def closure(names: tuple[str, ...]) -> set[str]:
    """Return the distributions that these need, as they are installed here."""
    found: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def locked(names: set[str]) -> Iterator[str]:
    """Yield what the lock file says about these, with hashes."""
    for block in re.split(r"\n(?=\S)", (CHECKOUT / "requirements.lock").read_text(encoding="utf-8")):
        match = re.match(r"([A-Za-z0-9._-]+)==", block)
        if match is not None and canonicalize_name(match[1]) in names:
            yield block


def done(*command: object, cwd: Path) -> None:
    """Run a command that must not fail."""
    result = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=50, check=False)
    assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Where both wheels are installed, and no checkout can be reached."""
    uv = Path(sys.executable).with_name("uv")
    require("uv", uv.exists(), "building and installing wheels")
    directory = tmp_path_factory.mktemp("toy")
    dist, toy, away = directory / "dist", directory / "poorfan", directory / "away"
    for made in (toy, away):
        made.mkdir()
    shutil.copy(Path(__file__).with_name("poor.py"), toy / "poorfan.py")
    (toy / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    done(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", dist, cwd=CHECKOUT)
    # The backend is the one that is installed here: nothing is fetched to build.
    build = (uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable)
    done(*build, "--out-dir", dist, ".", cwd=toy)
    requirements = directory / "requirements.txt"
    requirements.write_text("\n".join(locked(closure(NEEDED))), encoding="utf-8")
    python = directory / "env" / "bin" / "python"
    done(uv, "venv", "--quiet", "--python", sys.executable, directory / "env", cwd=away)
    done(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--require-hashes", "-r", requirements, cwd=away)
    wheels = sorted(dist.glob("*.whl"))
    assert [wheel.name.partition("-")[0] for wheel in wheels] == ["fanwire", "poorfan"]
    done(uv, "pip", "install", "--quiet", "--python", python, "--no-deps", "--no-index", *wheels, cwd=away)
    done(uv, "pip", "check", "--quiet", "--python", python, cwd=away)
    (away / "test_poor.py").write_text(TEN_LINES, encoding="utf-8")
    (away / "test_boaster.py").write_text(f"{TEN_LINES}{BOAST}".replace("TestPoor", "_Unused"), encoding="utf-8")
    return Environment(python, away)


def test_it_takes_ten_lines() -> None:
    assert len([line for line in TEN_LINES.splitlines() if line.strip()]) <= 10


def test_it_is_opened_by_its_url(environment: Environment) -> None:
    result = environment.run("-W", "error", "-c", BY_URL)
    assert (result.returncode, result.stderr) == (0, "")
    registered, heard, error, origin = result.stdout.splitlines()
    assert registered == "poor poorfan:PoorTransport poorfan 0.1"
    assert heard == "7"
    assert "did you mean poor://?" in error
    assert Path(origin).is_relative_to(environment.python.parents[1]), "fanwire is not the installed wheel's"


def test_the_kit_proves_it(environment: Environment) -> None:
    """Every check that applies to it runs, on the one event loop there is, and passes."""
    result = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "test_poor.py")
    assert result.returncode == 0, result.stdout[-3000:]

    # What the ten lines leave out of the harness is not tried there.
    applying = [check for check in CHECKS if not check.needs and not check.uses]
    assert len(applying) > 20
    assert f"{len(applying)} passed" in result.stdout


def test_the_kit_finds_out_one_that_claims_too_much(environment: Environment) -> None:
    """Or the proof above would show nothing."""
    result = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_boaster.py", "-k", "B1-order")
    assert result.returncode == 1, result.stdout[-3000:]
    assert "1 failed" in result.stdout
    assert "B1-order_one_publisher-asyncio" in result.stdout
