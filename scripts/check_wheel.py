"""Compare a built wheel with the source tree: every package is in it, whole, and nothing else is.

Usage: ``python scripts/check_wheel.py build/dist/fanwire-0.1.0-py3-none-any.whl``
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

__all__ = ("ROOTS", "differences")

ROOTS = ("core", "transports", "contrib")


def source_files(checkout: Path) -> set[str]:
    """Return the path inside a wheel of every file of every package under the source roots."""
    found: set[str] = set()
    for root in ROOTS:
        for path in (checkout / root).rglob("*"):
            inside = path.relative_to(checkout / root)
            if path.is_file() and "__pycache__" not in inside.parts and not any(part.startswith(".") for part in inside.parts):
                found.add(inside.as_posix())
    return found


def differences(names: set[str], wanted: set[str]) -> list[str]:
    """Return one line for each thing wrong with a wheel.

    Args:
        names: The paths in the wheel.
        wanted: The paths that ought to be in it, apart from its metadata.

    Returns:
        Nothing if the wheel is right.
    """
    shipped = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    lines = [f"missing from the wheel: {name}" for name in sorted(wanted - shipped)]
    lines += [f"in the wheel, but not in the sources: {name}" for name in sorted(shipped - wanted)]
    lines += [f"a file beside the packages: {name}" for name in sorted(shipped) if "/" not in name]
    packages = {name.split("/")[0] for name in shipped | wanted if "/" in name}
    lines += [f"not typed: {package}/py.typed is missing from the wheel" for package in sorted(packages) if f"{package}/py.typed" not in shipped]
    metadata = {name.split("/", 1)[1] for name in names - shipped}
    needed = ("METADATA", "entry_points.txt", "licenses/LICENSE")
    lines += [f"missing from the wheel's metadata: {name}" for name in needed if name not in metadata]
    return lines


def main() -> int:
    """Check the wheel named on the command line; the exit status says whether it is right."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        names = set(wheel.namelist())
    lines = differences(names, source_files(Path(__file__).resolve().parent.parent))
    for line in lines:
        print(line, file=sys.stderr)
    if lines:
        return 1
    print(f"{Path(sys.argv[1]).name}: {len(names)} files, all packages whole and typed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
