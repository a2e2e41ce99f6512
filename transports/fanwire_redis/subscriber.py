"""The connection for subscriptions: what is subscribed, what was asked and is to be answered, and where each channel's delivery stands."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal, TypeAlias, final

from fanwire.errors import ConnectionLost, Internal
from fanwire.messages import Cursor, GapReason
from fanwire.transport import Sink

from .errors import is_stale, server_error
from .wire import Command, Reply, ServerError, Wire

__all__ = ("Subscriber",)

_HELD: Final = 8 * 2**20
"""Bytes of one channel's messages that are held while its position is looked up; beyond them it is read from history."""

_MESSAGE: Final = (b"message", b"smessage")

_LONGEST: Final = 20
"""Digits of a number with 64 bits."""

_Refusal: TypeAlias = tuple[tuple[bytes, ...], ServerError]
"""Of a command that named these."""


@final
class _Live:
    """A channel that is subscribed, or is to be."""

    __slots__ = ("channel", "confirmed", "epoch", "generation", "held", "held_bytes", "last", "overflowed")

    def __init__(self, channel: str, generation: int) -> None:
        self.channel = channel
        self.generation = generation
        self.epoch = b""
        """Of the last message, as bytes."""
        self.last: Cursor | None = None
        """The position delivery has reached on this connection."""
        self.confirmed = False
        self.held: list[bytes] = []
        """What came since it was confirmed, until its position is known."""
        self.held_bytes = 0
        self.overflowed = False


@final
class _Wave:
    """Commands that were sent together, and what has become of them."""

    __slots__ = ("future", "missing", "refused")

    def __init__(self, future: asyncio.Future[None], missing: int) -> None:
        self.future = future
        self.missing = missing
        self.refused: list[_Refusal] = []


@final
class _Expected:
    """A command whose answer is to come. The server answers in the order of the commands, whatever messages come in between."""

    __slots__ = ("generation", "kind", "missing", "names", "wave")

    def __init__(self, kind: Literal["enter", "leave", "other"], names: tuple[bytes, ...], wave: _Wave | None, generation: int = 0) -> None:
        self.kind = kind
        self.generation = generation
        self.names = names
        self.missing = len(names) or 1
        """Answers: one per name, or a single error."""
        self.wave = wave


@final
class Subscriber:
    """Subscriptions on one connection.

    Args:
        sink: Where messages go.
        sharded: Whether channels are a cluster's, of one slot each.
        keeps: Whether there is history: a channel is then live once :meth:`open` was told where it stands, else with the server's confirmation.
    """

    def __init__(self, sink: Sink, *, sharded: bool, keeps: bool) -> None:
        self.wire: Wire
        self._sink = sink
        self._deliver = sink.deliver
        self._enter, self._leave = ("SSUBSCRIBE", "SUNSUBSCRIBE") if sharded else ("SUBSCRIBE", "UNSUBSCRIBE")
        self._together = not sharded
        """Whether channels can share a command: not those of different slots."""
        self._keeps = keeps
        self._live: dict[bytes, _Live] = {}
        self._asked: dict[bytes, _Live] = {}
        """Channels that are not live yet."""
        self._expected: deque[_Expected] = deque()

    def attach(self, wire: Wire) -> None:
        """Use this connection from now on."""
        self.wire = wire
        wire.ended.add_done_callback(self._ended)

    @property
    def channels(self) -> list[str]:
        """Channels that are live."""
        return [live.channel for live in self._live.values()]

    # ------------------------------------------------------------------ asking

    async def ask(self, channels: Mapping[bytes, str], generation: int) -> Mapping[bytes, ServerError]:
        """Subscribe, and return once the server has confirmed; return those that it refused.

        Args:
            channels: What is published on, to the channels' names.
            generation: Of this subscription.

        Raises:
            ConnectionLost: the connection broke first.
        """
        for name, channel in channels.items():
            self._live.pop(name, None)
            self._asked[name] = _Live(channel, generation)
        try:
            refused = await self._enter_all([tuple(channels)] if self._together else [(name,) for name in channels], generation)
            if refused and self._together:
                # A command is refused as a whole: one by one shows which channels are meant.
                refused = await self._enter_all([(name,) for name in channels], generation)
        except BaseException:
            self.leave(channels)
            raise
        found = {name: error for names, error in refused for name in names}
        for name in found:
            self._asked.pop(name, None)
        return found

    async def say(self, command: Command) -> None:
        """Send a command that has one answer, such as ``PING``, and wait for it. A server that refuses has answered.

        Raises:
            ConnectionLost: the connection broke first.
        """
        wave = self._wave(1)
        self._expected.append(_Expected("other", (), wave))
        self.wire.write([command])
        await wave.future

    async def _enter_all(self, groups: list[tuple[bytes, ...]], generation: int) -> list[_Refusal]:
        """Send a command for each group of channels; return those that were refused."""
        wave = self._wave(len(groups))
        self._expected.extend(_Expected("enter", names, wave, generation) for names in groups)
        self.wire.write([(self._enter, *names) for names in groups])
        await wave.future
        return wave.refused

    def _wave(self, commands: int) -> _Wave:
        if self.wire.ended.done():
            raise self.wire.lost()
        return _Wave(asyncio.get_running_loop().create_future(), commands)

    def leave(self, names: Collection[bytes]) -> None:
        """Stop delivery. The answer is not waited for: late messages find no channel."""
        for name in names:
            self._live.pop(name, None)
            self._asked.pop(name, None)
        if not names or self.wire.ended.done():
            return
        groups = [tuple(names)] if self._together else [(name,) for name in names]
        self._expected.extend(_Expected("leave", group, None) for group in groups)
        commands: list[Command] = [(self._leave, *group) for group in groups]
        self.wire.write(commands)

    def _ended(self, _: asyncio.Future[None]) -> None:
        expected, self._expected = self._expected, deque()
        for wave in {id(each.wave): each.wave for each in expected if each.wave is not None}.values():
            if not wave.future.done():
                wave.future.set_exception(self.wire.lost())
                wave.future.exception()  # a caller that was cancelled meanwhile does not ask

    # ------------------------------------------------------------------ receiving

    def on_pushes(self, replies: Sequence[Reply]) -> None:
        """Take whatever has come. Written out for messages of live channels, which nearly all of it is."""
        deliver, keeps, frame, find = self._deliver, self._keeps, self._frame, self._live.get
        for reply in replies:
            if reply.__class__ is not bytes and reply.__class__ is not ServerError and reply[0] in _MESSAGE and (live := find(reply[1])) is not None:
                if keeps:
                    frame(live, reply[2])
                else:
                    deliver(live.channel, live.generation, reply[2], None, None)
            else:
                self._on_push(reply)

    def _on_push(self, reply: Reply) -> None:
        if type(reply) is bytes or isinstance(reply, ServerError):
            self._answered("other", reply)
            return
        kind = reply[0]
        if kind == b"message" or kind == b"smessage":  # noqa: PLR1714 - a set costs twice as much
            name = reply[1]
            if name in self._asked:
                self._hold(self._asked[name], reply[2])
        elif kind == b"subscribe" or kind == b"ssubscribe":  # noqa: PLR1714 - as above
            self._confirmed(reply[1])
            self._answered("enter", reply)
        elif kind == b"pong":
            self._answered("other", reply)
        elif kind == b"unsubscribe" or kind == b"sunsubscribe":  # noqa: PLR1714 - as above
            if self._expected and self._expected[0].kind == "leave" and reply[1] in self._expected[0].names:
                self._answered("leave", reply)
            elif reply[1] in self._live or reply[1] in self._asked:
                self.wire.abort(ConnectionLost("redis: the cluster moved a channel to another server"))

    def _answered(self, kind: str, reply: Reply) -> None:
        """Note an answer to the command that has waited longest."""
        failed = isinstance(reply, ServerError)
        if failed and is_stale(reply):
            self.wire.abort(server_error(reply))
            return
        if not self._expected or (self._expected[0].kind != kind and not failed):
            raise Internal(f"redis: an answer to nothing that was asked: {str(reply)[:80]!r}")
        command = self._expected[0]
        command.missing -= 1
        if command.missing and not failed:
            return
        self._expected.popleft()
        wave = command.wave
        if wave is None:
            return
        if failed and command.kind == "enter":
            wave.refused.append((command.names, reply))
        wave.missing -= 1
        if not wave.missing and not wave.future.done():
            wave.future.set_result(None)

    def _confirmed(self, name: bytes) -> None:
        live = self._asked.get(name)
        if live is None or not self._expected or self._expected[0].generation != live.generation:
            return  # asked for once more since
        live.confirmed = True
        if not self._keeps:
            del self._asked[name]
            self._live[name] = live
            self._sink.subscribed(live.channel, live.generation, None)

    def open(self, name: bytes, generation: int, head: Cursor | None) -> None:
        """Make a channel live that was confirmed: its newest position then was ``head``, or a later one."""
        live = self._asked.get(name)
        if live is None or live.generation != generation:
            return
        del self._asked[name]
        self._live[name] = live
        self._sink.subscribed(live.channel, generation, head)
        if head is not None:
            live.last, live.epoch = head, head.epoch.encode()
        if live.overflowed:
            self._sink.lost([live.channel], GapReason.HOLE, None)
            return
        held, live.held = live.held, []
        for message in held:
            if not _behind(message, head):
                self._frame(live, message)

    def _hold(self, live: _Live, message: bytes) -> None:
        """Keep a message until it can be told whether the channel's position has it already. Before the confirmation it is an earlier subscription's."""
        if not live.confirmed or live.overflowed:
            return
        live.held_bytes += len(message)
        if live.held_bytes > _HELD:
            live.overflowed = True
            live.held.clear()
        else:
            live.held.append(message)

    def _frame(self, live: _Live, message: bytes) -> None:
        """Hand over ``<epoch>-<n> <mark> <frame>``; what does not look like that is a foreign client's, and has no position."""
        if not self._keeps:
            self._deliver(live.channel, live.generation, message, None, None)
            return
        id, _, rest = message.partition(b" ")
        epoch, dash, seq = id.partition(b"-")
        if not dash or rest[8:9] != b" " or len(id) > 2 * _LONGEST or not epoch.isdigit() or not seq.isdigit():
            self._deliver(live.channel, live.generation, message, None, None)
            return
        offset = int(seq)
        last = live.last
        if last is not None and epoch == live.epoch:
            name = last.epoch
            prev = last if last.offset == offset - 1 else Cursor(name, offset - 1)
        else:
            live.epoch = epoch
            name = epoch.decode()
            # A stream that is new while the connection held: its key expired or was lost, and nothing between the two was published that did not come here.
            prev = last if last is not None and offset == 1 else Cursor(name, offset - 1)
        fields = (name, offset, rest[:8].decode("ascii", "replace"))
        position = live.last = tuple.__new__(Cursor, fields)  # pyright: ignore[reportUnknownMemberType]  # half the cost of calling the class
        self._deliver(live.channel, live.generation, rest[9:], position, prev)


def _behind(message: bytes, head: Cursor | None) -> bool:
    """Tell whether ``message`` is at or before ``head``, or of an earlier stream."""
    epoch, dash, seq = message.partition(b" ")[0].partition(b"-")
    if head is None or not dash or len(epoch) > _LONGEST or len(seq) > _LONGEST or not epoch.isdigit() or not seq.isdigit():
        return False
    return (int(epoch), int(seq)) <= (int(head.epoch), head.offset)
