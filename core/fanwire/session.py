"""The lifetime of a Realtime: entered once, in one event loop of one process, and closed once. Whoever uses it from elsewhere is told so."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio

from .capabilities import Capabilities
from .clock import Clock
from .codec import Codec
from .errors import Closed, Unsupported, WrongLoop
from .hub.engine import Engine
from .hub.hub import OnInvalid
from .hub.lanes import Lanes
from .hub.told import fresh
from .hub.waiter import current_loop, on_trio, runs_anywhere
from .transport import Transport

__all__ = ("Session",)

T = TypeVar("T")

_NOT_OPEN: Final = object()
_FORKED: Final = object()

_open: weakref.WeakSet[Session] = weakref.WeakSet()


def _forked() -> None:
    """In the child of a fork: what is open belongs to the parent."""
    for session in _open:
        session._loop = _FORKED  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # this module's own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Session:
    """What a Realtime is before it publishes or subscribes anything: a transport, settings, and an engine while it is open.

    A base class rather than a part of Realtime: ``publish`` compares ``_loop`` and calls ``_lanes`` on each message, and finds them on itself.
    """

    def __init__(
        self,
        transport: Transport,
        /,
        *,
        timeout: float,
        connect_timeout: float,
        buffer_bytes: int,
        buffer_bytes_total: int,
        linger: float,
        on_invalid: OnInvalid,
        codec: Codec,
        clock: Clock,
    ) -> None:
        self.timeout: float = timeout
        """Seconds that a publish may take, unless it says otherwise."""
        self.connect_timeout: float = connect_timeout
        """Seconds that connecting, and subscribing, may take."""
        self._transport = transport
        self._buffer_bytes = buffer_bytes
        self._buffer_bytes_total = buffer_bytes_total
        self._linger = linger
        self._on_invalid = on_invalid
        self._codec = codec
        self._clock = clock
        self._engine: Engine | None = None
        self._lanes: Lanes
        """The engine's; there as soon as ``_loop`` is an event loop."""
        self._current_loop: Callable[[], object] = _no_loop
        self._loop: object = _NOT_OPEN
        """The event loop it is open in; anything else sends every call to :meth:`_usable`, which refuses it."""
        self._home: object = None
        """The event loop it was entered in, also once it is closed."""
        self._closing: anyio.Event | None = None

    def __repr__(self) -> str:
        state = "not open" if self._engine is None else self._engine.connection.state.value
        return f"<{type(self).__name__} {self._transport.name} {state}>"

    @property
    def capabilities(self) -> Capabilities:
        """What the transport declares with its options."""
        return self._transport.capabilities

    def native(self, kind: type[T], /) -> T:
        """Return the transport client's own object of type ``kind``, for what fanwire does not cover.

        Raises:
            Unsupported: there is none of that type; the text names those there are.
        """
        return self._transport.native(kind)

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectFailed: no connection was made within ``connect_timeout``.
            Unauthenticated: the broker refuses the credentials.
            Closed: it is open already, or was closed.
        """
        if self._engine is not None:
            raise Closed("this Realtime was entered before: make another one")
        backend = "trio" if on_trio() else "asyncio"
        if backend not in self.capabilities.async_backends:
            raise Unsupported(
                f"the {self._transport.name} transport does not work under {backend}, only under {', '.join(sorted(self.capabilities.async_backends))}"
            )
        engine = self._engine = Engine(
            self._transport,
            codec=self._codec,
            clock=self._clock,
            on_invalid=self._on_invalid,
            connect_timeout=self.connect_timeout,
            linger=self._linger,
            buffer_bytes_total=self._buffer_bytes_total,
            hold_bytes=self._buffer_bytes,
        )
        try:
            await engine.open()
        except BaseException:
            self._closing = self._closing or anyio.Event()
            self._closing.set()
            raise
        self._current_loop = current_loop()
        self._loop = self._home = self._current_loop()
        self._lanes = engine.lanes
        _open.add(self)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Close; politely unless the body was cancelled, for then there is nothing to wait for."""
        await self.aclose(0.0 if kind is not None and not issubclass(kind, Exception) else 10.0)

    async def aclose(self, deadline: float = 10.0) -> None:
        """Refuse new work, send what was accepted, end iterators behind what is queued, and close. Idempotent.

        It cannot promise that other processes have received anything.

        Args:
            deadline: Seconds to wait for messages that are still to be sent; the rest fails with ``Closed``.

        Raises:
            WrongLoop: it is open in another event loop or process.
        """
        engine = self._engine
        if engine is None:
            return
        if self._closing is not None:
            if not self._closing.is_set():
                self._stay()
                await self._closing.wait()
            return
        if self._loop is _NOT_OPEN:
            self._closing = anyio.Event()
            engine.abort(Closed("this Realtime was closed while it was being opened"))
            await self._closing.wait()
            return
        self._stay()
        self._closing = anyio.Event()
        self._loop = _NOT_OPEN
        try:
            await engine.close(deadline)
        finally:
            self._closing.set()

    def _usable(self) -> Engine:
        """Return the engine, or say why there is none to use.

        Raises:
            Closed: it is not open.
            WrongLoop: it is open in another event loop or process.
            FanwireError: the connection was given up.
        """
        engine = self._engine
        if self._closing is not None:
            raise Closed("this Realtime is closed")
        if engine is None or self._loop is _NOT_OPEN:
            raise Closed("this Realtime is not open: use `async with Realtime.from_url(...) as rt:`")
        self._stay()
        if engine.failure is not None:
            raise fresh(engine.failure)
        return engine

    def _stay(self) -> None:
        """Refuse to be used from another event loop or process than it was entered in.

        Raises:
            WrongLoop: it is.
        """
        if self._loop is _FORKED:
            raise WrongLoop("this Realtime was opened before the process forked: open one in each process")
        try:
            here = self._current_loop()
        except RuntimeError:
            here = None
        if here is not self._home:
            where = "no event loop runs here" if here is None and not runs_anywhere() else "this is another one"
            raise WrongLoop(f"a Realtime belongs to the event loop it was entered in, and {where}; open one per event loop")


def _no_loop() -> object:
    raise RuntimeError("not open")
