"""Installs the peers in a directory of their own under ``build/``: what they depend on must not become a dependency of this project."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

__all__ = ("PEERS", "versions", "with_peers")

PEERS = ("broadcaster", "litestar", "faststream")

_LIST = Path(__file__).parent / "peers.txt"
_BUILD = Path(__file__).parents[2] / "build"


def with_peers() -> None:
    """Make the peers importable, behind everything that is installed already, so that all contenders share one redis-py, hiredis, pydantic and anyio.

    Raises:
        RuntimeError: pip could not install them.
    """
    digest = hashlib.sha256(_LIST.read_bytes() + sys.version.encode()).hexdigest()[:12]
    target = _BUILD / f"bench-peers-{digest}"
    if not (target / ".ready").exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--target",
            str(target),
            "--upgrade",
        ]
        done = subprocess.run([*command, "--requirement", str(_LIST)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the peers could not be installed, use --without-peers to go without them:\n{done.stderr}")
        (target / ".ready").touch()
    if str(target) not in sys.path:
        sys.path.append(str(target))


def versions() -> dict[str, str]:
    """Versions of the peers, as they are pinned."""
    pinned = dict(line.split("==") for line in _LIST.read_text().splitlines() if "==" in line)
    return {name: pinned[name] for name in PEERS}
