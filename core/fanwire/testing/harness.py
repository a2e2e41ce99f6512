"""What a transport's author writes to have it proven: how to open it, and what can be done to the server behind it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from types import TracebackType
from typing import ClassVar, Literal, Self

from ..capabilities import Capabilities
from ..transport import Transport

__all__ = ("ABILITIES", "Harness")


class Harness(ABC):
    """One transport on one server, for one check.

    Only :meth:`transport` has to be written. Each further method that is overridden lets the kit test more; what is not overridden is not tested, and the report says so::

        class MyHarness(Harness):
            def transport(self, **options):
                return MyTransport(MyOptions(url=SERVER, namespace=self.namespace, **options))

            async def cut(self):
                await SERVER.kill_connections()

    Where the transport speaks TCP, a :class:`~fanwire.testing.proxy.FaultProxy` between it and the server is all it takes for :meth:`cut`, :meth:`stall`, :meth:`resume`,
    :meth:`truncate` and :meth:`lose_answer` (``proxy.truncate(0)``).

    Entered before a check and left after it. Everything happens within :attr:`namespace`, so that checks can run side by side on one server. Two harnesses of one
    namespace are two clients of the server that know nothing of each other: what is done to the connections of one does not concern the other.
    """

    patience: ClassVar[float] = 10.0
    """Seconds within which anything that should happen has to."""

    native: ClassVar[tuple[type, ...]] = ()
    """Types that ``Transport.native`` has to return."""

    half_open: ClassVar[float | None] = None
    """Seconds within which the transport finds that nothing comes through any more, or ``None`` where it does not claim to."""

    crowd: ClassVar[int] = 10_000
    """Channels of the check that tries a great many of them; fewer for a server that takes long."""

    def __init__(self, namespace: str) -> None:
        self.namespace: str = namespace
        """This check's own, random."""

    @abstractmethod
    def transport(self, **options: object) -> Transport:
        """Return a new transport on the server; no I/O.

        Args:
            **options: To be set over the harness's own, such as ``history=10``, if the transport has them.
        """

    @classmethod
    def capabilities(cls) -> Capabilities:
        """Return what the transport claims; to be overridden where :meth:`transport` works in an entered harness only, since tests are collected before."""
        return cls("collected").transport().capabilities

    async def __aenter__(self) -> Self:
        """Make ready what the check needs, beyond what is shared."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:  # noqa: B027 - most harnesses have nothing to undo
        """Undo whatever was done to the server."""

    # ------------------------------------------------------------------ the connection

    async def cut(self) -> None:
        """Break every connection of this harness's transports at once, as a reset does. New ones can be made."""
        raise NotImplementedError

    async def stall(self) -> None:
        """Let nothing through, either way, without breaking a connection, as a network does that lost its route; until :meth:`resume`."""
        raise NotImplementedError

    async def resume(self) -> None:
        """End :meth:`stall`."""
        raise NotImplementedError

    async def lose_answer(self) -> None:
        """Let the server accept what is published next, and break the connection before its answer comes back."""
        raise NotImplementedError

    async def truncate(self, after_bytes: int, direction: Literal["up", "down"]) -> None:
        """Break every connection of this harness's transports, when so many more bytes have come through: in the middle of a frame, in general.

        Args:
            after_bytes: Bytes that still pass, on each connection.
            direction: On their way to the server (``up``) or from it.
        """
        raise NotImplementedError

    def plain(self) -> Transport:
        """Return a transport that declares no history; where it never does, the same as :meth:`transport` returns."""
        raise NotImplementedError

    def bounded(self, count: int) -> Transport:
        """Return a transport whose history keeps the newest ``count`` messages of a channel, and not many more."""
        raise NotImplementedError

    def fading(self, seconds: float) -> Transport:
        """Return a transport whose history of a channel is gone when nothing was published there for ``seconds``."""
        raise NotImplementedError

    def absent(self) -> Transport:
        """Return a transport for a place where no server is."""
        raise NotImplementedError

    def unauthorised(self) -> Transport:
        """Return a transport with credentials that the server refuses."""
        raise NotImplementedError

    def url(self) -> str:
        """Return the URL by which other processes reach the server, in this namespace."""
        raise NotImplementedError

    def schemes(self) -> Collection[str]:
        """Return the URL schemes under which the installed distribution registers the transport."""
        raise NotImplementedError

    # ------------------------------------------------------------------ the server

    async def restart(self, *, keep: bool) -> None:
        """Stop the server and start it again, with its data or (``keep=False``) without; return when it accepts connections."""
        raise NotImplementedError

    async def subscriptions(self) -> int:
        """Return how many channels of this namespace the server delivers to anybody."""
        raise NotImplementedError

    async def stored(self, channel: str) -> int:
        """Return how many messages of ``channel`` the server keeps."""
        raise NotImplementedError

    async def inject(self, channel: str, frame: bytes) -> None:
        """Publish ``frame`` as it is, as a foreign client would; return when the server has accepted it."""
        raise NotImplementedError

    async def trim(self, channel: str, keep: int) -> None:
        """Discard the history of ``channel`` but for its newest ``keep`` messages."""
        raise NotImplementedError

    async def recreate(self, channel: str) -> None:
        """Lose the history and position of ``channel``, so that it begins anew."""
        raise NotImplementedError

    async def rewind(self, channel: str, back: int) -> None:
        """Lose the newest ``back`` messages of ``channel``, and tell nobody, as a failover to a replica that lags does."""
        raise NotImplementedError

    async def lose(self, count: int, skip: int = 0) -> None:
        """Deliver to nobody ``count`` of the next messages, behind the next ``skip``, though they are accepted and stored."""
        raise NotImplementedError

    @classmethod
    def can(cls, ability: str) -> bool:
        """Tell whether something beyond :meth:`transport` is written."""
        return getattr(cls, ability) is not getattr(Harness, ability)


ABILITIES: frozenset[str] = frozenset(
    {
        "absent",
        "bounded",
        "cut",
        "fading",
        "half_open",
        "inject",
        "lose",
        "lose_answer",
        "plain",
        "recreate",
        "restart",
        "resume",
        "rewind",
        "schemes",
        "stall",
        "stored",
        "subscriptions",
        "trim",
        "truncate",
        "unauthorised",
        "url",
    }
)
"""What a harness may be able to do, by the names of its methods (and of :attr:`Harness.half_open`, which is a claim)."""
