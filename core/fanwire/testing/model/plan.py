"""Plans: what publishers, subscribers and misfortune are going to do, drawn as a whole before anything runs.

A plan is a frozen value whose ``repr`` is the Python that makes it again. It comes from a plain seed (:func:`plan_of`), with nothing but the standard library, or from
hypothesis (:func:`plans`), which shrinks it. Nothing is drawn while it runs: a draw inside an event loop would be caught there like any exception.

Every step means something in every situation, or nothing at all, so that any part of a plan is a plan: that is what lets it shrink.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeVar, final

from ...capabilities import Capabilities, HistoryForm
from ..harness import Harness
from .steps import (
    CHANNELS,
    READERS,
    REALTIMES,
    Close,
    Cut,
    Drain,
    Failover,
    Hold,
    Interest,
    Interrupt,
    Join,
    Leave,
    Lose,
    Plan,
    Publish,
    Read,
    Recreate,
    Release,
    Restart,
    Resume,
    Stall,
    StartKind,
    Step,
    Topics,
    Trim,
    Turns,
)

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

__all__ = ("Means", "means_of", "plan_of", "plans")

T = TypeVar("T")

_STEPS: Final = 24

# ---------------------------------------------------------------- what may be drawn


@final
class Means(NamedTuple):
    """What a plan may contain: what the transport claims, and what the harness can do."""

    capabilities: Capabilities
    abilities: frozenset[str]


def means_of(harness: type[Harness], capabilities: Capabilities) -> Means:
    """Return what plans for a harness may contain."""
    useful = ("cut", "lose", "recreate", "restart", "resume", "rewind", "stall", "trim")
    return Means(capabilities, frozenset(ability for ability in useful if harness.can(ability)))


class Dice(Protocol):
    """Where choices come from. The first of any choices is the simplest."""

    def below(self, end: int) -> int:
        """Return a number from 0 up to ``end``, which is excluded."""
        ...

    def many(self, make: Callable[[Dice], T], least: int, most: int) -> list[T]:
        """Make several."""
        ...


class _Seeded:
    """Choices of the standard library's generator."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def below(self, end: int) -> int:
        return self._random.randrange(end)

    def many(self, make: Callable[[Dice], T], least: int, most: int) -> list[T]:
        return [make(self) for _ in range(self._random.randint(least, most))]


class _Drawn:
    """Choices of hypothesis."""

    def __init__(self, draw: DrawFn) -> None:
        self._draw = draw

    def below(self, end: int) -> int:
        from hypothesis import strategies as st

        return self._draw(st.integers(0, end - 1))

    def many(self, make: Callable[[Dice], T], least: int, most: int) -> list[T]:
        from hypothesis import strategies as st

        @st.composite
        def one(draw: DrawFn) -> T:
            return make(_Drawn(draw))

        return self._draw(st.lists(one(), min_size=least, max_size=most))


def plan_of(seed: int, means: Means) -> Plan:
    """Return the plan of a seed: always the same for the same transport and harness."""
    return _plan(_Seeded(seed), means)


def plans(means: Means) -> SearchStrategy[Plan]:
    """Return a hypothesis strategy for plans."""
    from hypothesis import strategies as st

    @st.composite
    def draw_plan(draw: DrawFn) -> Plan:
        return _plan(_Drawn(draw), means)

    return draw_plan()


def _plan(dice: Dice, means: Means) -> Plan:
    """Draw a plan. Of the faults each plan has its own choice: in a plan with all of them at once, one would hide the other."""
    latency, lag, immediate, linger = dice.below(3), dice.below(4), dice.below(3) < 2, (1.0, 0.0, 30.0)[dice.below(3)]
    menu: list[Callable[[Dice], Step]] = [_turns] * 3 + [_publish] * 6 + [_join(means)] * 3 + [_read, _interrupt, _leave, _drain]
    for weight, fault in _faults(means):
        if dice.below(3) == 1:
            menu += [fault] * weight
    joins = dice.many(_join(means), 1, 3)
    # At least ten, of which shrinking leaves empty turns: hypothesis would else draw short plans.
    steps = dice.many(lambda more: menu[more.below(len(menu))](more), 10, _STEPS)
    kept: Iterable[Step] = (step for step in steps if step != Turns(0))
    return Plan((*joins, *kept), latency, lag, immediate, linger)


def _faults(means: Means) -> list[tuple[int, Callable[[Dice], Step]]]:
    """Return what may go wrong, with weights."""
    found: list[tuple[int, Callable[[Dice], Step]]] = [(2, _hold), (2, _release), (2, _lose(means.abilities)), (1, _close)]
    abilities = means.abilities
    if "cut" in abilities:
        found.append((1, _cut))
    if "restart" in abilities:
        found.append((1, lambda dice: Restart(dice.below(2) == 0)))
    if {"stall", "resume"} <= abilities:
        found += [(1, _stall), (1, _resume)]
    if "trim" in abilities and means.capabilities.history:
        found.append((2, lambda dice: Trim(dice.below(CHANNELS), dice.below(4))))
    if "recreate" in abilities:
        found.append((1, lambda dice: Recreate(dice.below(CHANNELS))))
    if "rewind" in abilities and means.capabilities.history:
        found.append((2, lambda dice: Failover(dice.below(CHANNELS), 1 + dice.below(4), dice.below(6), dice.below(REALTIMES))))
    return found


# ---------------------------------------------------------------- single steps


def _choose(dice: Dice, values: Collection[T]) -> T:
    return list(values)[dice.below(len(values))]


def _topics(dice: Dice) -> Topics:
    both: tuple[Topics, ...] = ("ab", "a", "ab", "b")
    return _choose(dice, both)


def _turns(dice: Dice) -> Step:
    return Turns(dice.below(12))


def _publish(dice: Dice) -> Step:
    hows: tuple[Literal["one by one", "together", "many", "cancelled"], ...] = ("one by one", "many", "together", "one by one", "many", "cancelled")
    return Publish(
        realtime=dice.below(REALTIMES),
        channel=dice.below(CHANNELS),
        topics=_topics(dice),
        count=1 + dice.below(8),
        how=_choose(dice, hows),
        wait=dice.below(3) < 2,
        keyed=dice.below(6) == 5,
    )


def _join(means: Means) -> Callable[[Dice], Step]:
    forms = means.capabilities.history
    starts: list[StartKind] = ["live", "live"]
    by_form: dict[HistoryForm, tuple[StartKind, ...]] = {
        "earliest": ("earliest",),
        "last_n": ("last",),
        "after_cursor": ("after", "resume"),
        "since_time": ("since", "beginning"),
    }
    for form, kinds in by_form.items():
        starts += kinds if form in forms else ()
    reads: tuple[Literal["anext", "iterate", "batches"], ...] = ("anext", "iterate", "batches")

    def join(dice: Dice) -> Step:
        first = dice.below(CHANNELS)
        wanted = (first, (first + 1) % CHANNELS, (first + 2) % CHANNELS)[: 1 + max(0, dice.below(5) - 2)]
        slow = dice.below(4) == 3
        return Join(
            reader=dice.below(READERS),
            realtime=dice.below(REALTIMES),
            interests=tuple(Interest(channel, _topics(dice)) for channel in wanted),
            start=_choose(dice, starts),
            back=1 + dice.below(6),
            buffer=(1024, 1 + dice.below(8))[slow],
            reads=_choose(dice, reads),
            credit=dice.below(4) if slow else None,
        )

    return join


def _reader(dice: Dice) -> int:
    return dice.below(READERS)


def _read(dice: Dice) -> Step:
    return Read(_reader(dice), 1 + dice.below(6))


def _interrupt(dice: Dice) -> Step:
    return Interrupt(_reader(dice))


def _leave(dice: Dice) -> Step:
    return Leave(_reader(dice), dice.below(2) == 1)


def _drain(_: Dice) -> Step:
    return Drain()


def _cut(_: Dice) -> Step:
    return Cut()


def _stall(_: Dice) -> Step:
    return Stall()


def _resume(_: Dice) -> Step:
    return Resume()


def _hold(dice: Dice) -> Step:
    return Hold(dice.below(REALTIMES), dice.below(2) == 1)


def _release(dice: Dice) -> Step:
    return Release(dice.below(REALTIMES))


def _close(dice: Dice) -> Step:
    return Close(dice.below(REALTIMES), dice.below(2) == 0)


def _lose(abilities: Collection[str]) -> Callable[[Dice], Step]:
    places: list[int | None] = [*range(REALTIMES)]
    if "lose" in abilities:
        places.append(None)
    return lambda dice: Lose(_choose(dice, places), 1 + dice.below(3), dice.below(4))
