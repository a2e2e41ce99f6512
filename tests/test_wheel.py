"""The check of what is built: it passes what the real build makes of the sources, and finds each way in which that could be wrong."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fanwire import __version__
from tests.sources import CHECKOUT
from tests.untested import require

pytestmark = pytest.mark.checkout

BASE = f"fanwire-{__version__}"
INFO = f"{BASE}.dist-info"
VERSION = f"Version: {__version__}".encode()

Change = Callable[[dict[str, bytes]], object]
"""Does something to the files of an archive."""


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_wheel", CHECKOUT / "scripts" / "check_wheel.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout as it is now, with what a working copy has lying about."""
    copy = tmp_path_factory.mktemp("wheel") / "checkout"
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache", ".hypothesis"))
    cache = copy / "core/fanwire/__pycache__"
    cache.mkdir()
    (cache / "channels.cpython-311.pyc").write_bytes(b"")
    (copy / "core/.mypy_cache").mkdir()
    (copy / "core/.mypy_cache/x.json").write_text("{}", encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def built(sources: Path) -> tuple[Path, Path]:
    """The wheel and the source distribution that the real build makes of them."""
    require("hatchling", importlib.util.find_spec("hatchling") is not None, "building the wheel")
    dist = sources.parent / "dist"
    for target in ("sdist", "wheel"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(dist)]
        subprocess.run(command, cwd=sources, check=True, capture_output=True)
    return dist / f"{BASE}-py3-none-any.whl", dist / f"{BASE}.tar.gz"


def test_the_real_build_is_right(check: ModuleType, sources: Path, built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    assert check.wheel_faults(wheel, sources) == []
    assert check.sdist_faults(sdist, sources) == []
    names, files = check.read_wheel(wheel)
    assert len(names) > 50
    assert {name.partition("/")[0] for name in names} >= {"fanwire", "fanwire_memory", "fanwire_schemas", INFO}
    assert files["fanwire/channels.py"] == (sources / "core/fanwire/channels.py").read_bytes()
    with tarfile.open(sdist) as archive:
        assert {f"{BASE}/tests/test_wheel.py", f"{BASE}/scripts/check_wheel.py", f"{BASE}/Makefile"} <= set(archive.getnames())


def test_the_command_says_so(sources: Path, built: tuple[Path, Path]) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        script = [sys.executable, str(sources / "scripts/check_wheel.py"), *map(str, arguments)]
        return subprocess.run(script, capture_output=True, text=True, check=False)

    good = run(*built)
    assert (good.returncode, good.stderr) == (0, "")
    assert re.search(r"whl: \d+ files, byte for byte", good.stdout)
    assert run(built[0]).returncode == 2
    page = sources / "docs/decisions.md"
    was = page.read_text(encoding="utf-8")
    page.write_text(f"{was}\nchanged\n", encoding="utf-8")
    try:
        bad = run(*built)
    finally:
        page.write_text(was, encoding="utf-8")
    assert (bad.returncode, bad.stderr) == (1, "other bytes in the source distribution than on disk: docs/decisions.md\n")


# ---------------------------------------------------------------- planted faults


def in_wheel(wheel: Path, change: Change, directory: Path, *, record: bool = True) -> Path:
    """Return a copy of the wheel with a change, which RECORD knows of unless that is the fault."""
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    before = dict(files)
    change(files)
    name = f"{INFO}/RECORD"
    if record and name in files and files[name] == before[name]:
        files[name] = record_of(files)
    changed = directory / wheel.name
    with zipfile.ZipFile(changed, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return changed


def record_of(files: dict[str, bytes]) -> bytes:
    lines = [f"{INFO}/RECORD,,"]
    for name, content in files.items():
        if name != f"{INFO}/RECORD":
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            lines.append(f"{name},sha256={digest},{len(content)}")
    return "\n".join(lines).encode()


def put(name: str, content: bytes = b"") -> Change:
    return lambda files: files.update({name: content})


def drop(name: str) -> Change:
    return lambda files: files.pop(name)


def swap(name: str, old: bytes, new: bytes) -> Change:
    """Replace what must be there, so that no planted fault can go stale."""

    def change(files: dict[str, bytes]) -> None:
        assert old in files[name], f"{old!r} is not in {name} any more"
        files[name] = files[name].replace(old, new, 1)

    return change


METADATA, ENTRIES, WHEEL, RECORD = (f"{INFO}/{name}" for name in ("METADATA", "entry_points.txt", "WHEEL", "RECORD"))

WHEEL_FAULTS = {
    "a module is missing": (drop("fanwire/channels.py"), "missing from the wheel: fanwire/channels.py"),
    "a module of a later package is missing": (drop("fanwire_schemas/attrs.py"), "missing from the wheel: fanwire_schemas/attrs.py"),
    "a module is extra": (put("fanwire/leftover.py"), "in the wheel, but not in the sources: fanwire/leftover.py"),
    "a package is extra": (put("tests/__init__.py"), "in the wheel, but not in the sources: tests/__init__.py"),
    "a cache is in it": (put("fanwire/__pycache__/x.pyc"), "in the wheel, but not in the sources: fanwire/__pycache__/x.pyc"),
    "a file lies beside the packages": (put("NOTES.md"), "a file beside the packages: NOTES.md"),
    "a byte is another": (swap("fanwire/names.py", b'"""', b"'''"), "other bytes in the wheel than on disk: fanwire/names.py"),
    "py.typed is missing": (drop("fanwire_memory/py.typed"), "not typed: fanwire_memory/py.typed is missing from the wheel"),
    "py.typed has content": (put("fanwire/py.typed", b"partial\n"), "other bytes in the wheel than on disk: fanwire/py.typed"),
    "the licence is missing": (drop(f"{INFO}/licenses/LICENSE"), f"missing from the wheel's metadata: {INFO}/licenses/LICENSE"),
    "the licence is another": (put(f"{INFO}/licenses/LICENSE", b"MIT"), "the wheel's LICENSE is another one than on disk"),
    "the metadata is missing": (drop(METADATA), f"missing from the wheel's metadata: {METADATA}"),
    "the metadata has more files": (put(f"{INFO}/top_level.txt"), f"nobody asked for it: {INFO}/top_level.txt"),
    "another version": (swap(METADATA, VERSION, b"Version: 9.9"), f"metadata: Version lacks '{__version__}'"),
    "another summary": (swap(METADATA, b"Summary: Typed", b"Summary: Untyped"), "metadata: Summary has 'Untyped"),
    "another Python": (swap(METADATA, b"Requires-Python: >=3.11", b"Requires-Python: >=3.9"), "metadata: Requires-Python has '>=3.9'"),
    "a requirement is missing": (swap(METADATA, b"Requires-Dist: anyio>=4.11\n", b""), "metadata: Requires-Dist lacks ('anyio'"),
    "a requirement is extra": (
        swap(METADATA, b"Requires-Dist: anyio", b"Requires-Dist: numpy\nRequires-Dist: anyio"),
        "metadata: Requires-Dist has ('numpy'",
    ),
    "a lower bound is another": (swap(METADATA, b"anyio>=4.11", b"anyio>=4.0"), "metadata: Requires-Dist lacks ('anyio', '', '>=4.11', '')"),
    "an extra lost its package": (swap(METADATA, b"Requires-Dist: trio>=0.31; extra == 'all'\n", b""), "metadata: Requires-Dist lacks ('trio'"),
    "an extra is missing": (swap(METADATA, b"Provides-Extra: msgspec\n", b""), "metadata: Provides-Extra lacks 'msgspec'"),
    "a classifier is extra": (
        swap(METADATA, b"Classifier: ", b"Classifier: Private :: Do Not Upload\nClassifier: "),
        "metadata: Classifier has 'Private",
    ),
    "a field is extra": (swap(METADATA, b"Name: ", b"Author: somebody\nName: "), "metadata: Author has 'somebody'"),
    "another description": (swap(METADATA, b"\n# fanwire\n", b"\n# something else\n"), "metadata: the description is not README.md"),
    "an entry point is missing": (swap(ENTRIES, b"memory = ", b"memories = "), "memory = fanwire_memory:MemoryTransport is missing"),
    "an entry point is extra": (swap(ENTRIES, b"memory = ", b"memories = "), "memories = fanwire_memory:MemoryTransport is not declared"),
    "an entry point leads elsewhere": (
        swap(ENTRIES, b"fanwire.cli:main", b"fanwire.cli:run"),
        "console_scripts: fanwire = fanwire.cli:run is not declared",
    ),
    "for one platform": (swap(WHEEL, b"Tag: py3-none-any", b"Tag: cp311-cp311-linux_x86_64"), "not for every platform"),
    "not pure": (swap(WHEEL, b"Root-Is-Purelib: true", b"Root-Is-Purelib: false"), "not for every platform"),
    "RECORD lacks a file": (swap(RECORD, b"fanwire/py.typed,", b"fanwire/py.type,"), "RECORD: fanwire/py.typed is missing"),
    "RECORD has one more": (swap(RECORD, b"fanwire/py.typed,", b"fanwire/py.type,"), "RECORD: fanwire/py.type is not in the wheel"),
    "RECORD has another hash": (
        swap(RECORD, b"fanwire/names.py,sha256=", b"fanwire/names.py,sha256=A"),
        "RECORD: hash or size of fanwire/names.py is wrong",
    ),
    "a path leads out": (put("fanwire/../../evil.py"), "leads elsewhere: fanwire/../../evil.py"),
    "a path is absolute": (put("/etc/evil"), "leads elsewhere: /etc/evil"),
}


@pytest.mark.parametrize("fault", WHEEL_FAULTS)
def test_a_fault_in_the_wheel_is_found(check: ModuleType, sources: Path, built: tuple[Path, Path], tmp_path: Path, fault: str) -> None:
    change, said = WHEEL_FAULTS[fault]
    lines: list[str] = check.wheel_faults(in_wheel(built[0], change, tmp_path), sources)
    assert any(said in line for line in lines), lines


def test_a_copy_without_a_fault_passes(check: ModuleType, sources: Path, built: tuple[Path, Path], tmp_path: Path) -> None:
    """The planted faults are what is found above, not the copying."""
    assert check.wheel_faults(in_wheel(built[0], lambda _: None, tmp_path), sources) == []
    assert check.sdist_faults(in_sdist(built[1], lambda _: None, tmp_path), sources) == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_in_the_wheel_twice_is_found(check: ModuleType, sources: Path, built: tuple[Path, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copy(built[0], tmp_path))
    with zipfile.ZipFile(copy, "a") as archive:
        archive.writestr("fanwire/py.typed", b"")
    assert check.wheel_faults(copy, sources) == ["2 times in the wheel: fanwire/py.typed"]


def test_a_wheel_of_another_name_is_found(check: ModuleType, sources: Path, built: tuple[Path, Path], tmp_path: Path) -> None:
    copy = Path(shutil.copy(built[0], tmp_path / f"{BASE}-cp311-none-any.whl"))
    assert check.wheel_faults(copy, sources) == [f"the wheel is called {copy.name}, not {BASE}-py3-none-any.whl"]


def in_sdist(sdist: Path, change: Change, directory: Path) -> Path:
    with tarfile.open(sdist) as archive:
        members = [member for member in archive.getmembers() if member.isfile()]
        files = {member.name: opened.read() for member in members if (opened := archive.extractfile(member)) is not None}
    change(files)
    changed = directory / sdist.name
    with tarfile.open(changed, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return changed


PKG_INFO = f"{BASE}/PKG-INFO"

SDIST_FAULTS = {
    "a test is missing": (drop(f"{BASE}/tests/test_wheel.py"), "missing from the source distribution: tests/test_wheel.py"),
    "the readme is missing": (drop(f"{BASE}/README.md"), "missing from the source distribution: README.md"),
    "the lock file is missing": (drop(f"{BASE}/requirements.lock"), "missing from the source distribution: requirements.lock"),
    "a file is extra": (put(f"{BASE}/notes.txt"), "nobody asked for it: notes.txt"),
    "a cache is in it": (put(f"{BASE}/tests/__pycache__/x.pyc"), "nobody asked for it: tests/__pycache__/x.pyc"),
    "a byte is another": (put(f"{BASE}/LICENSE", b"MIT"), "other bytes in the source distribution than on disk: LICENSE"),
    "a file lies outside": (put("elsewhere/setup.py"), f"outside {BASE}/ in the source distribution: elsewhere/setup.py"),
    "the metadata is missing": (drop(PKG_INFO), "metadata: Name lacks 'fanwire'"),
    "the metadata is another": (swap(PKG_INFO, VERSION, b"Version: 9.9"), "metadata: Version has '9.9'"),
    "a path leads out": (put(f"{BASE}/../evil.py"), "leads elsewhere"),
}


@pytest.mark.parametrize("fault", SDIST_FAULTS)
def test_a_fault_in_the_source_distribution_is_found(check: ModuleType, sources: Path, built: tuple[Path, Path], tmp_path: Path, fault: str) -> None:
    change, said = SDIST_FAULTS[fault]
    lines: list[str] = check.sdist_faults(in_sdist(built[1], change, tmp_path), sources)
    assert any(said in line for line in lines), lines


def test_a_link_in_the_source_distribution_is_found(check: ModuleType, sources: Path, built: tuple[Path, Path], tmp_path: Path) -> None:
    copy = in_sdist(built[1], drop(f"{BASE}/LICENSE"), tmp_path)
    with tarfile.open(copy) as archive:
        members = [(member, archive.extractfile(member)) for member in archive.getmembers()]
        link = tarfile.TarInfo(f"{BASE}/LICENSE")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as other:
            for member, content in members:
                other.addfile(member, content)
            other.addfile(link)
    copy.unlink()
    lines: list[str] = check.sdist_faults((tmp_path / "other.tar.gz").rename(copy), sources)
    assert f"neither file nor content: {BASE}/LICENSE" in lines


# ---------------------------------------------------------------- what changes on disk


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("core/fanwire/new.py", "missing from the wheel: fanwire/new.py"),
        ("core/fanwire/hub/data.json", "missing from the wheel: fanwire/hub/data.json"),
        ("transports/fanwire_new/__init__.py", "missing from the wheel: fanwire_new/__init__.py"),
    ],
)
def test_a_file_that_the_build_does_not_know_of_is_found(check: ModuleType, sources: Path, built: tuple[Path, Path], path: str, said: str) -> None:
    added = sources / path
    added.parent.mkdir(exist_ok=True)
    added.write_text("", encoding="utf-8")
    try:
        assert said in check.wheel_faults(built[0], sources)
        assert f"missing from the source distribution: {path}" in check.sdist_faults(built[1], sources)
    finally:
        added.unlink()
        if not any(added.parent.iterdir()):
            added.parent.rmdir()
    assert check.wheel_faults(built[0], sources) == []


def test_a_declaration_the_check_does_not_know_is_told(check: ModuleType, sources: Path, built: tuple[Path, Path]) -> None:
    config, ignore = sources / "pyproject.toml", sources / ".gitignore"
    was = config.read_text(encoding="utf-8")
    config.write_text(was.replace('name = "fanwire"\n', 'name = "fanwire"\nmaintainers = [{ name = "somebody" }]\n', 1), encoding="utf-8")
    try:
        assert any("project.maintainers" in line for line in check.wheel_faults(built[0], sources))
    finally:
        config.write_text(was, encoding="utf-8")
    patterns = ignore.read_text(encoding="utf-8")
    ignore.write_text(f"{patterns}\ncore/*/generated.py\n", encoding="utf-8")
    try:
        with pytest.raises(ValueError, match="knows only names"):
            check.wheel_faults(built[0], sources)
    finally:
        ignore.write_text(patterns, encoding="utf-8")
