"""Compare what was built with the source tree, file by file and field by field: nothing is missing, nothing is extra, and every byte is the one on disk.

Usage: ``python scripts/check_wheel.py build/dist/fanwire-0.1.0-py3-none-any.whl build/dist/fanwire-0.1.0.tar.gz``

Of the wheel: the files of all packages, ``py.typed``, the licence, RECORD's hashes, the tag, entry points and all metadata as ``pyproject.toml`` declares them. Of the
source distribution: every file that ``pyproject.toml`` names, and the same metadata.
"""

from __future__ import annotations

import base64
import csv
import email
import hashlib
import io
import re
import sys
import tarfile
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ("ROOTS", "differences", "sdist_faults", "wheel_faults")

ROOTS = ("core", "transports", "contrib")

Files = Mapping[str, bytes]
"""Path to content."""

Project = Mapping[str, Any]
"""The table ``[project]``. ``Any``: TOML."""

# ---------------------------------------------------------------- what is on disk


def ignored(checkout: Path) -> tuple[str, ...]:
    """Return the patterns of ``.gitignore``, which the build leaves out too.

    Raises:
        ValueError: one of them is about more than the name of a file or directory.
    """
    path = checkout / ".gitignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    patterns = tuple(line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#"))
    for pattern in patterns:
        if "/" in pattern or pattern.startswith("!"):
            raise ValueError(f".gitignore has {pattern!r}: scripts/check_wheel.py knows only names; teach it that pattern")
    return patterns


def files_below(directory: Path, skip: tuple[str, ...]) -> Iterator[Path]:
    """Yield the files below a directory, or the file itself, but for those that match one of the patterns."""
    for path in sorted(directory.rglob("*")) if directory.is_dir() else [directory]:
        inside = path.relative_to(directory).parts
        if path.is_file() and not any(fnmatch(part, pattern) for part in inside for pattern in skip):
            yield path


def packaged_files(checkout: Path) -> Files:
    """Return, by its path inside a wheel, every file under the source roots."""
    skip = ignored(checkout)
    return {
        path.relative_to(checkout / root).as_posix(): path.read_bytes()
        for root in ROOTS
        for path in files_below(checkout / root, skip)
        if path.parent != checkout / root  # beside the packages, where nothing belongs to one
    }


def distributed_files(checkout: Path) -> Files:
    """Return, by its path below the checkout, every file that belongs to the source distribution."""
    include: list[str] = _toml(checkout)["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    always = ("pyproject.toml", "README.md", "LICENSE", ".gitignore")
    skip = ignored(checkout)
    paths = [checkout / name.strip("/") for name in (*include, *always)]
    return {path.relative_to(checkout).as_posix(): path.read_bytes() for top in paths if top.exists() for path in files_below(top, skip)}


def _toml(checkout: Path) -> dict[str, Any]:
    return tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))


def version_of(checkout: Path) -> str:
    """Return the version that the sources say."""
    found = re.search(r'^__version__(?:: \S+)? = "([^"]+)"$', (checkout / "core/fanwire/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError("core/fanwire/__init__.py has no line __version__ = ...")
    return found[1]


# ---------------------------------------------------------------- names and bytes


def differences(names: set[str], wanted: set[str]) -> list[str]:
    """Return one line for each file that a wheel lacks or should not have.

    Args:
        names: The paths in the wheel.
        wanted: The paths that ought to be in it, apart from its metadata.

    Returns:
        Nothing if the wheel is right.
    """
    shipped = {name for name in names if not _top(name).endswith(".dist-info")}
    lines = [f"missing from the wheel: {name}" for name in sorted(wanted - shipped)]
    lines += [f"in the wheel, but not in the sources: {name}" for name in sorted(shipped - wanted)]
    lines += [f"a file beside the packages: {name}" for name in sorted(shipped) if "/" not in name]
    packages = {_top(name) for name in shipped | wanted if "/" in name}
    lines += [f"not typed: {package}/py.typed is missing from the wheel" for package in sorted(packages) if f"{package}/py.typed" not in shipped]
    metadata = {name.split("/", 1)[1] for name in names - shipped}
    needed = ("METADATA", "entry_points.txt", "licenses/LICENSE")
    lines += [f"missing from the wheel's metadata: {name}" for name in needed if name not in metadata]
    return lines


def _top(name: str) -> str:
    return name.partition("/")[0]


def _changed(what: str, shipped: Files, wanted: Files) -> Iterator[str]:
    for name in sorted(shipped.keys() & wanted.keys()):
        if shipped[name] != wanted[name]:
            yield f"other bytes in the {what} than on disk: {name}"


def _bad_names(what: str, names: list[str]) -> Iterator[str]:
    for name, count in sorted(Counter(names).items()):
        if count > 1:
            yield f"{count} times in the {what}: {name}"
        if "\\" in name or name.startswith("/") or ".." in PurePosixPath(name).parts or PurePosixPath(name).as_posix() != name:
            yield f"a path in the {what} that leads elsewhere: {name}"


# ---------------------------------------------------------------- metadata

_PLAIN = {
    "name": "Name",
    "description": "Summary",
    "requires-python": "Requires-Python",
    "license": "License-Expression",
}
_KNOWN = {
    *_PLAIN,
    "dynamic",
    "readme",
    "license-files",
    "keywords",
    "classifiers",
    "dependencies",
    "optional-dependencies",
    "scripts",
    "entry-points",
    "urls",
}


def _plain_requirement(text: str) -> tuple[str, str, str, str]:
    """Return what a requirement means, however it is written: name, extras, versions, marker."""
    requirement = Requirement(text)
    marker = str(requirement.marker or "")
    return canonicalize_name(requirement.name), ",".join(sorted(requirement.extras)), str(requirement.specifier), marker


def _requirements(project: Project) -> list[tuple[str, str, str, str]]:
    """Return the requirements that the metadata has to hold; an extra that names others of the same project stands for theirs."""
    optional: Mapping[str, list[str]] = project.get("optional-dependencies", {})

    def of(extra: str) -> set[str]:
        found: set[str] = set()
        for text in optional[extra]:
            requirement = Requirement(text)
            own = canonicalize_name(requirement.name) == canonicalize_name(project["name"])
            found |= {one for name in requirement.extras for one in of(name)} if own else {text}
        return found

    wanted = [_plain_requirement(text) for text in project.get("dependencies", [])]
    for extra in optional:
        for text in of(extra):
            requirement = Requirement(text)
            condition = f'extra == "{extra}"'
            requirement.marker = Marker(condition if requirement.marker is None else f"({requirement.marker}) and {condition}")
            wanted.append(_plain_requirement(str(requirement)))
    return wanted


def declared_metadata(project: Project, version: str) -> dict[str, list[Any]]:
    """Return every field of the metadata that ``[project]`` asks for. ``Any``: requirements are compared by what they mean."""
    wanted: dict[str, list[Any]] = {header: [project[name]] for name, header in _PLAIN.items() if name in project}
    wanted["Version"] = [version]
    wanted["License-File"] = list(project.get("license-files", []))
    wanted["Keywords"] = sorted(project.get("keywords", []))
    wanted["Classifier"] = sorted(project.get("classifiers", []))
    wanted["Requires-Dist"] = sorted(_requirements(project))
    wanted["Provides-Extra"] = sorted(canonicalize_name(extra) for extra in project.get("optional-dependencies", {}))
    wanted["Project-URL"] = sorted(f"{name}, {url}" for name, url in project.get("urls", {}).items())
    wanted["Description-Content-Type"] = ["text/markdown"] if "readme" in project else []
    return {header: values for header, values in wanted.items() if values}


def metadata_faults(raw: bytes, project: Project, version: str, readme: str) -> Iterator[str]:
    """Compare METADATA or PKG-INFO with ``pyproject.toml``, field by field, both ways."""
    for name in sorted(project.keys() - _KNOWN):
        yield f"pyproject.toml has project.{name}, which scripts/check_wheel.py does not compare: teach it"
    message = email.message_from_bytes(raw)
    found: dict[str, list[Any]] = {}
    for header, value in message.items():
        found.setdefault(header, []).append(value)
    found.pop("Metadata-Version", None)
    found["Keywords"] = sorted(word.strip() for value in found.pop("Keywords", []) for word in value.split(","))
    found["Requires-Dist"] = sorted(map(_plain_requirement, found.pop("Requires-Dist", [])))
    for header in ("Classifier", "Provides-Extra", "Project-URL"):
        found[header] = sorted(found.pop(header, []))
    wanted = declared_metadata(project, version)
    for header in sorted(found.keys() | wanted.keys()):
        has, needs = found.get(header, []), wanted.get(header, [])
        lacks, extra = Counter(needs) - Counter(has), Counter(has) - Counter(needs)
        yield from (f"metadata: {header} lacks {value!r}" for value in lacks.elements())
        yield from (f"metadata: {header} has {value!r}, which pyproject.toml does not" for value in extra.elements())
    body = raw.partition(b"\n\n")[2].decode()
    if body.strip() != readme.strip():
        yield "metadata: the description is not README.md"


def entry_point_faults(raw: bytes, project: Project) -> Iterator[str]:
    """Compare ``entry_points.txt`` with ``pyproject.toml``, both ways."""
    parser = ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names are case-sensitive
    parser.read_string(raw.decode())
    found = {(group, name, value) for group in parser.sections() for name, value in parser.items(group)}
    groups = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    wanted = {(group, name, value) for group, entries in groups.items() for name, value in entries.items()}
    yield from (f"entry points: {group}: {name} = {value} is missing" for group, name, value in sorted(wanted - found))
    yield from (f"entry points: {group}: {name} = {value} is not declared" for group, name, value in sorted(found - wanted))


def record_faults(name: str, files: Files) -> Iterator[str]:
    """Compare RECORD, the file of that name, with what is in the wheel: installers trust it."""
    rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(files[name].decode()))}
    yield from (f"RECORD: {path} is missing" for path in sorted(files.keys() - rows.keys()))
    yield from (f"RECORD: {path} is not in the wheel" for path in sorted(rows.keys() - files.keys()))
    for path in sorted(files.keys() & rows.keys() - {name}):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[path]).digest()).rstrip(b"=").decode()
        if rows[path] != [f"sha256={digest}", str(len(files[path]))]:
            yield f"RECORD: hash or size of {path} is wrong"


# ---------------------------------------------------------------- wheel and source distribution


def read_wheel(path: Path) -> tuple[list[str], Files]:
    """Return the names in a wheel, repeated ones too, and its files."""
    with zipfile.ZipFile(path) as wheel:
        return wheel.namelist(), {name: wheel.read(name) for name in wheel.namelist()}


def wheel_faults(wheel: Path, checkout: Path) -> list[str]:
    """Return one line for each thing wrong with a wheel; nothing if it is what the checkout says."""
    project: Project = _toml(checkout)["project"]
    version = version_of(checkout)
    base = f"{project['name']}-{version}"
    info = f"{base}.dist-info"
    names, files = read_wheel(wheel)
    wanted = packaged_files(checkout)
    lines = list(_bad_names("wheel", names))
    lines += differences(set(names), set(wanted))
    lines += _changed("wheel", files, wanted)
    if wheel.name != f"{base}-py3-none-any.whl":
        lines.append(f"the wheel is called {wheel.name}, not {base}-py3-none-any.whl")
    metadata = {name for name in names if _top(name).endswith(".dist-info")}
    parts = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    lines += [f"missing from the wheel's metadata: {name}" for name in sorted(parts - metadata)]
    lines += [f"in the wheel's metadata, though nobody asked for it: {name}" for name in sorted(metadata - parts)]
    if parts - metadata:
        return lines
    if files[f"{info}/licenses/LICENSE"] != (checkout / "LICENSE").read_bytes():
        lines.append("the wheel's LICENSE is another one than on disk")
    kind = email.message_from_bytes(files[f"{info}/WHEEL"])
    if kind.get_all("Tag") != ["py3-none-any"] or kind["Root-Is-Purelib"] != "true":
        lines.append(f"the wheel is not for every platform: Tag {kind.get_all('Tag')}, Root-Is-Purelib {kind['Root-Is-Purelib']}")
    lines += metadata_faults(files[f"{info}/METADATA"], project, version, (checkout / "README.md").read_text(encoding="utf-8"))
    lines += entry_point_faults(files[f"{info}/entry_points.txt"], project)
    lines += record_faults(f"{info}/RECORD", files)
    return lines


def sdist_faults(sdist: Path, checkout: Path) -> list[str]:
    """Return one line for each thing wrong with a source distribution; nothing if it is what the checkout says."""
    project: Project = _toml(checkout)["project"]
    version = version_of(checkout)
    base = f"{project['name']}-{version}"
    wanted = distributed_files(checkout)
    lines = [] if sdist.name == f"{base}.tar.gz" else [f"the source distribution is called {sdist.name}, not {base}.tar.gz"]
    files: dict[str, bytes] = {}
    with tarfile.open(sdist) as archive:
        lines += _bad_names("source distribution", archive.getnames())
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.isfile() else None
            if content is None:
                lines.append(f"neither file nor content: {member.name}")
            elif _top(member.name) != base:
                lines.append(f"outside {base}/ in the source distribution: {member.name}")
            else:
                files[member.name.partition("/")[2]] = content.read()
    info = files.pop("PKG-INFO", b"")
    lines += [f"missing from the source distribution: {name}" for name in sorted(wanted.keys() - files.keys())]
    lines += [f"in the source distribution, though nobody asked for it: {name}" for name in sorted(files.keys() - wanted.keys())]
    lines += _changed("source distribution", files, wanted)
    lines += metadata_faults(info, project, version, (checkout / "README.md").read_text(encoding="utf-8"))
    return lines


def main() -> int:
    """Check the wheel and the source distribution named on the command line; the exit status says whether they are right."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    wheel, sdist = map(Path, sys.argv[1:])
    checkout = Path(__file__).resolve().parent.parent
    lines = wheel_faults(wheel, checkout) + sdist_faults(sdist, checkout)
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        return 1
    print(f"{wheel.name}: {len(read_wheel(wheel)[0])} files, byte for byte those on disk; metadata and entry points as declared")
    print(f"{sdist.name}: {len(distributed_files(checkout))} files, byte for byte those on disk")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
