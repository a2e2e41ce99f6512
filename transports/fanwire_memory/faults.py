"""Scripted faults: what a network and a broker do to messages, made to happen exactly when a test wants it.

Example::

    transport = MemoryTransport()
    transport.faults.drop(1)  # the next live frame gets lost; history still has it
    transport.faults.disconnect()  # every connection breaks; fanwire reconnects
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from fanwire.errors import FanwireError

if TYPE_CHECKING:
    from .broker import MemoryBroker

__all__ = ("FaultKind", "Faults", "Script")

FaultKind = Literal["drop", "duplicate", "refuse", "lose_ack"]


@final
@dataclass(slots=True)
class Script:
    """One fault that waits for its messages."""

    kind: FaultKind
    count: int
    skip: int
    channel: str | None
    stored: bool
    error: FanwireError | None


@final
class Faults:
    """The faults of one memory broker. Call them on an event loop that uses it; those of a named broker on any thread.

    A view: what was scripted is kept by the broker.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    @property
    def scripts(self) -> list[Script]:
        """Faults that wait for their messages."""
        return self._broker.scripts

    def drop(self, count: int = 1, *, skip: int = 0, channel: str | None = None, stored: bool = True) -> None:
        """Deliver the next messages to nobody, though their publishers are told they were accepted.

        Args:
            count: How many.
            skip: How many to let pass first.
            channel: Only those of this channel.
            stored: Keep them in history, so that fanwire can repair the hole; ``False`` loses them for good.
        """
        self._add(Script("drop", count, skip, channel, stored, None))

    def duplicate(self, count: int = 1, *, skip: int = 0, channel: str | None = None) -> None:
        """Deliver the next messages twice, as a broker that repeats a frame does."""
        self._add(Script("duplicate", count, skip, channel, True, None))

    def refuse(self, error: FanwireError, count: int = 1, *, skip: int = 0, channel: str | None = None) -> None:
        """Refuse the next publishes with ``error``; the messages are absent."""
        self._add(Script("refuse", count, skip, channel, False, error))

    def lose_ack(self, count: int = 1, *, skip: int = 0, channel: str | None = None) -> None:
        """Accept and deliver the next publishes, but break the publisher's call with ``ConnectionLost``: to it the outcome is unknown."""
        self._add(Script("lose_ack", count, skip, channel, True, None))

    def disconnect(self, *, refuse: int = 0) -> None:
        """Break every connection, and fail the next ``refuse`` attempts to make one."""
        self._broker.disconnect(refuse)

    def deny(self, channel: str, error: FanwireError | None) -> None:
        """Refuse subscriptions to ``channel`` with ``error``; ``None`` allows them again."""
        self._broker.deny(channel, error)

    def stall(self) -> None:
        """Hold back everything on its way to subscribers, as a network that stands still does, until :meth:`resume`. Publishes are accepted."""
        self._broker.stall(None)

    def delay(self, seconds: float) -> None:
        """Hold back everything on its way to subscribers for ``seconds`` of the broker's clock."""
        self._broker.stall(seconds)

    def block(self) -> None:
        """Answer neither publishes nor subscribes, until :meth:`resume`."""
        self._broker.block()

    def resume(self) -> None:
        """End :meth:`stall`, :meth:`delay` and :meth:`block`."""
        self._broker.resume()

    def trim(self, channel: str, keep: int = 0) -> None:
        """Discard a channel's history but for the newest ``keep`` messages. Its position stays."""
        self._broker.trim(channel, keep)

    def new_epoch(self, channel: str) -> None:
        """Lose a channel's history and position, as a broker that restarts without its data does: it begins anew under another epoch."""
        self._broker.new_epoch(channel)

    def forget(self) -> None:
        """Lose the histories and positions of all channels, as :meth:`new_epoch` does of one."""
        self._broker.forget()

    def fork(self, channel: str, back: int) -> None:
        """Lose a channel's newest ``back`` messages, but not its epoch, as a failover to a replica that lags does."""
        self._broker.fork(channel, back)

    def _add(self, script: Script) -> None:
        if script.count < 1 or script.skip < 0:
            raise ValueError(f"count must be at least 1 and skip at least 0, got {script.count} and {script.skip}")
        with self._broker.lock:
            self.scripts.append(script)
            self._broker.look_for_faults()

    def take(self, channel: str) -> Script | None:
        """Return the fault that befalls the next message of ``channel``, and count it. For the broker."""
        for script in self.scripts:
            if script.channel is not None and script.channel != channel:
                continue
            if script.skip:
                script.skip -= 1
                continue
            script.count -= 1
            if not script.count:
                self.scripts.remove(script)
                self._broker.look_for_faults()
            return script
        return None
