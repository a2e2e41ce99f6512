"""Runs a plan on a harness, and keeps the account that the oracle judges."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, final

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ...errors import Closed, FanwireError, PartialPublish, Timeout, Unavailable
from ...messages import Receipt
from ...realtime import Realtime
from ...topics import TopicRef
from ..harness import Harness
from ..tools import Room
from . import steps as do
from .account import Account, Sent
from .network import HurriedClock, Network, network
from .oracle import faults
from .readers import Readers

__all__ = ("ModelFailure", "check_plan", "play")

_ROUND: Final = 0.02
"""Seconds before the messages by which a reader knows that it has read everything are sent again: the first may have been lost, as the plan wanted."""


class ModelFailure(AssertionError):
    """A run that did not show what it had to; the text has the plan, who saw what, and what is wrong."""


async def check_plan(plan: do.Plan, harness: Harness, origin: str = "") -> None:
    """Run a plan and judge it.

    Args:
        plan: What is going to happen.
        harness: Entered, and not used for anything else meanwhile.
        origin: Where the plan comes from, such as ``"seed 17"``, for the text of the failure.

    Raises:
        ModelFailure: the run did not show what it had to.
    """
    found = faults(await play(plan, harness))
    if found:
        raise ModelFailure("\n".join([f"{origin or 'a plan'} shows:", *found, "the plan:", str(plan)]))


async def play(plan: do.Plan, harness: Harness) -> Account:
    """Run a plan; return what happened."""
    run = _Run(plan, harness)
    await run.all()
    return run.account


@final
@dataclass(slots=True, eq=False)
class _Place:
    """A Realtime object, and what lies between it and the broker."""

    id: int
    realtime: Realtime
    network: Network
    published: set[str] = field(default_factory=set[str])
    pending: int = 0
    """Publishing tasks under way."""


@final
class _Run:
    tasks: TaskGroup
    readers: Readers

    def __init__(self, plan: do.Plan, harness: Harness) -> None:
        self.plan = plan
        self.harness = harness
        self.capabilities = harness.transport().capabilities
        # What is delivered at most once, and shows no links, may lose frames by itself.
        poor = self.capabilities.delivery == "at_most_once" and self.capabilities.links == "none"
        self.account = Account(self.capabilities, lossy=poor)
        self.places: dict[int, _Place] = {}
        self.opened = 0
        self.stalled = False
        self.eras: dict[str, int] = {}
        self._ticks = 0

    def tick(self) -> int:
        """Return the time, and let it go on."""
        self._ticks += 1
        return self._ticks

    # ------------------------------------------------------------------ the whole

    async def all(self) -> None:
        """Go through the plan, let everybody read to the end, and close everything."""
        async with anyio.create_task_group() as self.tasks:
            self.readers = Readers(self.account, self.tick, self.tasks)
            try:
                await self.through()
            finally:
                self.tasks.cancel_scope.cancel()

    async def through(self) -> None:
        """Take all steps, and what comes behind them."""
        for step in self.plan.steps:
            await self.step(step)
            if self.account.troubles:
                break
        if not self.account.troubles:
            self.readers.allow_all()
            await self.drain(final=True)
        await self.readers.leave_all(self.harness.patience)
        for place in list(self.places.values()):
            await self.close(place, flush=True)

    async def step(self, step: do.Step) -> None:
        """Take one step."""
        match step:
            case do.Turns(count):
                for _ in range(count):
                    await checkpoint()
            case do.Publish():
                await self.publish(step)
            case do.Join():
                await self.join(step)
            case do.Read(reader, count):
                self.readers.allow(reader, count)
            case do.Interrupt(reader):
                self.readers.interrupt(reader)
            case do.Leave(reader, cancel):
                await self.readers.leave(reader, cancel, self.harness.patience)
            case do.Drain():
                await self.drain(final=False)
            case _:
                await self.mishap(step)

    async def mishap(self, step: do.Step) -> None:
        """Let something go wrong."""
        match step:
            case do.Close(realtime, flush):
                if realtime in self.places:
                    await self.close(self.places.pop(realtime), flush=flush)
            case do.Hold(realtime, release):
                if (place := self.places.get(realtime)) is not None:
                    place.network.hold()
                    if release:
                        place.network.release()
            case do.Release(realtime):
                if (place := self.places.get(realtime)) is not None:
                    place.network.release()
            case do.Lose(realtime, count, skip):
                await self.lose(realtime, count, skip)
            case do.Cut():
                await self.harness.cut()
            case do.Stall():
                self.stalled = True
                await self.harness.stall()
            case do.Resume():
                await self.resume()
            case _:
                await self.loss(step)

    async def loss(self, step: do.Step) -> None:
        """Let the server lose data. Nothing is being published then, so that it is known what there was to lose."""
        await self.settle()
        match step:
            case do.Restart(keep):
                await self.harness.restart(keep=keep)
                if not keep:
                    for number in range(do.CHANNELS):
                        self.gone(_name(number), keep=0, era=True)
            case do.Trim(channel, keep):
                await self.harness.trim(_name(channel), keep)
                self.gone(_name(channel), keep=keep, era=False)
            case do.Recreate(channel):
                await self.harness.recreate(_name(channel))
                self.gone(_name(channel), keep=0, era=True)
            case do.Failover():
                await self.failover(step)
            case _:
                raise NotImplementedError(step)

    # ------------------------------------------------------------------ Realtime objects

    async def place(self, number: int) -> _Place:
        """Return a Realtime that is open."""
        place = self.places.get(number)
        if place is None:
            await self.resume()
            self.opened += 1
            way = network(self.harness.transport(), latency=self.plan.latency, lag=self.plan.lag, immediate=self.plan.immediate)
            ended = self.account.breaks.setdefault(self.opened, [])
            way.on_end = lambda: ended.append(self.tick())
            realtime = Realtime(
                way, timeout=self.harness.patience, connect_timeout=self.harness.patience, linger=self.plan.linger, clock=HurriedClock()
            )
            await realtime.__aenter__()
            place = self.places[number] = _Place(self.opened, realtime, way)
        return place

    async def close(self, place: _Place, *, flush: bool) -> None:
        """Close a Realtime; its readers come to their end."""
        if flush:
            await self.resume()
            place.network.release()
            await self.until(lambda: not place.pending, "a Realtime's publishes came to an end")
        self.readers.closing(place.id)
        with anyio.move_on_after(2 * self.harness.patience) as scope:
            await place.realtime.aclose(self.harness.patience if flush else 0.0)
        self.trouble(scope.cancelled_caught, f"realtime {place.id} did not close")
        self.account.lossy |= place.network.lost > 0

    # ------------------------------------------------------------------ waiting

    async def until(self, fact: Callable[[], bool], what: str) -> bool:
        """Let time pass until ``fact`` holds; report if it never does."""
        deadline = time.monotonic() + self.harness.patience
        turns = 0
        while not fact():
            if time.monotonic() > deadline:
                self.trouble(True, f"waited {self.harness.patience:g} s in vain until {what}")
                return False
            turns += 1
            await (checkpoint() if turns < 200 else anyio.sleep(0.001))
        return True

    def trouble(self, fact: bool, what: str) -> None:
        """Report ``what`` if ``fact`` holds."""
        if fact:
            self.account.troubles.append(what)

    async def resume(self) -> None:
        """End a stall."""
        if self.stalled:
            self.stalled = False
            await self.harness.resume()

    async def calm(self) -> None:
        """End whatever keeps anybody from going on."""
        await self.resume()
        for place in self.places.values():
            place.network.release()

    async def settle(self) -> None:
        """Wait until nothing is being published."""
        await self.resume()
        for place in self.places.values():
            if place.pending or place.realtime.stats().publishing:
                place.network.release()
        await self.until(
            lambda: not any(place.pending or place.realtime.stats().publishing for place in self.places.values()), "all publishes came to an end"
        )

    async def drain(self, *, final: bool) -> None:
        """Publish messages until every reader has seen the last of them. Lost frames show only when another one comes, so it may take several."""
        await self.calm()
        await self.settle()
        come = await self.marks(time.monotonic() + self.harness.patience)
        for visit in self.readers.waiting():
            visit.drained, visit.stuck = final, not come
        self.trouble(not come, f"readers that did not come to the end within {self.harness.patience:g} s: {', '.join(self.readers.behind())}")

    async def marks(self, deadline: float) -> bool:
        """Publish a message on each topic that anybody reads, by every Realtime that has published there; return whether all have come to it.

        One after the other: a reader whose buffer is small would else see the last of them at best.
        """
        for channel in sorted({name for visit in self.readers.waiting() for name in visit.interests}):
            places = [place for place in self.places.values() if channel in place.published] or list(self.places.values())
            for place in places if self.capabilities.ordering == "publisher" else places[:1]:
                for ref in _refs(channel, "ab"):
                    if not await self.mark(place, ref, deadline):
                        return False
        return True

    async def mark(self, place: _Place, ref: TopicRef[int], deadline: float) -> bool:
        """Publish a message, and others in its place until everybody has seen one of them; return whether that happened."""
        marks: set[int] = set()
        sent: Sent | None = None
        while sent is None or not self.readers.have_seen(sent, marks):
            if time.monotonic() > deadline:
                return False
            sent = await self.send(place, ref)
            marks.add(sent.number)
            with anyio.move_on_after(_ROUND if len(marks) < 20 else 10 * _ROUND):
                while not self.readers.have_seen(sent, marks):
                    await self.readers.news()
        return True

    # ------------------------------------------------------------------ publishing

    async def publish(self, step: do.Publish) -> None:
        """Publish, in the background unless the plan wants to wait."""
        place = await self.place(step.realtime)
        refs = _refs(_name(step.channel), step.topics)
        chosen = [refs[index % len(refs)] for index in range(step.count)]
        place.pending += 1
        done = anyio.Event()
        self.tasks.start_soon(self._publish, place, step, chosen, done)
        if step.wait and not place.network.held and not self.stalled:
            with anyio.move_on_after(self.harness.patience):
                await done.wait()

    async def _publish(self, place: _Place, step: do.Publish, refs: list[TopicRef[int]], done: anyio.Event) -> None:
        try:
            if step.how == "many":
                await self.send_many(place, refs)
            elif step.how == "one by one":
                for ref in refs:
                    await self.send(place, ref, keyed=step.keyed)
            else:
                async with anyio.create_task_group() as calls:
                    for ref in refs:
                        calls.start_soon(partial(self.send, place, ref, keyed=step.keyed))
                    if step.how == "cancelled":
                        await checkpoint()
                        await checkpoint()
                        calls.cancel_scope.cancel()
        finally:
            place.pending -= 1
            done.set()

    def begin(self, place: _Place, ref: TopicRef[int], repeats: int | None = None) -> Sent:
        """Note that a message is about to be published."""
        number = len(self.account.sent) + 1
        place.published.add(ref.channel)
        sent = self.account.sent[number] = Sent(number, place.id, ref.channel, ref.topic, self.tick(), repeats)
        return sent

    def end(self, sent: Sent, result: object) -> None:
        """Note what became of it."""
        sent.ended = self.tick()
        sent.era = self.eras.get(sent.channel, 0)
        if isinstance(result, Receipt):
            sent.outcome = "suppressed" if result.duplicate else "accepted"
            sent.id, sent.cursor = result.id, result.cursor
        else:
            sent.outcome = "unknown"
            self.trouble(
                isinstance(result, Exception) and not isinstance(result, Unavailable | Timeout | Closed | PartialPublish),
                f"publishing {sent} raised {result!r}",
            )

    async def send(self, place: _Place, ref: TopicRef[int], *, keyed: bool = False) -> Sent:
        """Publish one message, and with ``keyed`` another one under the same key."""
        first: Sent | None = None
        for key in ([f"k{self.tick()}"] * 2) if keyed else [None]:
            sent = self.begin(place, ref, None if first is None else first.number)
            first = first or sent
            result: object = None
            try:
                result = await place.realtime.publish(ref, sent.number, key=key)
            except FanwireError as error:
                result = error
            finally:
                self.end(sent, result)
        assert first is not None
        return first

    async def send_many(self, place: _Place, refs: list[TopicRef[int]]) -> None:
        """Publish several messages by one call."""
        sent = [self.begin(place, ref) for ref in refs]
        results: list[object] = [None] * len(sent)
        try:
            results = [*await place.realtime.publish_many([ref(one.number) for ref, one in zip(refs, sent, strict=True)])]
        except PartialPublish as error:
            results = [*error.results]
        except FanwireError as error:
            results = [error] * len(sent)
        finally:
            for one, result in zip(sent, results, strict=True):
                self.end(one, result)

    # ------------------------------------------------------------------ subscribing

    async def join(self, step: do.Join) -> None:
        """Begin a subscription, in the background."""
        if self.readers.busy(step.reader):
            return
        place = await self.place(step.realtime)
        if step.start == "since":
            await self.settle()  # so that what is published from now on has a later time
        self.readers.join(step, place.id, place.realtime, {_name(interest.channel): interest.topics for interest in step.interests})

    # ------------------------------------------------------------------ what the server loses

    async def lose(self, realtime: int | None, count: int, skip: int) -> None:
        """Lose live frames."""
        if realtime is None:
            self.account.lossy = True
            await self.harness.lose(count, skip)
        elif (place := self.places.get(realtime)) is not None:
            place.network.lose(count, skip)

    def gone(self, channel: str, *, keep: int, era: bool) -> None:
        """Note that history has no more than the newest ``keep`` messages of a channel, or that it begins anew."""
        self.account.touched.add(channel)
        now = self.tick()
        if era:
            self.eras[channel] = self.eras.get(channel, 0) + 1
        present = self.present(channel)
        # Of those whose outcome is unknown each may be there, and take the place of one that is.
        for sent in present:
            if sum(other is not sent and not _older(other, sent) for other in present) >= keep:
                sent.gone = min(sent.gone, now)

    def present(self, channel: str) -> list[Sent]:
        """Return the messages of a channel that its history has or may have, or had."""
        return [sent for sent in self.account.sent.values() if sent.channel == channel and sent.outcome != "suppressed" and not sent.revoked]

    async def failover(self, step: do.Failover) -> None:
        """Break all connections, lose the end of a channel, and grow another one before anybody else is back."""
        channel = _name(step.channel)
        survivor = await self.place(step.realtime)
        await self.settle()
        for place in self.places.values():
            place.network.hold()
        await self.harness.rewind(channel, step.back)
        now = self.tick()
        self.account.touched.add(channel)
        self.eras[channel] = self.eras.get(channel, 0) + 1
        present = self.present(channel)
        for sent in present:
            if sum(other.outcome == "accepted" and _older(sent, other) for other in present) < step.back:
                sent.gone, sent.revoked = min(sent.gone, now), True
        survivor.network.release()
        for index in range(step.regrow):
            await self.send(survivor, _refs(channel, "ab")[index % 2])
        for place in self.places.values():
            place.network.release()
        await self.until(lambda: all(place.network.up for place in self.places.values()), "every Realtime was connected again")


def _older(one: Sent, other: Sent) -> bool:
    """Tell whether a message certainly stands before another one in history."""
    if one.outcome == other.outcome == "accepted" and one.era == other.era and one.cursor is not None and other.cursor is not None:
        return one.cursor.offset < other.cursor.offset
    return one.outcome == "accepted" and one.ended < other.begun


def _name(channel: int) -> str:
    return Room(number=channel).name


def _refs(channel: str, topics: str) -> list[TopicRef[int]]:
    room = Room.parse(channel)
    return [{"a": room.a, "b": room.b}[topic] for topic in topics]
