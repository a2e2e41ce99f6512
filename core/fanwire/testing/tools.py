"""What checks are written with: a channel, ways to wait on facts, and the account of a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import anyio

from ..channels import Channel
from ..messages import Gap, Message
from ..realtime import Realtime
from ..topics import topic
from .harness import Harness

__all__ = ("Room", "account", "confirmed", "expect", "open_realtime", "take", "told", "until", "until_async", "upto")

T = TypeVar("T")


class Room(Channel, name="room:{number}"):
    """The channel of the checks: two topics whose data are numbers that count the messages, and one of text."""

    number: int
    a = topic(int)
    b = topic(int)
    text = topic(str)


def expect(found: object, wanted: object, what: str) -> None:
    """Raise ``AssertionError`` with both values unless they are equal."""
    if found != wanted:
        raise AssertionError(f"{what}: expected {_short(wanted)}, got {_short(found)}")


def confirmed(fact: bool, what: str) -> None:
    """Raise ``AssertionError`` unless ``fact`` holds. Not ``assert``, which ``python -O`` leaves out."""
    if not fact:
        raise AssertionError(what)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-90:]}"


def open_realtime(
    harness: Harness, *, options: dict[str, object] | None = None, **settings: Any
) -> AbstractAsyncContextManager[Realtime]:  # Any: the constructor's
    """Return a Realtime on a new transport of the harness, to be entered."""
    settings.setdefault("timeout", harness.patience)
    settings.setdefault("connect_timeout", harness.patience)
    return Realtime(harness.transport(**(options or {})), **settings)


async def until(fact: Callable[[], bool], what: str, seconds: float) -> None:
    """Let time pass until ``fact`` holds."""
    deadline = time.monotonic() + seconds
    while not fact():
        confirmed(time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}")
        await anyio.sleep(0.002)


async def until_async(look: Callable[[], Awaitable[T]], wanted: T, what: str, seconds: float) -> None:
    """Let time pass until ``look`` returns ``wanted``."""
    deadline = time.monotonic() + seconds
    while (found := await look()) != wanted:
        confirmed(time.monotonic() < deadline, f"{what}: expected {_short(wanted)} within {seconds:g} s, got {_short(found)}")
        await anyio.sleep(0.005)


async def take(items: AsyncIterator[T], count: int, seconds: float) -> list[T]:
    """Read ``count`` items."""
    found: list[T] = []
    with anyio.move_on_after(seconds):
        while len(found) < count:
            found.append(await anext(items))
        return found
    raise AssertionError(f"{len(found)} of {count} items came within {seconds:g} s, the last was {_short(found[-1]) if found else None}")


async def upto(
    items: AsyncIterator[Message[Any]] | AsyncIterator[Message[Any] | Gap], last: object, seconds: float
) -> list[object]:  # Any: any payload
    """Read up to the message whose data is ``last``, which is included; return data, and gaps as they are."""
    found: list[object] = []
    with anyio.move_on_after(seconds):
        while not found or found[-1] != last:
            item = await anext(items)
            found.append(item if isinstance(item, Gap) else item.data)
        return found
    raise AssertionError(f"{last!r} did not come within {seconds:g} s; what came: {_short(found)}")


def told(items: Sequence[Message[Any] | Gap]) -> list[object]:  # Any: any payload
    """Return the data of messages, and gaps as they are."""
    return [item if isinstance(item, Gap) else item.data for item in items]


def account(items: Sequence[object], first: int, last: int, *, exact: bool = False) -> int:
    """Assert that each number from ``first`` to ``last`` came once and in order, or is accounted for by a gap at its very place.

    Args:
        items: Numbers and gaps, as :func:`told` and :func:`upto` return them.
        first: The first number that had to come.
        last: The last one.
        exact: A gap with a count stands for exactly so many; else for so many at most.

    Returns:
        How many are missing, all of them announced.
    """
    expected, missing, may_miss, counted = first, 0, 0, True
    for item in items:
        if isinstance(item, Gap):
            may_miss, counted = (may_miss + item.lost, counted) if item.lost is not None else (may_miss, False)
            continue
        if not isinstance(item, int):
            raise AssertionError(f"{item!r} is neither a number nor a gap")  # noqa: TRY004 - what came is wrong, not how this is called
        confirmed(item >= expected, f"{item} came after {expected - 1}: twice, or out of order, in {_short(items)}")
        _settle(item - expected, may_miss, counted, exact, f"before {item} in {_short(items)}")
        missing, expected, may_miss, counted = missing + item - expected, item + 1, 0, True
    confirmed(expected <= last + 1, f"{expected - 1} came, which is beyond {last}")
    _settle(last + 1 - expected, may_miss, counted, exact, f"at the end of {_short(items)}")
    return missing + last + 1 - expected


def _settle(missing: int, announced: int, counted: bool, exact: bool, where: str) -> None:
    if not counted:
        return
    confirmed(missing <= announced, f"{missing} messages are missing {where}, and {announced} were announced")
    confirmed(not exact or missing == announced, f"{announced} messages were announced as missing {where}, and {missing} are")
