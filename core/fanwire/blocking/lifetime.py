"""The life of a BlockingRealtime: opened at first use or by ``with``, opened anew in the child of a fork, closed once."""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false
# The blocking façade and the asynchronous one are two halves of one thing.

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from ..errors import Closed, ConfigError, FanwireError, WrongLoop
from ..transport import SupportsCopy, Transport
from .portal import Job, Portal, refuse_in_loop

if TYPE_CHECKING:
    from ..realtime import Realtime
    from .realtime import BlockingRealtime

__all__ = ("Followed", "Lifetime", "Part", "blocking", "configured", "copied", "unchecked")

T = TypeVar("T")
Target = TypeVar("Target")

_living: weakref.WeakSet[Lifetime] = weakref.WeakSet()
_inherited: Final[list[Realtime]] = []
"""Kept for the reason that :mod:`.exits` keeps portals for."""


class Lifetime:
    """What a BlockingRealtime is before it publishes or subscribes anything: a way to make a Realtime, and a portal while one is open.

    Args:
        make: Makes a Realtime that was not entered, each time another one; called at once, so that settings are checked where they are given.
    """

    def __init__(self, make: Callable[[], Realtime]) -> None:
        self._portal: Portal | None = None
        self._make = make
        self._lock = threading.Lock()
        self._closed = False
        self._next: Realtime | None = make()
        """The one to be opened next."""
        _living.add(self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {repr(self._realtime).split(' ', 1)[1]}"

    def __del__(self) -> None:
        portal: Portal | None = getattr(self, "_portal", None)  # the constructor may have failed
        if portal is not None and portal.over is None:
            warnings.warn(f"{self!r} was not closed: use `with`, or call close()", ResourceWarning, source=self, stacklevel=1)
            portal.stop(0.0)

    def __enter__(self) -> Self:
        """Connect, unless it did so already.

        Raises:
            ConnectFailed: no connection was made within ``connect_timeout``.
            Unauthenticated: the broker refuses the credentials.
            Closed: it was closed.
            WrongLoop: an event loop runs in this thread.
        """
        refuse_in_loop()
        self._opened()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close; politely unless the body was interrupted, for then there is nothing to wait for."""
        self.close(0.0 if kind is not None and not issubclass(kind, Exception) else 10.0)

    def close(self, deadline: float = 10.0) -> None:
        """Refuse new work, send what was accepted, end iterations behind what is queued, and close. Idempotent; it is not opened again.

        It cannot promise that other processes have received anything.

        Args:
            deadline: Seconds to wait for messages that are still to be sent; the rest fails with ``Closed``.

        Raises:
            WrongLoop: an event loop runs in this thread.
        """
        refuse_in_loop()
        with self._lock:
            self._closed = True
            portal = self._portal
        if portal is None:
            return
        try:
            portal.stop(deadline)
            portal.join()
        except BaseException:
            portal.stop(0.0)
            raise

    # ------------------------------------------------------------------ for the generated part

    @property
    def _realtime(self) -> Realtime:
        """The Realtime that is open, else the one that will be: for what needs no connection."""
        portal = self._portal
        if portal is not None:
            return portal.realtime
        found = self._next
        if found is None:
            found = self._next = self._make()
        return found

    def _opened(self) -> Portal:
        """Return the open portal; open it if there is none.

        Raises:
            FanwireError: that failed, and may be tried again; or it is closed.
        """
        portal = self._portal
        if portal is not None and portal.running:
            return portal
        refuse_in_loop()
        with self._lock:
            if self._closed:
                raise Closed("this BlockingRealtime is closed: make another one")
            portal = self._portal
            if portal is None:
                realtime, self._next = self._realtime, None
                portal = Portal(realtime)
                portal.start()
                self._portal = portal
        try:
            portal.opened()
        except FanwireError:
            with self._lock:
                if self._portal is portal:
                    self._portal = None  # the next use tries again
            raise
        return portal

    def _call(self, start: Callable[[Realtime], Awaitable[T]]) -> T:
        """Await something of the Realtime's."""
        portal = self._opened()
        return portal.call(lambda _: start(portal.realtime))

    @contextmanager
    def _follow(self, start: Callable[[Realtime], AbstractAsyncContextManager[AsyncIterator[T]]]) -> Generator[Iterator[T]]:
        """Enter a context of the Realtime's that gives an iterator."""
        portal = self._opened()
        context = start(portal.realtime)
        items = portal.call(lambda _: context.__aenter__())
        try:
            yield Followed(portal, items)
        finally:
            portal.leave(lambda _: context.__aexit__(None, None, None))

    def _forked(self) -> None:
        """In the child of a fork: begin anew at the next use."""
        self._lock = threading.Lock()  # another thread of the parent's may have held it
        if self._portal is not None:
            _inherited.append(self._portal.realtime)
        if self._next is not None:
            _inherited.append(self._next)
        self._portal = self._next = None


class Followed(Generic[T]):
    """An iterator of the portal's, item by item. An interrupted wait loses none."""

    def __init__(self, portal: Portal, items: AsyncIterator[T]) -> None:
        self._portal = portal
        self._items = items
        self._item: tuple[T] | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._item is None and not self._fetch():
            raise StopIteration
        assert self._item is not None
        (item,), self._item = self._item, None
        return item

    def _fetch(self) -> bool:
        """Wait for an item; return whether there is one."""
        if self._portal.over is None:
            try:
                return self._portal.call(self._wait)
            except Closed:
                if self._portal.over is None:
                    raise
        return False

    async def _wait(self, _: Job[bool]) -> bool:
        with self._portal.waiting(None):
            async for item in self._items:
                self._item = (item,)
                return True
        return False


class Part(Generic[Target]):
    """A part of a BlockingRealtime that keeps something between its calls, such as a run: a face for a ``Target``, which is made where it is used.

    Args:
        owner: What it is a part of.
        plan: A target that need not be open, for what is only asked of it.
        make: Makes the target from an open Realtime.
    """

    __slots__ = ("_make", "_owner", "_plan", "_target")

    def __init__(self, owner: Lifetime, plan: Target, make: Callable[[Realtime], Target]) -> None:
        self._owner = owner
        self._plan = plan
        self._make = make
        self._target: Target | None = None

    def __repr__(self) -> str:
        return f"<Blocking{repr(self._plan)[1:]}"

    def _call(self, start: Callable[[Target], Awaitable[T]]) -> T:
        """Await something of the target's."""
        return self._call_back(lambda target, _: start(target))

    def _call_back(self, start: Callable[[Target, Job[T]], Awaitable[T]]) -> T:
        """Await something of the target's that has functions to run in this thread."""
        portal = self._owner._opened()
        return portal.call(lambda job: start(self._on(portal.realtime), job))

    def _on(self, realtime: Realtime) -> Target:
        """Return the target; on the loop. Always the same one, for it may remember something: it refuses by itself to be used where it does not belong."""
        if self._target is None:
            self._target = self._make(realtime)
        return self._target


def blocking(realtime: Realtime) -> BlockingRealtime:
    """Return a BlockingRealtime with the settings of ``realtime``, on a copy of its transport. See :meth:`Realtime.blocking`.

    Raises:
        ConfigError: the transport cannot be copied.
        WrongLoop: ``realtime`` is open in another event loop.
    """
    from .realtime import BlockingRealtime

    if realtime._engine is not None and realtime._closing is None:
        try:
            realtime._stay()
        except WrongLoop as error:
            raise WrongLoop(f"call rt.blocking() where rt is used, and give what it returns to your threads: {error}") from None
    return BlockingRealtime(
        realtime._transport,
        timeout=realtime.timeout,
        connect_timeout=realtime.connect_timeout,
        buffer=realtime._buffer,
        buffer_bytes=realtime._buffer_bytes,
        buffer_bytes_total=realtime._buffer_bytes_total,
        linger=realtime._linger,
        on_invalid=realtime._on_invalid,
        codec=realtime._codec,
        clock=realtime._clock,
    )


def copied(transport: Transport) -> Callable[[], Transport]:
    """Return what makes copies of a transport.

    Raises:
        ConfigError: it cannot be copied.
    """
    if not isinstance(transport, SupportsCopy):
        raise ConfigError(
            f"the {transport.name} transport cannot be opened a second time, in the event loop of a BlockingRealtime: make that one from a URL, by "
            "BlockingRealtime.from_url(...)"
        )
    return transport.copy


def configured(path: str | Path | None, settings: dict[str, Any]) -> Callable[[], Realtime]:  # Any: checked by the configuration
    """Return what makes Realtimes as ``Realtime.from_config`` does. The configuration is read now: a child of a fork may have another directory and environment.

    Raises:
        ConfigError: a setting is missing or wrong.
    """
    from ..config import load_settings
    from ..realtime import Realtime

    objects = {name: settings.pop(name) for name in ("on_invalid", "codec", "clock") if name in settings}
    loaded = load_settings(path=path, **settings)
    found = loaded.model_dump(exclude={"url", "namespace", "options"})
    return lambda: Realtime(loaded.open_transport(), **found, **objects)


def unchecked(method: Callable[..., T]) -> Callable[..., T]:
    """Return an overloaded method for calls whose arguments its overloads have let pass already."""
    return method


def _in_child() -> None:
    for lifetime in _living:
        lifetime._forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
