"""One server: a connection for commands, one for subscriptions, and the scripts between them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Final, NamedTuple, final

from fanwire.errors import ConnectionLost, FanwireError
from fanwire.messages import Cursor, Receipt, mark_of
from fanwire.transport import Earliest, HistoryEntry, HistoryPage, Last, Outbound, Sink

from .errors import server_error
from .names import Names, fresh_epoch, head_cursor, stream_id
from .options import RedisOptions
from .wire import Command, Reply, ServerError, Wire

__all__ = ("HEAD", "PAGE", "PUBLISH", "Script", "Shard")

CALL: Final = 64
"""Messages that one call of the script takes: the server does nothing else meanwhile."""

_EPOCHS: Final = 65_536
"""Channels whose epoch is remembered."""


@final
class Script(NamedTuple):
    """A script and the digest the server knows it by."""

    source: bytes
    sha: str

    @classmethod
    def read(cls, name: str) -> Script:
        """Read a script of this package."""
        source = files("fanwire_redis").joinpath(name).read_bytes()
        return cls(source, sha1(source, usedforsecurity=False).hexdigest())


PUBLISH: Final = Script.read("publish.lua")
HEAD: Final = Script.read("head.lua")
PAGE: Final = Script.read("page.lua")


@final
class _Live:
    """A channel that is subscribed."""

    __slots__ = ("channel", "epoch", "generation", "last")

    def __init__(self, channel: str, generation: int) -> None:
        self.channel = channel
        self.generation = generation
        self.epoch = b""
        """Of the last message, as bytes."""
        self.last: Cursor | None = None
        """The position delivery has reached on this connection."""


@final
class Shard:
    """One server, for as long as both its connections last."""

    def __init__(self, options: RedisOptions, names: Names, sink: Sink, *, sharded: bool, epochs: dict[str, str]) -> None:
        self._options = options
        self._names = names
        self._deliver = sink.deliver
        self._sharded = sharded
        self._publish = "SPUBLISH" if sharded else "PUBLISH"
        self._epochs = epochs
        """Channel to the epoch of its stream, as the last publish found it."""
        self._keeps = options.history > 0
        self._ttl = max(1, int(options.ttl * 1000))
        self._live: dict[bytes, _Live] = {}
        self._waiting: set[bytes] = set()
        """Channels whose subscription is to be confirmed."""
        self._asking: asyncio.Future[None] | None = None
        self._refusal: ServerError | None = None
        self._pinging: asyncio.Future[None] | None = None
        self._pings = 0
        self.commands: Wire
        self.pushes: Wire

    async def close(self) -> None:
        """Close both connections, as far as they were made."""
        for wire in (getattr(self, "commands", None), getattr(self, "pushes", None)):
            if wire is not None:
                await wire.close()

    # ------------------------------------------------------------------ scripts

    def _call(self, script: Script, keys: Sequence[bytes], arguments: Sequence[bytes | str | int], *, whole: bool) -> Command:
        """Make a command that calls a script: by its source where ``whole``, or where this connection has not called it before."""
        if whole or script.sha not in self.commands.scripts:
            self.commands.scripts.add(script.sha)
            return ("EVAL", script.source, len(keys), *keys, *arguments)
        return ("EVALSHA", script.sha, len(keys), *keys, *arguments)

    async def _run(self, script: Script, calls: Sequence[tuple[Sequence[bytes], Sequence[bytes | str | int]]]) -> list[Reply]:
        """Call a script several times, in one round trip; a call that finds the script gone is repeated."""
        replies = await self.commands.send([self._call(script, keys, arguments, whole=False) for keys, arguments in calls], len(calls))
        gone = [index for index, reply in enumerate(replies) if isinstance(reply, ServerError) and reply.code == "NOSCRIPT"]
        if gone:
            again = await self.commands.send([self._call(script, *calls[index], whole=True) for index in gone], len(gone))
            for index, reply in zip(gone, again, strict=True):
                replies[index] = reply
        return replies

    # ------------------------------------------------------------------ publishing

    async def publish_plain(self, messages: Sequence[Outbound]) -> list[Receipt | FanwireError]:
        """Publish without history."""
        commands: list[Command] = [(self._publish, self._names.channel(message.channel), message.frame) for message in messages]
        results: list[Receipt | FanwireError] = []
        for message, reply in zip(messages, await self.commands.send(commands, len(commands)), strict=True):
            if isinstance(reply, ServerError):
                results.append(self._refused(reply))
            else:
                results.append(Receipt(message.id, message.channel, message.topic, None, duplicate=False))
        return results

    async def publish(self, messages: Sequence[Outbound]) -> list[Receipt | FanwireError]:
        """Append and publish, one call of the script per channel and ``CALL`` messages.

        A script the server has forgotten cannot let a later call overtake an earlier one: a channel with several calls has them made by source, which always works, and
        core has no second batch of a channel under way.
        """
        channels: dict[str, list[int]] = {}
        for index, message in enumerate(messages):
            channels.setdefault(message.channel, []).append(index)
        calls: list[tuple[list[int], Command]] = []
        for channel, indices in channels.items():
            for begin in range(0, len(indices), CALL):
                part = indices[begin : begin + CALL]
                keys, arguments = self._arguments(channel, [messages[index] for index in part])
                calls.append((part, self._call(PUBLISH, keys, arguments, whole=len(indices) > CALL)))
        replies = await self.commands.send([command for _, command in calls], len(calls))
        results: list[Receipt | FanwireError | None] = [None] * len(messages)
        refused: set[str] = set()
        for (part, command), first in zip(calls, replies, strict=True):
            channel, reply = messages[part[0]].channel, first
            if isinstance(reply, ServerError) and reply.code == "NOSCRIPT":
                (reply,) = await self.commands.send([("EVAL", PUBLISH.source, *command[2:])], 1)
            if channel in refused:
                answers: list[Receipt | FanwireError] = [_behind(channel)] * len(part)
            else:
                answers = self._receipts(channel, [messages[index] for index in part], reply)
                if any(isinstance(answer, FanwireError) for answer in answers):
                    refused.add(channel)
            for index, answer in zip(part, answers, strict=True):
                results[index] = answer
        return [result for result in results if result is not None]

    def _arguments(self, channel: str, messages: Sequence[Outbound]) -> tuple[list[bytes], list[bytes | str | int]]:
        keys = [self._names.stream(channel)]
        arguments: list[bytes | str | int] = [
            self._publish, self._names.channel(channel), self._options.history, self._ttl, self._epochs.get(channel, ""), fresh_epoch(), self._ttl,
        ]  # fmt: skip
        if all(message.key is None and not message.retry for message in messages):
            arguments.append("plain")
            arguments += [mark_of(message.id, None).encode() + b" " + message.frame for message in messages]
            return keys, arguments
        arguments.append("full")
        for message in messages:
            if message.key is not None:
                keys.append(self._names.idempotency(channel, message.key))
            payload = mark_of(message.id, message.key).encode() + b" " + message.frame
            arguments += [payload, message.id, "key" if message.key is not None else "retry" if message.retry else ""]
        return keys, arguments

    def _receipts(self, channel: str, messages: Sequence[Outbound], reply: Reply) -> list[Receipt | FanwireError]:
        """Return one result per message from what the script said."""
        if isinstance(reply, ServerError):
            return [self._refused(reply), *[_behind(channel)] * (len(messages) - 1)]
        results: list[Receipt | FanwireError] = []
        for message, said in zip(messages, reply, strict=False):
            if said[:1] == b"!":
                results.append(self._refused(ServerError(said[1:].decode(errors="replace"))))
                continue
            duplicate = said[:1] == b"="
            epoch, _, seq = (said[1:] if duplicate else said).decode().partition("-")
            if not duplicate:
                self._remember(channel, epoch)
            cursor = Cursor(epoch, int(seq), mark_of(message.id, message.key))
            results.append(Receipt(message.id, channel, message.topic, cursor, duplicate))
        return results + [_behind(channel)] * (len(messages) - len(results))

    def _refused(self, reply: ServerError) -> FanwireError:
        """Return the error for a reply; one that another server would not give ends the connection, so that it is looked for."""
        error = server_error(reply)
        if isinstance(error, ConnectionLost):
            self.commands.error = error
            self.commands.abort()
        return error

    def _remember(self, channel: str, epoch: str) -> None:
        epochs = self._epochs
        if epochs.get(channel) != epoch:
            if len(epochs) >= _EPOCHS:
                epochs.clear()
            epochs[channel] = epoch

    # ------------------------------------------------------------------ receiving

    def on_push(self, reply: Reply) -> None:
        """Take what comes on the connection for subscriptions."""
        if type(reply) is bytes or isinstance(reply, ServerError):
            self._told(reply)
            return
        kind = reply[0]
        if kind == b"message" or kind == b"smessage":  # noqa: PLR1714 - a set costs twice as much
            live = self._live.get(reply[1])
            if live is not None:
                self._frame(live, reply[2])
        elif kind in {b"subscribe", b"ssubscribe"}:
            self._waiting.discard(reply[1])
            self._told(None)
        elif kind == b"pong":
            self._told(b"PONG")
        elif kind == b"sunsubscribe" and reply[1] in self._live:
            self.pushes.error = ConnectionLost("redis: the cluster moved a channel to another server")
            self.pushes.abort()

    def _told(self, reply: bytes | ServerError | None) -> None:
        """Wake who waits for a confirmation, an error or an answer to a ping."""
        if isinstance(reply, ServerError):
            self._refusal = reply
        elif reply is not None:
            self._pings -= 1
        if self._asking is not None and not self._asking.done() and (self._refusal is not None or not self._waiting):
            self._asking.set_result(None)
        if reply is not None and self._pinging is not None and not self._pinging.done() and not self._pings:
            self._pinging.set_result(None)

    def _frame(self, live: _Live, message: bytes) -> None:
        """Hand over ``<epoch>-<n> <mark> <frame>``; what does not look like that is a foreign client's, and has no position."""
        id, _, rest = message.partition(b" ")
        epoch, dash, seq = id.partition(b"-")
        if not dash or rest[8:9] != b" " or not epoch.isdigit() or not seq.isdigit():
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
        position = live.last = Cursor(name, offset, rest[:8].decode("ascii", "replace"))
        self._deliver(live.channel, live.generation, rest[9:], position, prev)

    async def subscribe(self, channels: Collection[str], generation: int) -> Mapping[str, Cursor | None | FanwireError]:
        """Subscribe, wait for the confirmations, then look where each channel stands. Core makes one such call at a time."""
        names = {self._names.channel(channel): channel for channel in channels}
        for name, channel in names.items():
            self._live[name] = _Live(channel, generation)
        answers: dict[str, Cursor | None | FanwireError] = {}
        if await self._ask(list(names)) is not None:
            # A server refuses a command as a whole; one by one shows which channels it means.
            for name, channel in names.items():
                refusal = await self._ask([name])
                if refusal is not None:
                    del self._live[name]
                    answers[channel] = server_error(refusal)
        granted = [channel for channel in channels if channel not in answers]
        return answers | (await self._heads(granted) if self._keeps else dict.fromkeys(granted))

    async def _ask(self, names: Sequence[bytes]) -> ServerError | None:
        """Ask for channels together; return why that was refused, or ``None``."""
        self._waiting.update(names)
        self._refusal = None
        self._asking = asyncio.get_running_loop().create_future()
        if self._sharded:
            self.pushes.write([("SSUBSCRIBE", name) for name in names])  # names of different slots cannot share a command
        else:
            self.pushes.write([("SUBSCRIBE", *names)])
        try:
            await self.pushes.unless_closed(self._asking)
        finally:
            self._waiting.clear()
            self._asking = None
        return self._refusal

    async def _heads(self, channels: Sequence[str]) -> dict[str, Cursor | None | FanwireError]:
        answers: dict[str, Cursor | None | FanwireError] = {}
        calls: list[tuple[list[bytes], list[bytes | str | int]]] = [
            ([self._names.stream(channel)], [fresh_epoch(), self._ttl]) for channel in channels
        ]
        for channel, reply in zip(channels, await self._run(HEAD, calls), strict=True):
            if isinstance(reply, ServerError):
                answers[channel] = server_error(reply)
                continue
            head = answers[channel] = head_cursor(*reply)
            live = self._live.get(self._names.channel(channel))
            if live is not None and live.last is None:
                live.last, live.epoch = head, head.epoch.encode()
        return answers

    def unsubscribe(self, channels: Collection[str]) -> None:
        """Stop delivery. The answer is not waited for: late frames find no channel."""
        names = [self._names.channel(channel) for channel in channels]
        for name in names:
            self._live.pop(name, None)
        if self._sharded:
            self.pushes.write([("SUNSUBSCRIBE", name) for name in names])
        else:
            self.pushes.write([("UNSUBSCRIBE", *names)])

    # ------------------------------------------------------------------ history

    async def page(self, channel: str, start: Cursor | Last | Earliest, limit: int) -> HistoryPage:
        """Read a page of a channel's stream.

        Raises:
            FanwireError: the server refused.
        """
        where: str | int = start.n if isinstance(start, Last) else stream_id(start) if isinstance(start, Cursor) else "-"
        arguments: list[bytes | str | int] = ["last" if isinstance(start, Last) else "from", where, limit]
        (reply,) = await self._run(PAGE, [([self._names.stream(channel)], arguments)])
        if isinstance(reply, ServerError):
            raise server_error(reply)
        newest, payload, stored = reply
        entries = [_entry(id, fields[1]) for id, fields in stored]
        complete = (
            bool(entries) and isinstance(start, Cursor) and entries[0].position[:2] in {(start.epoch, start.offset), (start.epoch, start.offset + 1)}
        )
        return HistoryPage(entries, head_cursor(newest, payload) if newest else None, complete)

    # ------------------------------------------------------------------ liveness

    async def ping(self) -> None:
        """Make a round trip on both connections.

        Raises:
            ConnectionLost: one of them is gone.
        """
        pinging = self._pinging
        if pinging is None or pinging.done():
            pinging = self._pinging = asyncio.get_running_loop().create_future()
        self._pings += 1
        self.pushes.write([("PING",)])
        await self.commands.send([("PING",)], 1)
        await self.pushes.unless_closed(asyncio.shield(pinging))

    async def refresh(self) -> None:
        """Keep the histories of what is subscribed from expiring: an idle channel that was given up could not be told from one that lost messages."""
        names = [self._names.stream(live.channel) for live in self._live.values()]
        for begin in range(0, len(names), 512):
            part = names[begin : begin + 512]
            await self.commands.send([("PEXPIRE", name, self._ttl) for name in part], len(part))


def _entry(id: bytes, payload: bytes) -> HistoryEntry:
    position = head_cursor(id, payload)
    return HistoryEntry(payload[9:], position, Cursor(position.epoch, position.offset - 1))


def _behind(channel: str) -> FanwireError:
    return ConnectionLost(f"redis: not sent, behind a message of channel {channel!r} that was refused")
