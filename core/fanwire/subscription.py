"""A subscription: an asynchronous context manager and iterator over one interest log, optionally led in from history."""

from __future__ import annotations

import copy
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from types import AsyncGeneratorType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, Self, TypeVar, cast, final

import anyio

from .errors import Closed, FanwireError, MessagesLost, Timeout, Unavailable
from .events import SubscriptionStats
from .hub.engine import Engine
from .hub.join import Join, Seam, history_starts
from .hub.log import CHUNK, Interest, InterestLog, Item
from .hub.told import fresh
from .hub.waiter import Waiter, checkpoint
from .messages import Gap, RawMessage, Start

if TYPE_CHECKING:
    from .realtime import Realtime

__all__ = ("OnGap", "Request", "Subscription")

_logger = logging.getLogger("fanwire.subscription")

Item_co = TypeVar("Item_co", covariant=True)

OnGap = Literal["log", "raise"]


@final
@dataclass(frozen=True, slots=True)
class Request:
    """What a subscription was asked for."""

    interest: Interest
    start: Start
    on_gap: OnGap | Literal["yield"]


class Subscription(Generic[Item_co]):
    """Messages of one or more channels, from the moment it is entered.

    Made by ``Realtime.subscribe``; nothing happens before ``async with``. Entering returns once the broker has confirmed: a publish made right after is seen. It is its own
    asynchronous iterator; a timeout, a ``break`` or an exception in the consumer loses nothing, and iterating again goes on with the next message::

        async with rt.subscribe(chat.status) as messages:
            async for message in messages:
                ...

    After a timeout call ``anext(messages)`` or start a new ``async for`` on the subscription; an iterator taken by ``aiter(messages)`` ends with the wait that was cancelled.
    One task iterates at a time.
    """

    __slots__ = (
        "__weakref__",
        "_chunk",
        "_closed",
        "_engine",
        "_full",
        "_gaps",
        "_invalid",
        "_join",
        "_log",
        "_lost",
        "_owed",
        "_realtime",
        "_request",
        "_rest",
        "_seam",
        "_stream",
        "_taken",
        "_waiter",
        "position",
    )

    def __init__(self, realtime: Realtime, request: Request) -> None:
        self._realtime = realtime
        self._request = request
        self._engine: Engine | None = None
        self._log: InterestLog | None = None
        self._stream: AsyncGeneratorType[Item_co, None] | None = None
        self._chunk: Iterator[Item] = iter(())
        self._join: Join | None = None
        self._rest: Sequence[Item] = ()
        """Items read from history that are not in the chunk yet; only while there is a join."""
        self._seam: Seam | None = None
        self._waiter: Waiter | None = None
        self._closed = False
        self._owed: FanwireError | None = None
        self._full = False
        self._taken = 0
        self._lost = 0
        self._gaps = 0
        self._invalid = 0
        self.position: int = 0
        """Index of the next log entry to take. For the hub."""

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._log is not None else "not entered"
        topics = self._request.interest.topics
        wanted = ", ".join(f"{channel}[{'*' if names is None else ', '.join(names)}]" for channel, names in list(topics.items())[:3])
        return f"<Subscription {wanted}{', ...' if len(topics) > 3 else ''} {state}>"

    # ------------------------------------------------------------------ views

    def with_gaps(self) -> Subscription[Item_co | Gap]:
        """Return a subscription that yields every :class:`~fanwire.Gap` at its position, instead of logging it. Before entering only.

        Raises:
            RuntimeError: it was entered already.
        """
        return self._view(replace(self._request, on_gap="yield"))

    def raw(self) -> Subscription[RawMessage]:
        """Return a subscription that yields :class:`~fanwire.RawMessage`: no schema is applied, and all kinds of messages are shown. Before entering only.

        Raises:
            RuntimeError: it was entered already.
        """
        return self._view(replace(self._request, interest=replace(self._request.interest, raw=True)))

    def _view(self, request: Request) -> Subscription[Any]:  # Any: the callers say what the view yields
        if self._log is not None:
            raise RuntimeError("a view is chosen before the subscription is entered: async with rt.subscribe(...).with_gaps() as items")
        return Subscription(self._realtime, request)

    def batches(self, *, max_size: int = CHUNK, max_wait: float = 0.0) -> AsyncIterator[Sequence[Item_co]]:
        """Return an iterator over batches: fewer turns of the loop where messages come in bursts.

        Args:
            max_size: Items in one batch at most.
            max_wait: Seconds to wait for more after the first item; 0 takes only what is there.

        Raises:
            ValueError: ``max_size`` is less than 1 or ``max_wait`` negative.
        """
        from .batches import Batches

        return Batches(self, max_size, max_wait)

    # ------------------------------------------------------------------ lifetime

    async def __aenter__(self) -> Self:
        """Subscribe, and wait until the broker has confirmed every channel.

        Raises:
            Timeout: that took more than ``connect_timeout`` seconds.
            CursorExpired: the history no longer holds the cursor to start behind.
            PermissionDenied: the broker does not allow it.
            Closed: the Realtime is not open.
        """
        if self._log is not None:
            raise RuntimeError("this subscription was entered before: call rt.subscribe(...) for another one")
        self._realtime._usable()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # two halves of one façade
        await checkpoint()  # entering again and again must neither starve others nor ignore a cancellation
        engine = self._engine = self._realtime._usable()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # two halves of one façade
        log = self._log = engine.hub.attach(self._request.interest)
        # The log's interest is equal; keeping only that one lets a thousand subscriptions share it.
        self._request = replace(self._request, interest=log.interest)
        engine.subscriptions += 1
        try:
            await engine.ready(log, self._realtime.connect_timeout)
            log.decode()  # invalid entries before this place would otherwise be taken out later, and the place would move on past valid ones
            self._invalid = log.invalid
            if self._request.start.kind == "live":
                log.enter(self)
            else:
                self._rest = await self._first_pages(engine, log)
        except BaseException:
            self._leave()
            raise
        return self

    async def _first_pages(self, engine: Engine, log: InterestLog) -> Sequence[Item]:
        """Begin with history, within ``connect_timeout``."""
        starts = history_starts(self._request.start, log.channels)
        with anyio.move_on_after(self._realtime.connect_timeout):
            while True:
                self._join = engine.join(log, self, starts)
                try:
                    items = await self._read(log, self._join.open)
                except Unavailable as error:
                    await engine.retry_history(log, error)
                    continue
                if items is None:
                    await engine.ready(log)  # raises, since everything has ended
                else:
                    return items
        raise Timeout(f"history was not read within {self._realtime.connect_timeout:g} s")

    async def _read(self, log: InterestLog, read: Callable[[], Awaitable[Sequence[Item]]]) -> Sequence[Item] | None:
        """Read history; ``None`` if everything ends meanwhile."""
        with anyio.CancelScope() as scope:
            log.scopes[scope] = None
            try:
                return await read()
            finally:
                log.scopes.pop(scope, None)
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Stop. Synchronous in effect: the broker is told later, by the Realtime."""
        self._stay()
        self._leave()
        stream, self._stream = self._stream, None
        if stream is not None and not stream.ag_running:
            await stream.aclose()

    def _leave(self) -> None:
        log, engine = self._log, self._engine
        if self._closed or log is None or engine is None:
            return
        self._closed = True
        log.cursors.pop(self, None)
        engine.hub.detach(log)
        engine.subscriptions -= 1
        self._join = self._seam = None
        if self._waiter is not None and not self._waiter.done():
            self._forget(self._waiter)
            self._waiter.set_result(None)

    # ------------------------------------------------------------------ iteration

    def __aiter__(self) -> AsyncIterator[Item_co]:
        if self._log is None:
            self._refuse()
        if self._closed:
            raise Closed("this subscription is closed: call rt.subscribe(...) for another one")
        self._stay()
        stream = self._stream
        if stream is None:
            stream = self._stream = cast("AsyncGeneratorType[Item_co, None]", self._iterate(self._log, self._new_waiter))
        return stream

    async def __anext__(self) -> Item_co:
        if self._log is None:
            self._refuse()
        while True:
            for item in self._chunk:
                return cast("Item_co", item)  # the request decides what a log's items are
            self._settle()
            if not self._take() and not await self._more():
                raise StopAsyncIteration

    def _settle(self) -> None:
        if self._owed is not None:
            error, self._owed = self._owed, None
            raise error

    def _stay(self) -> None:
        self._realtime._stay()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # two halves of one façade

    @property
    def _new_waiter(self) -> Callable[[], Waiter]:
        assert self._engine is not None
        return self._engine.new_waiter

    # In one piece, because every message comes through here.
    async def _iterate(  # noqa: C901, PLR0912
        self, log: InterestLog, new_waiter: Callable[[], Waiter]
    ) -> AsyncGenerator[Item, None]:
        """The fast path: a generator over this object's state, so that nothing is lost when it is thrown away.

        A generator yields a third faster than ``__anext__`` returns. It is kept and closed on exit: left to the garbage collector, it would need a task to be closed in.
        """
        limit = min(CHUNK - 1, log.interest.buffer)
        try:
            while True:
                chunk = self._chunk
                for item in chunk:
                    yield item
                if chunk is not self._chunk:
                    continue  # somebody took the next chunk by anext() meanwhile
                self._settle()
                while self._join is None and self._seam is None and not self._rest and not log.gaps:
                    position, end = self.position, log.end
                    if position == end:
                        if log.closed or self._closed or self._waiter is not None:
                            break
                        waiter = self._waiter = new_waiter()
                        log.park(waiter)
                        try:
                            await waiter
                        except BaseException:
                            self._forget(waiter)
                            raise
                        finally:
                            self._waiter = None
                        if self._chunk is not chunk:
                            break
                    elif log.decoded != end:
                        log.decode()
                    elif position < log.floor or end - position > limit:
                        break
                    else:
                        # As _take() does it, which is saved here in all common cases.
                        self.position = end
                        self._taken += end - position
                        found: list[Item] = log.entries[position - log.base :]  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # parsed
                        chunk = self._chunk = iter(found)
                        for item in chunk:
                            yield item
                        if self._chunk is not chunk:
                            break
                if self._chunk is not chunk:
                    continue
                if not self._take() and not await self._more():
                    return
        finally:
            self._stream = None

    def _take(self) -> bool:
        """Take the next chunk out of the log, up to a gap; return whether there was anything."""
        log = self._log
        assert log is not None
        if self._rest:
            return self._take_rest()
        if self._join is not None or self._full:
            return False
        if log.decoded != log.end:
            log.decode()
        position, end = self.position, log.end
        if position == end or self._closed:
            return False
        if position < log.first:
            if self._seam is not None and self._engine is not None and (cursors := self._seam.again()) is not None:
                # Some of what was given up has been shown by history already, and the rest is still there.
                self._rest = self._seam.release()
                self._join, self._seam = self._engine.join(log, self, cursors, self._seam), None
                log.cursors.pop(self, None)
                return bool(self._rest) and self._take_rest()
            gap, self.position = log.lag_gap(position)
            return self._meet(gap)
        stop = min(end, position + CHUNK)
        gap_at = log.next_gap(position) if log.gaps else None
        if gap_at == position:
            self.position = position + 1
            found = log.slice(position, position + 1)[0]
            assert isinstance(found, Gap)
            return self._meet(found) if self._seam is None else self._sift(self._seam, [found])
        if gap_at is not None:
            stop = min(stop, gap_at)
        self.position = stop
        self._full = stop - position == CHUNK
        items = log.slice(position, stop)
        if self._seam is not None:
            return self._sift(self._seam, list(items))
        self._give(items)
        return True

    def _sift(self, seam: Seam, items: list[Item]) -> bool:
        """Take what history has not shown yet, gaps included."""
        self._rest = seam.filter(items)
        if seam.over:
            self._seam = None
        if self._rest:
            return self._take_rest()
        self._give(())
        return True

    # ------------------------------------------------------------------ for Batches

    def take_now(self, limit: int) -> list[Item_co]:
        """Return at most ``limit`` items that are there already, up to a gap that has to be raised."""
        found = list(islice(self._chunk, limit))
        while len(found) < limit and not self._gap_ahead() and self._take():
            found += islice(self._chunk, limit - len(found))
        return cast("list[Item_co]", found)

    def owe(self, error: FanwireError) -> None:
        """Raise ``error`` when the next item is asked for: it was met behind items that are handed out first."""
        self._owed = error

    def give_back(self, items: Sequence[Item_co]) -> None:
        """Put items back in front of what is still to come."""
        self._chunk = iter([*cast("Sequence[Item]", items), *self._chunk])

    def _gap_ahead(self) -> bool:
        log = self._log
        if self._request.on_gap != "raise" or log is None:
            return False
        if self._rest:
            return isinstance(self._rest[0], Gap)
        if log.decoded != log.end:
            log.decode()  # what is dropped there brings a gap nearer
        return self.position < log.first or log.next_gap(self.position) == self.position

    # ------------------------------------------------------------------ taking

    def _take_rest(self) -> bool:
        """Take what history gave, up to a gap."""
        rest = self._rest
        if isinstance(rest[0], Gap):
            self._rest = rest[1:]
            return self._meet(rest[0])
        stop = next((index for index, item in enumerate(rest) if isinstance(item, Gap)), len(rest))
        self._rest = rest[stop:]
        self._give(rest[:stop])
        return True

    def _give(self, items: Sequence[Item]) -> None:
        """Make ``items`` the chunk in hand."""
        self._taken += len(items)
        self._chunk = iter(items)

    def _meet(self, gap: Gap) -> bool:
        """Do with a gap what was asked for."""
        self._gaps += 1
        self._lost += gap.lost or 0
        how = self._request.on_gap
        if how == "raise":
            raise MessagesLost(gap)
        if how == "yield":
            self._chunk = iter((gap,))
        else:
            _logger.warning("%s", gap)
        return True

    async def _more(self) -> bool:
        """Wait for something to take, or read more history; return ``False`` at the end."""
        log, engine = self._log, self._engine
        assert log is not None
        assert engine is not None
        if self._closed:
            return False
        self._stay()
        if self._full:
            # A long backlog must neither starve other tasks nor postpone a cancellation.
            await checkpoint()
            self._full = False
            return True
        if self._join is not None and not log.closed:
            await self._catch_up(self._join, engine, log)
            return True
        if log.closed:
            if log.error is not None:
                raise fresh(log.error)
            return False
        if self._waiter is not None:
            raise RuntimeError("another task is iterating this subscription: make one subscription per task, they share their messages")
        waiter = self._waiter = engine.new_waiter()
        log.park(waiter)
        try:
            await waiter
        except BaseException:
            self._forget(waiter)
            raise
        finally:
            self._waiter = None
        return True

    async def _catch_up(self, join: Join, engine: Engine, log: InterestLog) -> None:
        """Take one step from history towards the live log."""
        seam = join.finish()
        if seam is not None:
            self._join = None
            self._seam = None if seam.over else seam
            return
        try:
            items = await self._read(log, join.advance)
        except Unavailable as error:
            try:
                await engine.retry_history(log, error)
            except FanwireError:
                if not log.closed:
                    raise
            return  # where everything has ended, the next step tells how
        if items is not None:
            self._rest = items

    def _forget(self, waiter: Waiter) -> None:
        if self._log is not None and waiter in self._log.waiters:
            self._log.waiters.remove(waiter)

    def _refuse(self) -> NoReturn:
        raise RuntimeError("this subscription was not entered: use `async with rt.subscribe(...) as messages:` and iterate over messages")

    # ------------------------------------------------------------------ figures

    def stats(self) -> SubscriptionStats:
        """Return this subscription's counters."""
        log = self._log
        if log is None:
            return SubscriptionStats(0, 0, 0, 0, 0)
        in_hand = sum(not isinstance(item, Gap) for item in copy.copy(self._chunk))
        behind = sum(not isinstance(item, Gap) for item in self._rest) + (0 if self._closed or self._join is not None else log.end - self.position)
        return SubscriptionStats(self._taken - in_hand, self._lost, self._gaps, in_hand + behind, log.invalid - self._invalid)
