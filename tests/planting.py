"""Distributions that are installed as far as `importlib.metadata` can tell: a directory on `sys.path` with metadata and modules."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ("Planter", "planting", "said")


class Planter:
    """Plants distributions under a directory that is on `sys.path`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules: list[str] = []

    def metadata(self, name: str, transports: Mapping[str, str], version: str = "1.0") -> None:
        """Plant what a wheel's installer writes."""
        info = self.root / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        lines = ["[fanwire.transports]", *(f"{scheme} = {reference}" for scheme, reference in transports.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        importlib.invalidate_caches()

    def module(self, name: str, source: str) -> None:
        """Plant a module."""
        self.modules.append(name)
        (self.root / f"{name}.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()

    def toyfan(self, transports: Mapping[str, str] | None = None) -> None:
        """Plant the toy transport, module and metadata."""
        self.modules.append("toyfan")
        shutil.copy(Path(__file__).with_name("toyfan.py"), self.root)
        self.metadata("toyfan", transports or {"toy": "toyfan:ToyTransport"})


@contextmanager
def planting(root: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Planter]:
    """Put `root` on the path, and forget afterwards what was imported from there."""
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    planter = Planter(root)
    try:
        yield planter
    finally:
        for name in planter.modules:
            sys.modules.pop(name, None)


def said(error: BaseException | None) -> str:
    """Return everything a traceback or an error tracker would quote of an error: its text and attributes, and the same of its causes and contexts."""
    if error is None:
        return ""
    return f"{error!s} {error!r} {vars(error)!r} {said(error.__cause__)} {said(error.__context__)}"
