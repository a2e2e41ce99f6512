"""What every :class:`fanwire.runs.StepStore` has to hold, as plain coroutine functions: usable with any test framework.

With pytest and anyio's plugin::

    @pytest.mark.anyio
    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_my_store(check: Check) -> None:
        await check(lambda: MyStore("redis://localhost"))

A check raises ``AssertionError`` that says what was broken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import anyio

from ..runs.store import StepRecord, StepStore

__all__ = ("CHECKS", "DURABLE_CHECKS", "Check", "OpenStore")

OpenStore: TypeAlias = Callable[[], StepStore]
"""Returns a store on the data of this test: empty at first, and for a durable store the same data at every call."""

Check: TypeAlias = Callable[[OpenStore], Awaitable[None]]

_PUBLISH: Final = StepRecord("publish", "agent-chat:1", "status", b'{"message":"Done"}')
_FUNCTION: Final = StepRecord("run", None, None, b"null")


def _expect(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: expected {wanted!r}, got {found!r}")


async def unknown_steps_are_none(open_store: OpenStore) -> None:
    """Nothing is recorded of a run that nobody has heard of, and forgetting it is fine."""
    store = open_store()
    _expect(await store.load("run", "step"), None, "a step that was never recorded")
    await store.forget("run")


async def records_are_read_back(open_store: OpenStore) -> None:
    """A record comes back as it was, whatever is in it."""
    store = open_store()
    awkward = StepRecord("publish", 'a:"b"\\', "tool-call", '{"text":"漢字 🧵 \\u0000"}'.encode())
    for step, record in (
        ("publish", _PUBLISH),
        ("function", _FUNCTION),
        ("awkward", awkward),
        ("large", StepRecord("run", None, None, b'"' + b"x" * 2**20 + b'"')),
    ):
        _expect(await store.record("run", step, record), record, f"what recording {step!r} returns")
        _expect(await store.load("run", step), record, f"what is recorded of {step!r}")


async def the_first_record_stands(open_store: OpenStore) -> None:
    """A second record of a step changes nothing and is told the first."""
    store = open_store()
    await store.record("run", "step", _PUBLISH)
    _expect(await store.record("run", "step", _FUNCTION), _PUBLISH, "what recording again returns")
    _expect(await store.load("run", "step"), _PUBLISH, "what is recorded after recording again")


async def one_of_many_wins(open_store: OpenStore) -> None:
    """Of attempts that record at once one wins, and all are told its record."""
    store = open_store()
    told: list[StepRecord] = []

    async def record(number: int) -> None:
        told.append(await store.record("run", "step", StepRecord("run", None, None, b"%d" % number)))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(record, number)
    _expect(len(set(told)), 1, "different records that attempts were told")
    _expect(await store.load("run", "step"), told[0], "what is recorded")


async def runs_and_steps_are_apart(open_store: OpenStore) -> None:
    """No two pairs of ids are taken for one another, however they are spelt."""
    store = open_store()
    pairs = [
        ("a", "b:c"),
        ("a:b", "c"),
        ("a", "B:c"),
        ("a ", "b:c"),
        ("a", "b:c "),
        ("é", "x"),
        ("e\u0301", "x"),
        ("%61", "b:c"),
        ("a\\", "b"),
        ("*", "?"),
        ("a", "{b}"),
    ]
    for number, (run, step) in enumerate(pairs):
        await store.record(run, step, StepRecord("run", None, None, b"%d" % number))
    for number, (run, step) in enumerate(pairs):
        found = await store.load(run, step)
        _expect(None if found is None else found.data, b"%d" % number, f"what is recorded of run {run!r}, step {step!r}")


async def forgetting_drops_one_run(open_store: OpenStore) -> None:
    """``forget`` drops all steps of a run, and of no other; the run can begin anew."""
    store = open_store()
    for run in ("one", "other"):
        for step in ("a", "b"):
            await store.record(run, step, _PUBLISH)
    await store.forget("one")
    _expect([await store.load("one", step) for step in ("a", "b")], [None, None], "the steps of the run that was forgotten")
    _expect([await store.load("other", step) for step in ("a", "b")], [_PUBLISH, _PUBLISH], "the steps of another run")
    _expect(await store.record("one", "a", _FUNCTION), _FUNCTION, "what recording after forgetting returns")


async def records_outlive_the_store(open_store: OpenStore) -> None:
    """Another store on the same data sees the record at once."""
    first, second = open_store(), open_store()
    await first.record("run", "step", _PUBLISH)
    _expect(await second.load("run", "step"), _PUBLISH, "what another store sees")
    _expect(await second.record("run", "step", _FUNCTION), _PUBLISH, "what another store is told when it records")
    _expect(await open_store().load("run", "step"), _PUBLISH, "what a store sees that is opened later")


CHECKS: Final[tuple[Check, ...]] = (
    unknown_steps_are_none,
    records_are_read_back,
    the_first_record_stands,
    one_of_many_wins,
    runs_and_steps_are_apart,
    forgetting_drops_one_run,
)
"""For every store."""

DURABLE_CHECKS: Final[tuple[Check, ...]] = (records_outlive_the_store,)
"""For a store whose data is outside of it, which is every store but the one in memory."""
