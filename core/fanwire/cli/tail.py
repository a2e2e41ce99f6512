"""``fanwire tail``: what happens on channels, as it happens, gaps and connection included."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import anyio

from ..errors import ConfigError, InvalidPayload, Unsupported
from ..events import ConnectionState, InvalidMessage
from ..messages import Cursor, Gap, RawMessage, Start
from ..realtime import Realtime
from ..requests import check_start
from ..subscription import Subscription
from . import connection
from .connection import Place, seconds
from .errors import FAILED, OK
from .output import note, on_terminal, plural
from .running import Interrupted, run
from .starts import parse_start
from .tail_view import JsonScreen, LiveScreen, PlainScreen, Screen
from .targets import Lookup, Target, resolve

__all__ = ("Watch", "tail")

_LAST_WORDS: Final = 1.0
"""Seconds that output may take once it is over: a reader that stands still must not keep the command alive."""

_BUFFER: Final = 65_536
_BUFFER_BYTES: Final = 64 * 2**20
"""More than others have: showing messages is slow, and gaps that nobody else has are of no use."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """What is to be watched, as it was typed."""

    channels: Sequence[str]
    topics: Sequence[str]
    begin: str
    """As :func:`~fanwire.cli.starts.parse_start` reads it."""

    count: int | None
    duration: float | None
    """Seconds."""

    lookup: Lookup
    json: bool


@final
class _Account:
    """What came, and what it came to."""

    def __init__(self, wanted: int | None) -> None:
        self.left: float = math.inf if wanted is None else wanted
        self.received: int = 0
        self.gaps: int = 0
        self.lost: int = 0
        self.invalid: int = 0
        self.newest: dict[str, Cursor] = {}
        self.began = time.monotonic()

    def summary(self) -> str:
        """Return it in one sentence, and how to go on from here."""
        lost = f", {plural(self.lost, 'message')} lost" if self.lost else ""
        parts = f"{plural(self.received, 'message')}, {plural(self.gaps, 'gap')}{lost}, {self.invalid:,} invalid"
        on = f"; go on with --from {next(iter(self.newest.values()))}" if len(self.newest) == 1 else ""
        return f"{parts} in {time.monotonic() - self.began:.1f} s{on}"


def tail(watch: Watch, place: Place) -> int:
    """Show messages until there are enough, time is up, or Ctrl-C.

    Returns:
        The exit code: 0 if ``--count`` or ``--for`` was reached, 1 if time was up before there were enough, 130 after Ctrl-C, which is the usual end.

    Raises:
        ConfigError: an argument is wrong.
        FanwireError: the broker cannot be reached, or refuses.
        OutputClosed: standard output cannot be written.
    """
    if watch.count is not None and watch.count < 1:
        raise ConfigError(f"--count must be at least 1, got {watch.count}")
    seconds("--for", watch.duration)
    start = parse_start(watch.begin)
    targets = [resolve(text, watch.lookup) for text in watch.channels]
    if len({target.name for target in targets}) < len(targets):
        raise ConfigError("a channel is named twice; name each once")
    if start.kind == "after" and len(targets) > 1:
        raise ConfigError("--from with a cursor goes with one channel: each has positions of its own")
    account = _Account(watch.count)
    screen: Screen = JsonScreen() if watch.json else LiveScreen(targets) if on_terminal(sys.stdout) else PlainScreen()
    realtime = connection.open_realtime(place, on_invalid=partial(_invalid, account, screen))
    _check_history(realtime, watch.begin, start)
    if not realtime.capabilities.multi_process and not watch.json:
        note("this transport stays inside its process: what other processes publish will not be seen")
    try:
        run(_tail, realtime, _Follower(watch, targets, start, account, screen))
    except Interrupted as interrupted:
        screen.close(account.summary())
        return 128 + interrupted.number
    except BaseException:
        screen.close(None)
        raise
    short = watch.count is not None and account.left > 0
    screen.close(account.summary() + (f": fewer than the {watch.count:,} of --count" if short else ""))
    return FAILED if short else OK


def _check_history(realtime: Realtime, begin: str, start: Start) -> None:
    """Refuse a start that the history cannot serve, in the words it was asked for.

    Raises:
        Unsupported: the transport does not declare that form of history.
    """
    capabilities = realtime.capabilities
    try:
        check_start(start, capabilities, "")
    except Unsupported as error:
        have = ", ".join(sorted(capabilities.history)) or "none"
        raise Unsupported(f"--from {begin}: history cannot be read so on this transport with these options; what there is: {have}") from error


def _invalid(account: _Account, screen: Screen, message: InvalidMessage) -> None:
    account.invalid += 1
    screen.put(message)


@final
@dataclass(frozen=True, slots=True)
class _Follower:
    """Watches the channels of one Realtime."""

    watch: Watch
    targets: Sequence[Target]
    start: Start
    account: _Account
    screen: Screen

    def subscribe(self, rt: Realtime, target: Target) -> Subscription[RawMessage | Gap]:
        """Prepare the subscription of one channel. Unparsed, so that what its schema refuses can be shown too, at its place."""
        names = list(dict.fromkeys(self.watch.topics)) or None
        channel = target.name if target.declared is None else target.declared
        return rt.subscribe(channel, topics=names, start=self.start, buffer=_BUFFER, buffer_bytes=_BUFFER_BYTES).raw().with_gaps()

    async def read(self, target: Target, items: Subscription[RawMessage | Gap]) -> None:
        """Show one channel; return when there was enough."""
        async for batch in items.batches():
            for item in batch:
                if self.account.left <= 0:
                    return
                self._show(target, item)
            if self.account.left <= 0:
                return
            await self.screen.drained()

    def _show(self, target: Target, item: RawMessage | Gap) -> None:
        account = self.account
        if isinstance(item, Gap):
            account.gaps += 1
            account.lost += item.lost or 0
            self.screen.put(item)
            return
        if item.cursor is not None:
            account.newest[item.channel] = item.cursor
        fault = _fault(target, item)
        if fault is not None:
            _invalid(account, self.screen, InvalidMessage(item.channel, item.topic, fault, item.frame))
            return
        account.received += 1
        account.left -= 1
        self.screen.put(item)

    async def state(self, rt: Realtime) -> None:
        """Show what becomes of the connection; that it is there to begin with needs no word."""
        async with rt.events() as events:
            first = True
            async for event in events:
                if not (first and event.state is ConnectionState.CONNECTED):
                    self.screen.put(event)
                first = False


def _fault(target: Target, message: RawMessage) -> str | None:
    """Say what the declared schema has against a message; what is not of kind ``data`` belongs to other protocols, which have no schema."""
    ref = target.topics.get(message.topic)
    if ref is None or message.kind != "data":
        return None
    try:
        message.parse(ref)
    except InvalidPayload as error:
        return "; ".join(f"{fault.location}: {fault.message}" if fault.location else fault.message for fault in error.errors)
    return None


async def _tail(realtime: Realtime, follower: _Follower) -> None:
    """Watch all channels; raise what ends one of them, and no group of it."""
    failures: list[Exception] = []
    over = anyio.Event()

    async def until_over(job: Callable[[], Awaitable[None]]) -> None:
        try:
            await job()
        except Exception as error:  # noqa: BLE001 - raised below, where no task group wraps it
            failures.append(error)
        over.set()

    async with connection.opened(realtime) as rt, AsyncExitStack() as subscriptions:
        opened = [(target, await subscriptions.enter_async_context(follower.subscribe(rt, target))) for target in follower.targets]
        jobs: list[Callable[[], Awaitable[None]]] = [follower.screen.run, partial(follower.state, rt)]
        jobs += [partial(follower.read, *each) for each in opened]
        async with anyio.create_task_group() as tasks:
            for job in jobs:
                tasks.start_soon(until_over, job)
            try:
                with anyio.move_on_after(math.inf if follower.watch.duration is None else follower.watch.duration):
                    await over.wait()
            finally:
                with anyio.move_on_after(_LAST_WORDS, shield=True):
                    await follower.screen.drained()
            tasks.cancel_scope.cancel()
    if failures:
        raise failures[0]
