"""A redis-server of the benchmark's own: on loopback, without persistence, gone with the run."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.processes import Process, free_ports

__all__ = ("redis_server",)


@contextmanager
def redis_server() -> Generator[tuple[int, str]]:
    """Start the server.

    Yields:
        Its port and its version.

    Raises:
        RuntimeError: there is none on the PATH.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise RuntimeError("redis-server is not on the PATH: apt install redis-server")
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    version = next((word.removeprefix("v=") for word in told.split() if word.startswith("v=")), told.strip())
    port = free_ports()[0]
    with tempfile.TemporaryDirectory(prefix="fanwire-bench-") as directory:
        log = Path(directory) / "log"
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", directory, "--save", "", "--appendonly", "no"]
        process = Process(command, log, lambda: log.exists() and "Ready to accept connections" in log.read_text(errors="replace"))
        process.start()
        try:
            yield port, version
        finally:
            process.stop()
