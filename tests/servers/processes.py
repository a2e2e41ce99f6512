"""Real servers as ordinary processes: on loopback, on free ports, with throw-away data, gone when the tests end."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

__all__ = ("Process", "free_ports")


_FIRST, _BLOCK, _ABOVE = 10_000, 1_200, 10_000
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_numbers = count(secrets.randbelow(_BLOCK))  # another run may be under way on this machine


def free_ports(wanted: int = 1) -> list[int]:
    """Return ports that nobody listens on, nor on those 10,000 above, where a server of a cluster listens, too.

    They are below those that the system gives to outgoing connections, and each test process has some of its own: nobody takes them before the server is there that is to
    have them.
    """
    found: list[int] = []
    for _ in range(_BLOCK):
        port = _FIRST + _worker * _BLOCK + next(_numbers) % _BLOCK
        if _is_free(port) and _is_free(port + _ABOVE):
            found.append(port)
            if len(found) == wanted:
                return found
    raise RuntimeError("all ports that tests use are taken")


def _is_free(port: int) -> bool:
    with socket.socket() as made:
        try:
            made.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Process:
    """One server process, which can be stopped, killed, paused, and started again."""

    def __init__(self, command: Sequence[str | Path], log: Path, ready: Callable[[], bool]) -> None:
        self.command = [str(part) for part in command]
        self.log = log
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, patience: float = 20.0) -> None:
        """Start it, and return when it is ready."""
        assert self._process is None, "it runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + patience
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop(signal.SIGKILL)
                raise RuntimeError(f"{self.command[0]} did not start; its log ends with:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGTERM, patience: float = 20.0) -> None:
        """End it, and return when it has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        deadline = time.monotonic() + patience
        while process.poll() is None:
            # Again and again: a server that is busy with something may refuse to end, and forget that it was asked.
            process.send_signal(how if time.monotonic() < deadline else signal.SIGKILL)
            if how is not signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, such as SIGSTOP to pause it."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)
