"""Publishing: one FIFO lane per channel with at most one batch in flight, so that messages arrive in the order of the calls, across topics and retries.

Publishes that are concurrent coalesce into one batch. The sending happens in the Realtime's own tasks: cancelling one caller cannot leave the others hanging.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, copy_context
from typing import Any, final

import anyio
from anyio.abc import TaskGroup

from ..capabilities import check_length
from ..clock import Clock
from ..codec import Codec
from ..errors import Closed, ConnectionLost, FanwireError, Internal, Timeout, Unavailable
from ..messages import Receipt
from ..topics import TopicRef
from ..transport import Outbound, SupportsImmediatePublish, Transport
from .calls import Call, Entry, Lane, Prepared, State
from .deadlines import Deadlines
from .publishers import Counter, Publishers, TimeStamps
from .records import traced
from .told import fresh
from .waiter import Waiter, WaiterFactory, cancellation_check, checkpoint

__all__ = ("Lanes",)

_logger = logging.getLogger("fanwire.publish")

_BATCH = 256
"""Messages at most: few enough that callers make the next ones ready while the broker works on these."""

_BATCH_BYTES = 4 * 2**20
_IN_FLIGHT = 4096
"""Messages in all batches that are under way."""

_PAUSE = 0.05
"""Seconds before a batch that the transport could not take is offered again."""

_QUEUED, _SENT, _DONE, _ABANDONED, _WITHDRAWN = State  # looked up for every message

_PublishNow = Callable[[str, str, str, str | None, bytes], Receipt | None]


@final
class Lanes:
    """All lanes of one Realtime."""

    def __init__(self, transport: Transport, codec: Codec, clock: Clock, new_waiter: WaiterFactory) -> None:
        self.published: int = 0
        self.stamp: TimeStamps = TimeStamps(clock.time)
        self._transport = transport
        self._encode = codec.encode
        self._clock = clock
        self._new_waiter = new_waiter
        self._check_cancelled = cancellation_check()
        self._publishers = Publishers()
        self._counters = self._publishers.table
        self._lanes: dict[str, Lane] = {}
        self._ready: dict[str, Lane] = {}
        """Lanes with something to send and nothing in flight, in the order they became so."""
        self._in_flight = 0
        self._connected = False
        self._failure: FanwireError | None = None
        self._tasks: TaskGroup | None = None
        """Where senders live, while :meth:`run` does."""
        self._context = Context()
        """Of :meth:`run`, and so of all senders: they serve whoever comes, not the caller who wakes them."""
        self._parked: Waiter | None = None
        """The sender that stays, while it has nothing to do."""
        self._woken = False
        """Whether a sender is about to look for what is ready."""
        self.deadlines: Deadlines = Deadlines()
        self._idle: anyio.Event | None = None
        self._immediate = transport.publish_now if isinstance(transport, SupportsImmediatePublish) else None
        self._publish_now: _PublishNow | None = None
        """``_immediate`` while there is a connection."""
        capabilities = transport.capabilities
        self._retry_unknown = capabilities.idempotent_publish or capabilities.links == "none"
        """Whether a repeat would be suppressed: by the broker, or by the receiving hubs, which follow ids where positions carry no links."""

    @property
    def waiting(self) -> int:
        """Messages queued or in flight."""
        return sum(len(lane.entries) for lane in self._lanes.values()) + self._in_flight

    def connected(self, up: bool) -> None:
        """Learn whether there is a connection."""
        self._connected = up
        self._publish_now = self._immediate if up else None
        self._wake()

    # ------------------------------------------------------------------ callers

    def now(self, ref: TopicRef[Any], data: bytes, key: str | None, headers: Mapping[str, str] | None) -> Receipt | None:  # Any: encoded already
        """Publish a checked message without suspending, if the transport can and nothing of the channel is under way.

        Raises:
            FanwireError: the transport refused it.
        """
        publish_now = self._publish_now
        channel = ref.channel
        if publish_now is None or channel in self._lanes:
            return None
        counter = self._counters.get(channel) or self._first(channel)
        counter.n = n = counter.n + 1
        id = counter.prefix + str(n)
        try:
            receipt = publish_now(channel, ref.topic, id, key, self._encode(ref, data, id, self.stamp(), key, headers, None))
        except BaseException as error:
            self._publishers.renew(channel)  # whatever it was, the number may have been seen
            if isinstance(error, Exception) and not isinstance(error, FanwireError):
                raise _defect(self._transport, error) from error
            raise
        if receipt is None:
            counter.n -= 1  # nothing was handed over under it
            return None
        if receipt.duplicate:
            self._publishers.renew(channel)  # nobody will see this number
        self.published += 1
        return receipt

    def _first(self, channel: str) -> Counter:
        self.admit(channel)
        return self._publishers.counter(channel)

    def admit(self, channel: str) -> None:
        """Refuse a channel whose name is longer than the transport carries; one that was published to has passed.

        Raises:
            InvalidName: it is.
        """
        if channel not in self._counters:
            check_length(channel, self._transport.capabilities, self._transport.name)

    async def send_many(self, messages: Sequence[Prepared], timeout: float) -> Sequence[Receipt | FanwireError]:
        """Publish the messages of one call and return one result each: at once as far as that goes, and queued from there on.

        Behind a message that was refused, nothing of its channel is sent.
        """
        results = self._now_many(messages)
        rest = messages[len(results) :]
        if not rest:
            await checkpoint()
            return results
        if not results:
            return await self.send(messages, timeout)
        refused = {message.ref.channel for message, result in zip(messages, results, strict=False) if isinstance(result, FanwireError)}
        queued = iter(await self.send([message for message in rest if message.ref.channel not in refused], timeout))
        return results + [_not_sent(message.ref.channel) if message.ref.channel in refused else next(queued) for message in rest]

    def _now_many(self, messages: Sequence[Prepared]) -> list[Receipt | FanwireError]:
        """Return the results of as many messages as could be published without suspending."""
        results: list[Receipt | FanwireError] = []
        publish_now = self._publish_now
        if publish_now is None:
            return results
        refused: set[str] = set()
        encode = self._encode
        # As now() does it for one; here what is the same for all is looked up once.
        for ref, data, stamp, key, headers, run_id in messages:
            channel = ref.channel
            if channel in refused:
                results.append(_not_sent(channel))
                continue
            if channel in self._lanes:
                break
            counter = self._counters.get(channel) or self._publishers.counter(channel)
            counter.n = n = counter.n + 1
            id = counter.prefix + str(n)
            try:
                receipt = publish_now(channel, ref.topic, id, key, encode(ref, data, id, stamp, key, headers, run_id))
            except Exception as error:  # noqa: BLE001 - told as one message's result
                self._publishers.renew(channel)
                refused.add(channel)
                results.append(error if isinstance(error, FanwireError) else _defect(self._transport, error))
                continue
            if receipt is None:
                counter.n -= 1
                break
            if receipt.duplicate:
                self._publishers.renew(channel)
            self.published += 1
            results.append(receipt)
        return results

    async def send(self, messages: Sequence[Prepared], timeout: float) -> Sequence[Receipt | FanwireError]:
        """Queue ``messages``, wait until each is accepted or refused, and return one result each; ``Timeout`` for what took more than ``timeout`` seconds."""
        if self._failure is not None:
            raise fresh(self._failure)
        call = Call(messages)
        for entry in call.entries:
            if entry.channel not in self._counters:
                self.admit(entry.channel)
        await self._check_cancelled()  # whoever is cancelled already publishes nothing
        lane: Lane | None = None
        for entry in call.entries:
            if lane is None or entry.channel != lane.channel:
                lane = self._lane(entry.channel)
            lane.entries.append(entry)
        if lane is None:
            return []
        call.waiter = waiter = self._new_waiter()
        if not self._woken:
            self._wake()
        try:
            if self.deadlines.add(call, timeout):
                await waiter
            else:
                with anyio.move_on_after(timeout):
                    await waiter
        finally:
            self.deadlines.drop(call)
            if call.open:
                self._withdraw(call, timeout)
        return [entry.result for entry in call.entries if entry.result is not None]

    def _lane(self, channel: str) -> Lane:
        """Return the lane of ``channel``, which is about to get an entry."""
        lane = self._lanes.get(channel)
        if lane is None:
            lane = self._lanes[channel] = Lane(channel)
        if not lane.busy:
            self._ready[channel] = lane
        return lane

    def _withdraw(self, call: Call, timeout: float) -> None:
        """Give up on a call: take back what was not handed over yet."""
        slow = f"publishing took longer than {timeout:g} s{'' if self._connected else ' without a connection to the broker'}"
        for entry in call.entries:
            if entry.state is _DONE:
                continue
            queued = entry.state is _QUEUED and (entry.outbound is None or not entry.outbound.retry)
            unsent = queued or entry.state is _WITHDRAWN
            if queued:
                if entry.outbound is not None:
                    self._skip_number(entry.channel)
                lane = self._lanes[entry.channel]
                lane.entries.remove(entry)
                self._settle(entry.channel, lane)
            outcome = "it was not sent" if unsent else "it was handed over, the outcome is unknown"
            entry.call.finish(entry, Timeout(f"{slow}: {outcome}"))
            entry.state = _ABANDONED

    async def flush(self) -> None:
        """Wait until every lane is empty."""
        while self._lanes:
            self._idle = anyio.Event()
            await self._idle.wait()

    def fail(self, error: FanwireError) -> None:
        """Fail what waits, and whatever comes, with ``error``."""
        self._failure = error
        self._connected = False
        self._publish_now = None
        for lane in list(self._lanes.values()):
            while lane.entries:
                entry = lane.entries.popleft()
                entry.call.finish(entry, _told(entry, error))
        self._ready.clear()
        if not self._in_flight:
            self._lanes.clear()
            if self._idle is not None:
                self._idle.set()

    # ------------------------------------------------------------------ sending

    async def run(self, tasks: TaskGroup) -> None:
        """Send whatever is ready, until cancelled. What is published within one turn of the event loop goes out together.

        One sender stays, and takes batches by itself: to start a task for each would cost as much as all the rest of it, and another turn. What is ready while it waits for
        an answer takes further ones.
        """
        self._tasks, self._context = tasks, copy_context()
        try:
            while True:
                await self._send_ready()
                self._parked = waiter = self._new_waiter()
                await waiter
        finally:
            self._tasks = self._parked = None

    def _wake(self) -> None:
        """Have a sender look, at its next turn, for what is ready, if anything is."""
        if self._woken or not self._ready or not self._connected or self._tasks is None:
            return
        self._woken = True
        parked, self._parked = self._parked, None
        if parked is None:
            self._context.run(self._start_sender, self._tasks)
        elif not parked.done():  # it is, where the task was cancelled
            parked.set_result(None)

    def _start_sender(self, tasks: TaskGroup) -> None:
        tasks.start_soon(self._send_ready, name="fanwire publish")

    async def _send_ready(self) -> None:
        """Send batches for as long as anything is ready."""
        self._woken = False
        while self._connected and self._in_flight < _IN_FLIGHT and (batch := self._next_batch()):
            self._in_flight += len(batch)
            if self._ready:
                self._wake()
            await self._send(batch)

    def _next_batch(self) -> list[Entry]:
        """Take a batch off the ready lanes; each of them is busy until its part is answered."""
        batch: list[Entry] = []
        size = 0
        while self._ready and len(batch) < _BATCH and size < _BATCH_BYTES:
            channel, lane = next(iter(self._ready.items()))
            del self._ready[channel]
            lane.busy = True
            before = len(batch)
            entries, counter = lane.entries, self._publishers.counter(channel)
            call, given_up = None, False
            while entries and len(batch) < _BATCH and size < _BATCH_BYTES:
                entry = entries.popleft()
                if call is None or entry.call is not call:
                    call = entry.call
                    # It was cancelled, or its time is over, and its caller learns that at its next turn.
                    given_up = call.waiter is not None and call.waiter.done()
                if call.refused and channel in call.refused:
                    call.finish(entry, _told(entry, _not_sent(channel)))
                    continue
                outbound = entry.outbound
                if given_up and entry.state is _QUEUED and (outbound is None or not outbound.retry):
                    entry.state = _WITHDRAWN
                    if outbound is not None:
                        counter = self._skip_number(channel)
                    continue
                if outbound is None or not (outbound.retry or outbound.id.startswith(counter.prefix)):
                    outbound = entry.outbound = self._outbound(entry.prepared, counter)
                if entry.state is not _ABANDONED:
                    # One that was abandoned in flight goes out again like the others: without it there would be a hole in the numbers.
                    entry.state = _SENT
                batch.append(entry)
                size += len(outbound.frame)
            if len(batch) == before:
                lane.busy = False
                self._settle(channel, lane)
        return batch

    def _skip_number(self, channel: str) -> Counter:
        """Go on under a fresh publisher, and its counter: a number will not be seen. What has one behind it takes another when it is handed over; a retry keeps its own."""
        self._publishers.renew(channel)
        return self._publishers.counter(channel)

    def _outbound(self, message: Prepared, counter: Counter) -> Outbound:
        """Encode a message under its channel's next id: it is handed over now."""
        ref, data, created_at, key, headers, run_id = message
        counter.n = n = counter.n + 1
        id = counter.prefix + str(n)
        frame = self._encode(ref, data, id, created_at, key, headers, run_id)
        fields = (ref.channel, ref.topic, id, key, headers, run_id, data, frame, False)
        return tuple.__new__(Outbound, fields)  # pyright: ignore[reportUnknownMemberType]  # half the cost of calling the class

    async def _send(self, batch: list[Entry]) -> None:
        results: Sequence[Receipt | FanwireError] | None = None
        failure: FanwireError | None = None
        try:
            results = await self._transport.publish([entry.outbound for entry in batch if entry.outbound is not None])
        except FanwireError as error:
            failure = error
        except Exception as error:
            _logger.error("%s: unexpected error in publish", self._transport.name, exc_info=traced(error))
            failure = _defect(self._transport, error)
        else:
            if len(results) != len(batch):
                failure = Internal(f"{self._transport.name}: publish returned {len(results)} results for {len(batch)} messages")
        finally:
            # Also when cancelled at close: nobody may be left waiting.
            self._in_flight -= len(batch)
            if results is not None and len(results) == len(batch):
                self._answered(batch, results)
            else:
                self._failed(batch, failure or Closed("closed while the message was in flight: its outcome is unknown"))
            self._release(batch)
        if isinstance(failure, Unavailable) and self._connected:
            await self._clock.sleep(_PAUSE)

    def _answered(self, batch: list[Entry], results: Sequence[Receipt | FanwireError]) -> None:
        """Act upon one result per entry. Behind a refusal a channel's entries were not sent, whatever their results say."""
        refused: set[str] = set()
        again: list[Entry] = []
        for entry, result in zip(batch, results, strict=True):
            channel = entry.channel
            if refused and channel in refused:
                if channel in entry.call.refused:
                    entry.call.finish(entry, _told(entry, _not_sent(channel)))
                elif entry.state is _SENT:
                    again.append(entry)
            elif isinstance(result, FanwireError):
                refused.add(channel)
                entry.call.refused.add(channel)
                self._publishers.renew(channel)
                entry.call.finish(entry, _told(entry, result))
            else:
                if result.duplicate:
                    self._publishers.renew(channel)
                self.published += 1
                entry.call.finish(entry, result)
        self._requeue(again)

    def _failed(self, batch: list[Entry], failure: FanwireError) -> None:
        """Act upon the failure of a whole batch: offer it again where that is safe, else tell the callers."""
        unknown = isinstance(failure, ConnectionLost)
        if self._failure is None and isinstance(failure, Unavailable) and (not unknown or self._retry_unknown):
            for entry in batch:
                if entry.outbound is not None and unknown:
                    entry.outbound = entry.outbound._replace(retry=True)
            self._requeue(batch)
            return
        if unknown:
            told: FanwireError = ConnectionLost(f"{failure} (the outcome of this publish is unknown)")
            told.__cause__ = failure
        else:
            told = failure
        for entry in batch:
            entry.call.refused.add(entry.channel)
            entry.call.finish(entry, told if unknown else _told(entry, told))
        for channel in {entry.channel for entry in batch}:
            self._publishers.renew(channel)

    def _requeue(self, entries: list[Entry]) -> None:
        """Put entries back to the front of their lanes."""
        for entry in reversed(entries):
            if entry.state is _SENT:
                entry.state = _QUEUED
            self._lanes[entry.channel].entries.appendleft(entry)

    def _release(self, batch: list[Entry]) -> None:
        for channel in {entry.channel: None for entry in batch}:
            lane = self._lanes[channel]
            lane.busy = False
            self._settle(channel, lane)
        if self._failure is not None:
            self.fail(self._failure)

    def _settle(self, channel: str, lane: Lane) -> None:
        """File a lane that is not in flight: ready if it holds something, forgotten if not."""
        if lane.busy:
            return
        if lane.entries:
            self._ready[channel] = lane
            return
        self._lanes.pop(channel, None)
        self._ready.pop(channel, None)
        if not self._lanes and self._idle is not None:
            self._idle.set()


def _defect(transport: Transport, error: Exception) -> Internal:
    """Make the error for an exception that a transport may not raise."""
    failure = Internal(f"{transport.name}: unexpected {type(error).__name__} in publish: {error}")
    failure.__cause__ = error
    return failure


def _told(entry: Entry, error: FanwireError) -> FanwireError:
    """Return what a refusal means to the caller: nothing certain, if an earlier attempt may have been accepted."""
    if entry.outbound is None or not entry.outbound.retry:
        return error
    unknown = ConnectionLost(f"an earlier attempt may have been accepted, its outcome is unknown; the retry was refused: {error}")
    unknown.__cause__ = error
    return unknown


def _not_sent(channel: str) -> Unavailable:
    return Unavailable(f"not sent: an earlier message of the same call on channel {channel!r} was refused")
