"""The demo's worker as a process of its own, seen from the parent: started, listened to, relayed for, and never left behind."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from math import inf
from pathlib import Path
from typing import Final, Protocol, final

import anyio
from anyio.abc import ByteReceiveStream, Process

from ..errors import FanwireError, Timeout
from ..realtime import Realtime
from ..transport import Transport
from .demo_account import WorkerFailed
from .demo_worker import KILLED, Announcement, Job, Say
from .relay import error_of, lines, relayed, terms_of

__all__ = ("Worker", "WorkerProcess", "ending_of")

_MODULE: Final = "fanwire.cli.demo_worker"
_ERRORS: Final = 64
"""Lines of a worker's standard error that are kept."""


class Worker(Protocol):
    """Makes attempts."""

    async def attempt(self, job: Job, rt: Realtime, hear: Say, /) -> int:
        """Make one attempt.

        Args:
            job: What to do.
            rt: The Realtime of the subscribers.
            hear: Called with each announcement, in order.

        Returns:
            0 where it succeeded, :data:`~fanwire.cli.demo_worker.KILLED` where it was killed.

        Raises:
            FanwireError: it failed.
        """
        ...


@final
class WorkerProcess:
    """Makes each attempt in a new process of this interpreter, on the same broker: by its URL where several processes can use it, else through this process.

    Args:
        url: The broker's. It is handed over by a pipe, for it may hold a password.
        command: What to start; for tests.
    """

    def __init__(self, url: str, *, command: Sequence[str] | None = None) -> None:
        self._url = url
        # -P: a file of the working directory must not be taken for a module. What may be imported is what this process may import.
        self._command = (sys.executable, "-P", "-m", _MODULE) if command is None else tuple(command)

    async def attempt(self, job: Job, rt: Realtime, hear: Say, /) -> int:
        """See :class:`Worker`.

        Raises:
            WorkerFailed: the process cannot be started, or ended in a way that nobody intended.
            Timeout: it did not start in time.
        """
        multi = rt.capabilities.multi_process
        job = job.model_copy(update={"url": self._url} if multi else {"terms": terms_of(rt.capabilities)})
        transport = rt._transport  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # frames are handed on as they are, which no public call does
        process = await self._start()
        try:
            return await _Attempt(process, job, transport, hear).run()
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.aclose()

    async def _start(self) -> Process:
        if not self._command[0]:
            raise WorkerFailed("the worker process cannot be started: Python does not know the path of its own interpreter (sys.executable is empty)")
        process: Process | None = None
        fault = ""
        with anyio.CancelScope(shield=True):  # cancelled half way, it would leave a process that nobody knows
            try:
                process = await anyio.open_process(self._command, env=_environment())
            except OSError as error:
                fault = error.strerror or str(error)
        if process is None:
            # Without its cause, which would be taken for what is wrong with the way to the broker.
            raise WorkerFailed(f"the worker process cannot be started: {self._command[0]!r}: {fault}")
        return process


@final
class _Attempt:
    """One process."""

    def __init__(self, process: Process, job: Job, transport: Transport, hear: Say) -> None:
        self._process = process
        self._job = job
        self._transport = transport
        self._hear = hear
        self._errors: deque[str] = deque(maxlen=_ERRORS)
        self._silent = anyio.Event()
        """Nothing more comes from its standard error."""
        self._error: FanwireError | None = None

    async def run(self) -> int:
        """Hand over the job and listen until the process has ended; return its code."""
        process, timeout = self._process, self._job.timeout
        assert process.stdout is not None
        assert process.stderr is not None
        starting = anyio.CancelScope(deadline=anyio.current_time() + timeout)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send, self._job.model_dump_json().encode() + b"\n")
            tasks.start_soon(self._keep_errors, process.stderr)
            with starting:
                async with aclosing(lines(process.stdout)) as received:
                    async for line in received:
                        starting.deadline = inf
                        if line.startswith(b"["):  # a batch to publish; in a task, for the worker may give up waiting and say so
                            tasks.start_soon(self._relay, line)
                        elif self._take(line):
                            break
                with anyio.move_on_after(timeout if self._error is None else 0):
                    await process.wait()
                    await self._silent.wait()
            tasks.cancel_scope.cancel()
        if starting.cancelled_caught:
            raise Timeout(f"the worker process did not start within {timeout:g} s")
        if self._error is not None:
            raise self._error
        if process.returncode in (0, KILLED):
            return process.returncode
        raise self._failed()

    def _take(self, line: bytes) -> bool:
        """Take an announcement; return whether it is the last one."""
        try:
            announcement = Announcement.model_validate_json(line)
        except ValueError:
            self._errors.append(line.decode(errors="backslashreplace"))
            return False
        if announcement.kind == "failed":
            self._error = error_of(announcement.code, announcement.text)
        self._hear(announcement)
        return announcement.kind in {"done", "failed"}

    async def _relay(self, request: bytes) -> None:
        await self._send(await relayed(request, self._transport))

    async def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # it has died; how, its return code tells
            await self._process.stdin.send(line)

    async def _keep_errors(self, stderr: ByteReceiveStream) -> None:
        async for line in lines(stderr):
            self._errors.append(line.decode(errors="backslashreplace"))
        self._silent.set()

    def _failed(self) -> WorkerFailed:
        code = self._process.returncode
        ending = "did not end when it was done" if code is None else ending_of(code)
        failure = WorkerFailed(f"attempt {self._job.attempt} of the worker {ending}{f': {self._errors[-1]}' if self._errors else ''}")
        if self._errors:
            failure.add_note("\n".join(["Standard error of the worker:", *self._errors]))
        return failure


def ending_of(code: int) -> str:
    """Return how a process ended, in words."""
    if code == KILLED:
        code = -abs(code)
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _environment() -> Mapping[str, str]:
    """Return the environment of a process that imports from where this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)}
