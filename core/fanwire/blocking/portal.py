"""The portal: a thread with an event loop in which one Realtime is open, the way of calls into it, and the way of their answers back.

Not anyio's ``BlockingPortal``: a call through that one takes 105 µs where it takes 33 here, and it leaves open what is needed most. An interrupted wait cancels what it waited
for and loses nothing. A thread that is lost to a fork is known to be. At the interpreter's exit waits end before threads are joined, and the Realtime is closed afterwards.

The thread is a daemon. A thread that is none would be joined before anything could close it, so that a program that forgets to close would never end; and what it starts, such as
anyio's worker threads, would be none either. It is ended in an orderly way all the same: see :mod:`.exits`.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from functools import wraps
from importlib import import_module
from inspect import isawaitable, iscoroutine
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, TypeVarTuple, final

import anyio

from ..errors import Closed, DeclarationError, FanwireError, Internal, WrongLoop
from ..hub.told import fresh
from ..hub.waiter import runs_anywhere
from . import exits

if TYPE_CHECKING:
    from ..realtime import Realtime

__all__ = ("Job", "Portal", "refuse_in_loop")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_SLICE: Final = 0.25
"""Seconds that the main thread waits at a stretch. A signal that arrives just before a wait begins is noticed only after it, and on Windows none is noticed during one."""


def refuse_in_loop() -> None:
    """Refuse to block a thread that runs an event loop; the portal's own is one.

    Raises:
        WrongLoop: it does.
    """
    if runs_anywhere():
        raise WrongLoop(
            "this call would block the event loop that runs in this thread: use a Realtime and await it, "
            "or call this in a thread of its own, as by anyio.to_thread.run_sync or asyncio.to_thread"
        )


class _Visit:
    """A function that a job wants to have run in the thread that waits for it."""

    __slots__ = ("_answer", "_error", "_function", "_value")

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._value: object = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Run it; in the waiting thread."""
        try:
            self._value = self._function()
        except Exception as error:  # noqa: BLE001 - it is the job's, which may tell it to the same thread again
            self._error = error

    def answer(self) -> None:
        """Let the job go on; on the loop."""
        if not self._answer.done():
            self._answer.set_result(None)

    async def result(self) -> object:
        """Wait for what the function returned or raised."""
        await self._answer
        if self._error is not None:
            raise self._error
        return self._value


@final
class Job(Generic[T]):
    """One call: begun and waited for by a thread, done by a task of the portal's loop."""

    __slots__ = ("_error", "_result", "_start", "_task", "_turn", "_visit", "abandoned", "finished")

    def __init__(self, start: Callable[[Job[T]], Awaitable[T]]) -> None:
        self._start = start
        self._turn = threading.Lock()
        """Released by the loop when there is something for the waiting thread to look at."""
        self._turn.acquire()
        self.finished: bool = False
        self.abandoned: bool = False
        """Whether its thread was interrupted; what it finds is for nobody."""
        self._result: T
        self._error: BaseException | None = None
        self._visit: _Visit | None = None
        self._task: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ in the waiting thread

    def wait(self, portal: Portal) -> T:
        """Wait for the result, and do meanwhile what the task wants to have done in this thread."""
        while True:
            _acquire(self._turn)
            if self.finished:
                break
            visit, self._visit = self._visit, None
            assert visit is not None
            visit.run()
            portal.post(visit.answer)
        if self._error is None:
            return self._result
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error  # it refers to this frame by its traceback

    # ------------------------------------------------------------------ on the loop

    def in_caller(self, function: Callable[[*Ts], T]) -> Callable[[*Ts], Awaitable[T]]:
        """Return an async function that runs ``function`` in the thread that waits for this job, where its locks, connections and locals are."""
        plain = getattr(function, "func", function)  # a partial has no annotations of its own

        @wraps(plain)  # what it is annotated to return is resolved in its own module
        async def visit(*args: *Ts) -> T:
            asked = self._visit = _Visit(lambda: function(*args))
            self._signal()
            value = await asked.result()
            if isawaitable(value):
                if iscoroutine(value):
                    value.close()
                raise DeclarationError(f"{function!r} is an async function, and this is the blocking interface: pass a plain one")
            return value  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # what the function returned

        visit.__annotations__ = {name: kind for name, kind in getattr(plain, "__annotations__", {}).items() if name == "return"}
        return visit

    def begin(self, portal: Portal) -> None:
        """Start the task. It belongs to this job, and the portal keeps the job until it has ended: a task group would have to be entered by each, for what takes microseconds."""
        if portal.over is not None:  # it was noted meanwhile, and the loop may be past cancelling its tasks: it would never run this one
            portal.forget(self)
            self.fail(portal.closed())
            return
        self._task = asyncio.get_running_loop().create_task(self._drive(portal), name="fanwire blocking call")

    async def _drive(self, portal: Portal) -> None:
        try:
            self._result = await self._start(self)
        except asyncio.CancelledError:
            self._error = portal.closed()
        except BaseException as error:  # noqa: BLE001 - raised again in the waiting thread
            self._error = error
        finally:
            # The task is to be freed here: weak references to it have callbacks, which an interrupt of the waiting thread would end without being noticed.
            self._task = None
            portal.forget(self)
            self.finish()

    def fail(self, error: FanwireError) -> None:
        """End it without having been done."""
        self._error = error
        self.finish()

    def finish(self) -> None:
        """Wake the thread for good."""
        self.finished = True
        self._signal()

    def cancel(self, portal: Portal) -> None:
        """End it: its thread was interrupted."""
        self.abandoned = True
        portal.forget(self)
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    def _signal(self) -> None:
        if self._turn.locked():  # otherwise it was woken already, and has yet to look
            self._turn.release()


@final
class Portal:
    """One Realtime, open in a thread of its own from :meth:`start` to :meth:`stop`. Used once.

    Args:
        realtime: Not entered yet.
    """

    def __init__(self, realtime: Realtime) -> None:
        self.realtime: Realtime = realtime
        self.over: FanwireError | None = None
        """Why nothing is accepted any more."""
        self.forked: bool = False
        """Whether this process is a child of the one it belongs to."""
        self.ending: bool = False
        """Whether waits for messages end rather than begin: the main thread has ended."""
        self.remains: threading.Lock = threading.Lock()
        """Held while what is left behind in a subscription is taken, after the end."""
        self._jobs: set[Job[Any]] = set()  # Any: calls of any result
        self._waits: set[anyio.CancelScope] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: anyio.Event | None = None
        self._opening: anyio.CancelScope | None = None
        self._closing: anyio.CancelScope | None = None
        self._deadline = math.inf
        """Seconds that closing may take; infinite as long as it was not asked for."""
        self._error: FanwireError | None = None
        """Why it was not opened, or how it broke."""
        self._settled = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"fanwire {realtime!r}", daemon=True)

    @property
    def running(self) -> bool:
        """Whether calls are accepted."""
        return self._settled.is_set() and self.over is None

    # ------------------------------------------------------------------ from other threads: open and close

    def start(self) -> None:
        """Start the thread.

        Raises:
            Closed: there can be no thread, as when the interpreter is exiting.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            self.over = Closed(f"no thread could be started for it: {error}")
            raise self.over from error
        except BaseException:  # interrupted; the thread may run or not
            self.stop(0.0)
            raise

    def opened(self) -> None:
        """Wait until the Realtime is open. Any number of threads may.

        Raises:
            FanwireError: it cannot be opened.
            Closed: it was closed meanwhile.
        """
        _wait(self._settled)
        if self._error is not None:
            raise fresh(self._error)

    def stop(self, deadline: float) -> None:
        """Ask it to close within ``deadline`` seconds; an earlier deadline than one that was asked for before holds. Does not wait, and may be called anywhere."""
        self._deadline = min(self._deadline, deadline)
        self.post(self._wake)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended; return whether it has."""
        return True if self.forked else _wait(self._ended, timeout)

    def end_waits(self) -> None:
        """Have everybody who waits for messages stop doing so."""
        self.post(self._end_waits)

    def abandon(self) -> None:
        """In the child of a fork: the thread is the parent's, and so is whatever it holds."""
        self.forked = True
        self.over = WrongLoop(
            "this was opened before the process forked: open it in each process; a BlockingRealtime does so by itself at its next use"
        )

    def closed(self) -> FanwireError:
        """Return what to tell somebody whose call comes too late."""
        return fresh(self.over) if self.over is not None else Closed("this BlockingRealtime is closed")

    # ------------------------------------------------------------------ from other threads: calls

    def call(self, start: Callable[[Job[T]], Awaitable[T]]) -> T:
        """Await ``start(job)`` on the loop, in the context of this thread, and return its result. An interrupt ends the wait at once, and has the task cancelled.

        Raises:
            WrongLoop: an event loop runs in this thread, or the process was forked.
            Closed: it is closed, before or meanwhile.
        """
        refuse_in_loop()
        job: Job[T] = Job(start)
        # Noted before `over` is looked at: either this thread sees that, or the ending one sees the job.
        self._jobs.add(job)
        try:
            if self.over is not None or not self.post(lambda: job.begin(self), _context()):
                self.forget(job)
                raise self.closed()
            return job.wait(self)
        except BaseException:
            # Also where it was interrupted half way through handing over, which leaves a loop with something to do asleep.
            if not job.finished:
                self.post(lambda: job.cancel(self))
            raise

    def leave(self, start: Callable[[Job[object]], Awaitable[object]]) -> None:
        """Await ``start(job)``, which tidies up and may be done twice. Does not wait where an event loop runs: the garbage collector may come here in any thread."""
        if self.over is not None:
            return
        if runs_anywhere():
            self.spawn(start)
            return
        try:
            self.call(start)
        except FanwireError:
            pass  # it was closed meanwhile, and nothing is left to be tidied
        except BaseException:
            self.spawn(start)
            raise

    def spawn(self, start: Callable[[Job[object]], Awaitable[object]]) -> None:
        """Have ``start(job)`` awaited on the loop, if there is one, without waiting for it."""
        job = Job(start)
        self._jobs.add(job)
        if not self.post(lambda: job.begin(self)):
            self.forget(job)

    def post(self, callback: Callable[[], object], context: Context | None = None) -> bool:
        """Run ``callback`` soon on the loop; return whether there is one."""
        loop = self._loop
        if loop is None or self.forked:
            return False
        try:
            loop.call_soon_threadsafe(callback, context=context)
        except RuntimeError:  # the loop is closed
            return False
        return True

    # ------------------------------------------------------------------ on the loop

    def forget(self, job: Job[Any]) -> None:  # Any: a call of any result
        """Take note that a job has ended."""
        self._jobs.discard(job)

    @contextmanager
    def waiting(self, timeout: float | None) -> Generator[anyio.CancelScope]:
        """Bound a wait for messages: by ``timeout`` seconds, and by the end of all waits. Cancelled, it goes on behind the ``with``."""
        with anyio.CancelScope(deadline=math.inf if timeout is None else anyio.current_time() + timeout) as scope:
            self._waits.add(scope)
            try:
                if self.ending:
                    scope.cancel()
                yield scope
            finally:
                self._waits.discard(scope)

    def _end_waits(self) -> None:
        self.ending = True
        for scope in self._waits:
            scope.cancel()

    def _wake(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        if self._closing is not None:
            # Not anyio.current_time(), which wants a task: this is a callback.
            self._closing.deadline = min(self._closing.deadline, asyncio.get_running_loop().time() + self._deadline)
        if self._stop is not None:
            self._stop.set()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        exits.opened(self)
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001 - told to everybody who waits; nobody could catch it here
            self._error = self.over = Internal(f"the thread of this BlockingRealtime ended unexpectedly: {error!r}")
            self.over.__cause__ = error
        finally:
            self.over = self.over or self.closed()
            while self._jobs:
                self._jobs.pop().fail(self.closed())
            exits.ended(self)
            self._settled.set()
            self._ended.set()

    async def _main(self) -> None:
        self._stop = anyio.Event()
        with anyio.CancelScope() as self._opening:
            self._loop = asyncio.get_running_loop()
            if self._deadline < math.inf:  # asked for before there was a loop to be asked
                self._opening.cancel()
            try:
                await self.realtime.__aenter__()
            except FanwireError as error:
                self._error = error
                return
        if self._opening.cancelled_caught:
            self._error = Closed("this BlockingRealtime was closed while it was being opened")
            return
        self._opening = None
        self._settled.set()
        await self._stop.wait()
        self.over = self.closed()
        with anyio.CancelScope(deadline=anyio.current_time() + self._deadline) as self._closing:
            await self.realtime.aclose(math.inf)
        # Whoever waits for messages has been told by the Realtime; asyncio.run() cancels all other calls.


def _acquire(lock: threading.Lock) -> None:
    """Acquire a lock so that a signal is noticed."""
    if threading.get_ident() == threading.main_thread().ident:
        while not lock.acquire(timeout=_SLICE):
            pass
    else:
        lock.acquire()


def _wait(event: threading.Event, timeout: float | None = None) -> bool:
    """Wait for an event so that a signal is noticed."""
    if timeout is not None:
        return event.wait(timeout)
    while not event.wait(_SLICE):
        pass
    return True


def _context() -> Context:
    """Return this thread's context for a task of the portal's loop: it may have been copied from a task of another kind of loop, for which anyio would then make its events."""
    context = copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None and sniffio.current_async_library_cvar.get(None) is not None:
        context.run(sniffio.current_async_library_cvar.set, None)
    return context


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=exits.abandon_all)

# anyio imports it at its first use, which would be in the portal's thread: the child of a fork at that moment would wait for ever for the import to end.
with suppress(ImportError):
    import_module("anyio._backends._asyncio")
