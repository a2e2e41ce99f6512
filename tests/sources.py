"""Where the sources are, for tests about the sources themselves. Such tests are marked ``checkout``: they cannot run against an installed wheel."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ("CHECKOUT", "ROOTS", "modules", "packages", "project")

CHECKOUT = Path(__file__).resolve().parent.parent
ROOTS = ("core", "transports", "contrib")


def modules() -> Iterator[Path]:
    """Yield every module of every package we ship."""
    for root in ROOTS:
        yield from sorted((CHECKOUT / root).rglob("*.py"))


def packages(root: str) -> list[str]:
    """Return the import names of the packages under a source root."""
    return sorted(path.parent.name for path in (CHECKOUT / root).glob("*/__init__.py"))


# Any: the shape of pyproject.toml is what the tests check, so it is not known beforehand.
def project() -> dict[str, Any]:
    """Return pyproject.toml."""
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
