"""One server: a connection for commands, one for subscriptions, and what is said on them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Final, TypeAlias, final

from fanwire.errors import ConnectionLost, FanwireError, Unavailable
from fanwire.messages import Cursor, Receipt, mark_of
from fanwire.transport import Earliest, HistoryEntry, HistoryPage, Last, Outbound, Sink

from .errors import is_stale, is_transient, server_error
from .names import Names, fresh_epoch, head_cursor, split_frame, stream_id
from .options import RedisOptions
from .remembered import Remembered
from .scripts import HEAD, LOOK, PAGE, PUBLISH, Call, run
from .subscriber import Subscriber
from .wire import Reply, ServerError, Wire, pack_publishes

__all__ = ("CALL", "CALL_PLAIN", "Shard")

CALL: Final = 64
"""Messages that one call of a script takes: the server does nothing else meanwhile."""

CALL_PLAIN: Final = 256
"""Messages of one transaction, without history: a message costs the server a tenth of that."""

_PAGE_BYTES: Final = 4 * 2**20
"""Bytes after which a page of history ends."""

_REFRESHED: Final = 512
"""Channels whose expiry is put off together."""

Results: TypeAlias = list[Receipt | FanwireError]


@final
class Shard:
    """One server, for as long as both its connections last."""

    def __init__(self, options: RedisOptions, names: Names, sink: Sink, *, sharded: bool, remembered: Remembered) -> None:
        self._options = options
        self._names = names
        self._sharded = sharded
        self._publish = "SPUBLISH" if sharded else "PUBLISH"
        self._remembered = remembered
        self._keeps = options.history > 0
        self._ttl = max(1, int(options.ttl * 1000))
        self.subscriber: Final = Subscriber(sink, sharded=sharded, keeps=self._keeps)
        self.commands: Wire

    async def close(self) -> None:
        """Close both connections, as far as they were made."""
        for wire in (getattr(self, "commands", None), getattr(self.subscriber, "wire", None)):
            if wire is not None:
                await wire.close()

    def _refused(self, reply: ServerError) -> FanwireError:
        """Return the error for a reply; one that another server would not give ends the connection, so that it is looked for."""
        error = server_error(reply)
        if is_stale(reply):
            self.commands.abort(error)
        return error

    # ------------------------------------------------------------------ publishing

    async def publish(self, messages: Sequence[Outbound]) -> Results:
        """Publish in calls of so many messages of one channel at most. Channels go side by side; of one channel a call is made when the one before has been accepted.

        So nothing overtakes, and nothing is accepted behind a message that was refused, whatever the reason was and however soon it is gone.

        Raises:
            ConnectionLost: the connection broke, the server is the wrong one by now, or a part was refused for a reason that passes.
            Unavailable: nothing was accepted, for a reason that passes.
        """
        most = CALL if self._keeps else CALL_PLAIN
        if 0 < len(messages) <= most and not any(message.channel != messages[0].channel or message.retry for message in messages):
            return await self._publish_part(messages)
        results: list[Receipt | FanwireError | None] = [None] * len(messages)
        accepted = self._keeps and any(message.retry for message in messages) and await self._look_back(messages, results)
        waiting: dict[str, list[int]] = {}
        for index, message in enumerate(messages):
            if results[index] is None:
                waiting.setdefault(message.channel, []).append(index)
        errors: list[FanwireError] = []
        newest: dict[str, Receipt] = {}
        while waiting:
            parts = [indices[:most] for indices in waiting.values()]
            outcomes = await self._send([[messages[index] for index in part] for part in parts])
            for channel, part, answers in zip(list(waiting), parts, outcomes, strict=True):
                for index, answer in zip(part, answers, strict=True):
                    results[index] = answer
                rest = waiting.pop(channel)[most:]
                accepted = accepted or isinstance(answers[0], Receipt)
                if isinstance(answers[-1], Receipt):
                    newest[channel] = answers[-1]
                    if rest:
                        waiting[channel] = rest
                    continue
                errors.append(next(answer for answer in answers if isinstance(answer, FanwireError)))
                for index in rest:
                    results[index] = _behind(channel)
        if errors:
            self._judge(errors, accepted)
        self._remembered.positions(newest.values())
        return [result for result in results if result is not None]

    async def _publish_part(self, messages: Sequence[Outbound]) -> Results:
        """Publish messages of one channel that take one call: what nearly all batches are."""
        (results,) = await self._send([messages])
        newest = results[-1]
        if isinstance(newest, Receipt):
            self._remembered.positions([newest])
        else:
            self._judge([next(result for result in results if isinstance(result, FanwireError))], isinstance(results[0], Receipt))
        return results

    async def _look_back(self, messages: Sequence[Outbound], results: list[Receipt | FanwireError | None]) -> bool:
        """Put into ``results`` what an earlier attempt has brought about; return whether anything.

        Of a channel a prefix was accepted then: up to the last message that is found, all were, also those that history has given up since. Those with an idempotency key are
        known by it.
        """
        retried: dict[str, list[int]] = {}
        for index, message in enumerate(messages):
            if message.retry:
                retried.setdefault(message.channel, []).append(index)
        calls: list[Call] = [
            ([self._names.stream(channel)], [self._remembered.place(channel), *(messages[index].id for index in indices)])
            for channel, indices in retried.items()
        ]
        for (channel, indices), reply in zip(retried.items(), await run(self.commands, LOOK, calls), strict=True):
            failure: FanwireError | None = None
            ids: list[bytes] = []
            if isinstance(reply, ServerError):
                failure = self._refused(reply)
                if is_stale(reply) or is_transient(reply):
                    raise failure
            else:
                *ids, whole = reply
                if not whole and not any(ids):
                    failure = ConnectionLost(
                        f"redis: the history of channel {channel!r} does not reach back to the first attempt, whose outcome is unknown"
                    )
            if failure is not None:
                for index, message in enumerate(messages):
                    if message.channel == channel:
                        results[index] = failure if message.retry else _behind(channel)
                continue
            for index, receipt in zip(indices, _accepted([messages[index] for index in indices], ids), strict=True):
                results[index] = receipt
        return any(result is not None for result in results)

    def _judge(self, errors: Sequence[FanwireError], accepted: bool) -> None:
        """Raise if the refusals are to be met by trying the whole batch again."""
        causes = [error.__cause__ for error in errors]
        for error, cause in zip(errors, causes, strict=True):
            if isinstance(cause, ServerError) and is_stale(cause):
                raise error
        if all(isinstance(cause, ServerError) and is_transient(cause) for cause in causes):
            if accepted:
                raise ConnectionLost(f"{errors[0]} (others of the same batch were accepted)") from errors[0]
            raise errors[0]

    async def _send(self, parts: Sequence[Sequence[Outbound]]) -> list[Results]:
        """Publish parts of different channels, each small enough for one call; return what became of each, a prefix of receipts and then errors."""
        if not self._keeps:
            return await self._send_plain(parts)
        replies = await run(self.commands, PUBLISH, [self._arguments(part) for part in parts])
        return [self._receipts(part, reply) for part, reply in zip(parts, replies, strict=True)]

    def _arguments(self, messages: Sequence[Outbound]) -> Call:
        channel = messages[0].channel
        keys = [self._names.stream(channel)]
        arguments: list[bytes | str | int] = [
            self._publish, self._names.channel(channel), self._options.history, self._ttl, self._remembered.epochs.get(channel, ""), fresh_epoch(), self._ttl,
        ]  # fmt: skip
        if all(message.key is None for message in messages):
            arguments.append("plain")
            arguments += [mark_of(message.id, None).encode() + b" " + message.frame for message in messages]
            return keys, arguments
        arguments.append("full")
        for message in messages:
            if message.key is not None:
                keys.append(self._names.idempotency(channel, message.key))
            payload = mark_of(message.id, message.key).encode() + b" " + message.frame
            arguments += [payload, message.id, "k" if message.key is not None else ""]
        return keys, arguments

    def _receipts(self, messages: Sequence[Outbound], reply: Reply) -> Results:
        """Return one result per message from what the script said."""
        channel = messages[0].channel
        if isinstance(reply, ServerError):
            return [self._refused(reply), *[_behind(channel)] * (len(messages) - 1)]
        results: Results = []
        for message, said in zip(messages, reply, strict=False):
            if said[:1] == b"!":
                results.append(self._refused(ServerError(said[1:].decode(errors="replace"))))
                continue
            duplicate = said[:1] == b"="
            epoch, _, digits = (said[1:] if duplicate else said).decode().partition("-")
            # Half the cost of calling the classes.
            cursor = tuple.__new__(Cursor, (epoch, int(digits), mark_of(message.id, message.key)))  # pyright: ignore[reportUnknownMemberType]
            fields = (message.id, channel, message.topic, cursor, duplicate)
            results.append(tuple.__new__(Receipt, fields))  # pyright: ignore[reportUnknownMemberType]
        if results and isinstance(results[0], Receipt) and results[0].cursor is not None:
            self._remembered.epoch(channel, results[0].cursor.epoch)
        return results + [_behind(channel)] * (len(messages) - len(results))

    # ------------------------------------------------------------------ publishing without history

    async def _send_plain(self, parts: Sequence[Sequence[Outbound]]) -> list[Results]:
        """Publish as a transaction what is more than a message: a server that refuses one of several commands may accept the next.

        One that is refused has published nothing. Parts that were not the reason go into another.
        """
        outcomes: list[Results | None] = [None] * len(parts)
        while missing := [index for index, outcome in enumerate(outcomes) if outcome is None]:
            if len(parts) == 1 == len(parts[0]) or not self._remembered.transactions:
                for index in missing:
                    outcomes[index] = await self._one_by_one(parts[index])
                break
            sizes = [1 if self._sharded else len(parts[index]) for index in missing]
            groups = [[missing[place] for place in group] for group in _groups(sizes, 1 if self._sharded else CALL_PLAIN)]
            for group, future in [(group, self._transact([parts[index] for index in group])) for group in groups]:
                for index, outcome in zip(group, self._transacted([parts[index] for index in group], await future), strict=True):
                    outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _transact(self, parts: Sequence[Sequence[Outbound]]) -> asyncio.Future[list[Reply]]:
        packed: list[bytes] = []
        for part in parts:
            packed += pack_publishes(self._publish, self._names.channel(part[0].channel), [message.frame for message in part])
        return self.commands.transact(packed, sum(map(len, parts)))

    def _transacted(self, parts: Sequence[Sequence[Outbound]], replies: Sequence[Reply]) -> list[Results | None]:
        """Return what became of each part; ``None`` for one that was not sent, and was not the reason.

        Raises:
            ConnectionLost: this user may have no transactions, and of what was to be one a part was accepted.
        """
        *queued, executed = replies
        if not isinstance(executed, ServerError):
            return self._executed(parts, executed)
        opened, *answers = queued or [b"OK"]
        if isinstance(opened, ServerError):
            # Each was carried out on its own.
            self._remembered.transactions = False
            for own in _cut(answers, parts):
                refused = [isinstance(answer, ServerError) for answer in own]
                if refused != sorted(refused):
                    raise ConnectionLost(
                        f"redis: of what was to be a transaction, a part was accepted behind one that was refused: {opened}"
                    ) from opened
            return self._executed(parts, answers)
        if executed.code != "EXECABORT" and not is_stale(executed) and not is_transient(executed):
            # Nothing was carried out, but what comes next would still be queued.
            self._remembered.transactions = False
            self.commands.abort(server_error(executed))
            raise ConnectionLost(f"redis: a transaction cannot be ended: {executed}") from executed
        causes = [next((answer for answer in own if isinstance(answer, ServerError)), None) for own in _cut(answers, parts)]
        if not any(causes):
            # Refused as a whole, and the reason stands behind its own code.
            if "because of: NOPERM" in str(executed):
                self._remembered.transactions = False
                return [None] * len(parts)
            causes = [ServerError(str(executed).partition("because of: ")[2] or str(executed))] * len(parts)
        return [None if cause is None else self._plain_receipts(part, 0, cause) for part, cause in zip(parts, causes, strict=True)]

    def _executed(self, parts: Sequence[Sequence[Outbound]], replies: Sequence[Reply]) -> list[Results | None]:
        """Return what became of each part, given a reply for each message."""
        outcomes: list[Results | None] = []
        for part, answers in zip(parts, _cut(replies, parts), strict=True):
            done = next((index for index, answer in enumerate(answers) if isinstance(answer, ServerError)), len(part))
            outcomes.append(self._plain_receipts(part, done, answers[done] if done < len(part) else None))
        return outcomes

    def _plain_receipts(self, messages: Sequence[Outbound], done: int, failure: ServerError | None) -> Results:
        channel = messages[0].channel
        fields = [(message.id, channel, message.topic, None, False) for message in messages[:done]]
        results: Results = [tuple.__new__(Receipt, each) for each in fields]  # pyright: ignore[reportUnknownMemberType]  # half the cost of calling the class
        if failure is not None:
            results.append(self._refused(failure))
        return results + [_behind(channel)] * (len(messages) - len(results))

    async def _one_by_one(self, messages: Sequence[Outbound]) -> Results:
        """Publish a single message, or for a user who may not have transactions."""
        done: int = 0
        failure: ServerError | None = None
        for message in messages:
            (reply,) = await self.commands.send([(self._publish, self._names.channel(message.channel), message.frame)], 1)
            if isinstance(reply, ServerError):
                failure = reply
                break
            done += 1
        return self._plain_receipts(messages, done, failure)

    # ------------------------------------------------------------------ subscribing

    async def subscribe(self, channels: Collection[str], generation: int) -> Mapping[str, Cursor | None | FanwireError]:
        """Subscribe, wait for the confirmations, then look where each channel stands. Core makes one such call at a time.

        Raises:
            ConnectionLost: the connection broke first, or the server is the wrong one by now.
        """
        names = {self._names.channel(channel): channel for channel in channels}
        refused = await self.subscriber.ask(names, generation)
        answers: dict[str, Cursor | None | FanwireError] = {names[name]: server_error(error) for name, error in refused.items()}
        granted = {name: channel for name, channel in names.items() if name not in refused}
        if not self._keeps:
            return answers | dict.fromkeys(granted.values())
        try:
            heads = await run(self.commands, HEAD, [([self._names.stream(channel)], [fresh_epoch(), self._ttl]) for channel in granted.values()])
        except BaseException:
            self.subscriber.leave(granted)
            raise
        for (name, channel), reply in zip(granted.items(), heads, strict=True):
            if isinstance(reply, ServerError):
                answers[channel] = self._refused(reply)
                self.subscriber.leave([name])
            else:
                head = answers[channel] = head_cursor(*reply) if reply[0] else None
                self.subscriber.open(name, generation, head)
        return answers

    def unsubscribe(self, channels: Collection[str]) -> None:
        """Stop delivery. The answer is not waited for: late frames find no channel."""
        self.subscriber.leave([self._names.channel(channel) for channel in channels])

    # ------------------------------------------------------------------ history

    async def page(self, channel: str, start: Cursor | Last | Earliest, limit: int) -> HistoryPage:
        """Read a page of a channel's stream.

        Raises:
            FanwireError: the server refused.
        """
        where: str | int = start.n if isinstance(start, Last) else stream_id(start) if isinstance(start, Cursor) else "-"
        arguments: list[bytes | str | int] = ["last" if isinstance(start, Last) else "from", where, limit, _PAGE_BYTES]
        (reply,) = await run(self.commands, PAGE, [([self._names.stream(channel)], arguments)])
        if isinstance(reply, ServerError):
            raise self._refused(reply)
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
        answer = self.commands.send([("PING",)], 1)
        await self.subscriber.say(("PING",))
        await answer

    async def refresh(self) -> None:
        """Keep the histories of what is subscribed from expiring: an idle channel that was given up could not be told from one that lost messages."""
        names = [self._names.stream(channel) for channel in self.subscriber.channels]
        for begin in range(0, len(names), _REFRESHED):
            part = names[begin : begin + _REFRESHED]
            await self.commands.send([("PEXPIRE", name, self._ttl) for name in part], len(part))


def _cut(replies: Sequence[Reply], parts: Sequence[Sequence[Outbound]]) -> list[Sequence[Reply]]:
    """Cut replies into those of each part."""
    ends = list(accumulate(map(len, parts), initial=0))
    return [replies[begin:end] for begin, end in pairwise(ends)]


def _groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Put indices into groups whose sizes make at most ``most`` together, in order."""
    groups: list[list[int]] = []
    left = 0
    for index, size in enumerate(sizes):
        if not groups or size > left:
            groups.append([])
            left = most
        groups[-1].append(index)
        left -= size
    return groups


def _accepted(messages: Sequence[Outbound], ids: Sequence[bytes]) -> list[Receipt | None]:
    """Return receipts of what an earlier attempt with these messages brought about, given the ids of those that history still has."""
    found: list[Receipt | None] = []
    epoch, seq = "", 0
    for message, id in zip(reversed(messages), reversed(ids), strict=True):
        if id:
            epoch, _, digits = id.decode().partition("-")
            seq = int(digits)
        elif epoch and message.key is None:
            seq -= 1
        else:
            found.append(None)
            continue
        found.append(Receipt(message.id, message.channel, message.topic, Cursor(epoch, seq, mark_of(message.id, message.key)), duplicate=False))
    return found[::-1]


def _entry(id: bytes, payload: bytes) -> HistoryEntry:
    epoch, _, seq = id.decode().partition("-")
    mark, frame = split_frame(payload)
    offset = int(seq)
    return HistoryEntry(frame, Cursor(epoch, offset, mark), Cursor(epoch, offset - 1))


def _behind(channel: str) -> FanwireError:
    return Unavailable(f"redis: not sent, behind a message of channel {channel!r} that was refused")
