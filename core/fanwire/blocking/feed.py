"""Messages for a thread: a subscription of the portal's Realtime, taken by chunks.

What the loop takes out of the subscription it puts into ``_chunk`` itself, and the thread takes items from there without a call between taking and handing out: so that a signal
handler that raises, as on Ctrl-C, finds every item either still there or in the user's hands.
"""

# ruff: noqa: SLF001
# pyright: reportPrivateUsage=false
# The blocking façade and the asynchronous one are two halves of one thing.

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager
from operator import length_hint
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar, cast, final

from ..batches import Batches
from ..errors import Closed, Timeout
from ..events import SubscriptionStats
from ..hub.log import CHUNK
from ..hub.waiter import checkpoint
from ..messages import Gap
from ..subscription import Subscription
from .lifetime import Lifetime
from .portal import Job, Portal

__all__ = ("BlockingBatches", "Feed")

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


class Feed(Generic[Item_co]):
    """What a BlockingSubscription is apart from its views.

    Args:
        owner: The BlockingRealtime.
        plan: What to subscribe; never entered itself.
    """

    __slots__ = ("__weakref__", "_batch", "_chunk", "_closed", "_owner", "_plan", "_portal", "_reader", "_source")

    def __init__(self, owner: Lifetime, plan: Subscription[Item_co]) -> None:
        self._owner = owner
        self._plan = plan
        self._portal: Portal | None = None
        self._source: Subscription[Item_co] | None = None
        self._chunk: Iterator[Item_co] = iter(())
        """Items to be handed out next."""
        self._batch: Sequence[Item_co] | None = None
        """A batch that was collected and not handed out yet."""
        self._reader: Job[bool] | None = None
        """The call that reads at present."""
        self._closed = False

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._source is not None else "not entered"
        return f"<Blocking{repr(self._plan)[1:].removesuffix(' not entered>')} {state}>"

    # ------------------------------------------------------------------ lifetime

    def __enter__(self) -> Self:
        """Subscribe, and wait until the broker has confirmed every channel.

        Raises:
            Timeout: that took more than ``connect_timeout`` seconds.
            CursorExpired: the history no longer holds the cursor to start behind.
            PermissionDenied: the broker does not allow it.
            ConnectFailed: there is no connection yet, and none could be made.
            Closed: the BlockingRealtime is closed.
            WrongLoop: an event loop runs in this thread.
        """
        if self._portal is not None or self._closed:
            raise RuntimeError("this subscription was entered before: call rt.subscribe(...) for another one")
        portal = self._portal = self._owner._opened()
        try:
            portal.call(self._subscribe)
        except BaseException:
            self._closed = True
            portal.spawn(self._leave)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Stop."""
        self.close()

    def close(self) -> None:
        """Stop, as leaving ``with`` does. Idempotent, and from any thread: an iteration in another one ends behind the messages that it has in hand."""
        portal = self._portal
        closed, self._closed = self._closed, True
        if not closed and portal is not None:
            portal.leave(self._leave)

    # ------------------------------------------------------------------ iteration

    def __iter__(self) -> Iterator[Item_co]:
        """Iterate over messages as they come; ends when the subscription or the BlockingRealtime is closed, by whichever thread.

        Raises:
            RuntimeError: it was not entered; or, while waiting, another thread iterates it as well.
            MessagesLost: messages are missing here, and ``on_gap="raise"`` was asked for; iterating again goes on behind the gap.
            FanwireError: the connection was given up.
        """
        if self._portal is None:
            self._refuse()
        if self._closed:
            raise Closed("this subscription is closed: call rt.subscribe(...) for another one")
        return self._iterate()

    def _iterate(self) -> Generator[Item_co]:
        while True:
            yield from self._chunk
            if not self._more():
                return

    def __next__(self) -> Item_co:
        while True:
            for item in self._chunk:
                return item
            if not self._more():
                raise StopIteration

    def get(self, timeout: float | None = None) -> Item_co:
        """Return the next message, as ``queue.Queue.get`` does. Nothing is lost by a timeout.

        Args:
            timeout: Seconds to wait for it; 0 takes one only if it is there, ``None`` waits for as long as it takes.

        Raises:
            Timeout: none came in time.
            Closed: the subscription or the BlockingRealtime is closed, and all messages were taken.
            RuntimeError: it was not entered, or another thread waits for a message of this subscription.
            MessagesLost: as when iterating.
            ValueError: ``timeout`` is negative.
        """
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"get() takes timeout >= 0 in seconds, or None, got {timeout!r}")
        while True:
            for item in self._chunk:
                return item
            if not self._more(timeout):
                raise Closed("this subscription is closed, and all its messages were taken")

    def stats(self) -> SubscriptionStats:
        """Return this subscription's counters."""
        counted = (self._plan if self._source is None else self._source).stats()
        in_hand = sum(not isinstance(item, Gap) for item in [*copy.copy(self._chunk), *(self._batch or ())])
        return counted._replace(received=counted.received - in_hand, lag=counted.lag + in_hand)

    # ------------------------------------------------------------------ for the views and for batches

    def _view(self) -> Subscription[Item_co]:
        if self._portal is not None:
            raise RuntimeError("a view is chosen before the subscription is entered: with rt.subscribe(...).with_gaps() as items")
        return self._plan

    def next_batch(self, max_size: int, max_wait: float) -> Sequence[Item_co] | None:
        """Return the next batch; ``None`` at the end. For :class:`BlockingBatches`."""
        if self._batch is None and not self._ask(lambda job: self._collect(job, max_size, max_wait), lambda: self._collect_remains(max_size)):
            return None
        batch, self._batch = self._batch, None
        return batch

    # ------------------------------------------------------------------ in the consumer's thread

    def _more(self, timeout: float | None = None) -> bool:
        """Get the next chunk; return ``False`` at the end."""
        if self._batch is not None:  # its thread was interrupted before it could take it
            self._chunk = iter(self._batch)
            self._batch = None
            return True
        return self._ask(lambda job: self._fetch(job, timeout), self._fetch_remains)

    def _ask(self, ask: Callable[[Job[bool]], Awaitable[bool]], afterwards: Callable[[], bool]) -> bool:
        """Await ``ask`` on the loop; without one, because the BlockingRealtime was closed, do what follows then."""
        portal = self._portal
        if portal is None:
            self._refuse()
        if self._closed:
            return False
        if portal.over is None:
            try:
                return portal.call(ask)
            except Closed:
                if portal.over is None:
                    raise
        if portal.forked:
            raise portal.closed()
        portal.join()
        with portal.remains:
            found = afterwards()
        if not found and not isinstance(portal.over, Closed):
            raise portal.closed()
        return found

    def _fetch_remains(self) -> bool:
        if not self._held:
            self._chunk = iter(self._remains(CHUNK))
        return self._held

    def _collect_remains(self, max_size: int) -> bool:
        if self._batch is None:
            self._give_back()
            self._batch = self._remains(max_size) or None
        return self._batch is not None

    def _remains(self, limit: int) -> Sequence[Item_co]:
        """Take what was queued when the BlockingRealtime was closed, without an event loop: nothing has to be waited for any more."""
        source = self._source
        if source is None:
            return ()
        source._settle()
        found = source.take_now(limit)
        if not found and source._take():  # raises at a gap, for which take_now() stops
            found = source.take_now(limit)
        return found

    def _refuse(self) -> NoReturn:
        raise RuntimeError("this subscription was not entered: use `with rt.subscribe(...) as messages:` and iterate over messages")

    # ------------------------------------------------------------------ on the loop

    async def _subscribe(self, _: Job[None]) -> None:
        portal, request = self._portal, self._plan._request
        assert portal is not None
        source = cast("Subscription[Item_co]", Subscription(portal.realtime, request))  # the request decides what the items are
        await source.__aenter__()
        self._source = source

    async def _leave(self, _: Job[object]) -> None:
        if self._source is not None:
            self._source._leave()

    @asynccontextmanager
    async def _turn(self, job: Job[bool]) -> AsyncGenerator[tuple[Portal, Subscription[Item_co]]]:
        """Give the subscription to one call at a time."""
        assert self._portal is not None
        assert self._source is not None
        while self._reader is not None:
            if not self._reader.abandoned:
                raise RuntimeError("another thread is iterating this subscription: make one subscription per thread, they share their messages")
            await checkpoint()
        self._reader = job
        try:
            yield self._portal, self._source
        finally:
            self._reader = None

    async def _fetch(self, job: Job[bool], timeout: float | None) -> bool:
        """Wait for a message, and take all that are there with it."""
        async with self._turn(job) as (portal, source):
            if self._held:
                return True
            with portal.waiting(timeout):
                try:
                    first = await anext(source)
                except StopAsyncIteration:
                    return False
                self._chunk = iter([first, *source.take_now(CHUNK - 1)])
                return True
            if portal.ending:
                return False
        raise Timeout(f"no message within {timeout:g} s")

    async def _collect(self, job: Job[bool], max_size: int, max_wait: float) -> bool:
        """Wait for a batch."""
        async with self._turn(job) as (portal, source):
            if self._batch is not None:
                return True
            self._give_back()
            with portal.waiting(None):
                try:
                    self._batch = await anext(Batches(source, max_size, max_wait))
                except StopAsyncIteration:
                    return False
                return True
            self._batch = source.take_now(max_size) or None
            return self._batch is not None

    @property
    def _held(self) -> bool:
        """Whether a call whose thread was interrupted has left something to be handed out."""
        return self._batch is not None or length_hint(self._chunk) > 0

    def _give_back(self) -> None:
        """Begin a batch with what was fetched for iterating."""
        held = list(self._chunk)
        if held and self._source is not None:
            self._source.give_back(held)


@final
class BlockingBatches(Generic[Item]):
    """What ``subscription.batches()`` returns. An interrupted wait loses nothing."""

    def __init__(self, feed: Feed[Item], max_size: int, max_wait: float) -> None:
        self._feed = feed
        self._max_size = max_size
        self._max_wait = max_wait

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Sequence[Item]:
        batch = self._feed.next_batch(self._max_size, self._max_wait)
        if batch is None:
            raise StopIteration
        return batch
