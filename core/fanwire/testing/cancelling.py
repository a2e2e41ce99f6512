"""Cancellation at every await point: a scenario is run again and again, and cancelled where it waits for the first time, the second, and so on.

What is cancelled at one point only by chance is tested by this at each of them::

    async def scenario() -> None:
        async with rt.subscribe(chat.status) as messages:
            await rt.publish(chat.status, status)
            await anext(messages)


    async def nothing_is_left(point: int) -> None:
        assert rt.stats().subscriptions == 0


    await cancelled_everywhere(scenario, after=nothing_is_left)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, final

import anyio

__all__ = ("cancelled_everywhere",)


@final
class _Steps:
    """Awaits something, counts how often it hands the turn back to the event loop, and cancels a scope when it does so for the n-th time."""

    def __init__(self, body: Awaitable[object], point: int, scope: anyio.CancelScope) -> None:
        self.count = 0
        self._body = body
        self._point = point
        self._scope = scope

    def __await__(self) -> Generator[Any, Any, None]:  # Any: what coroutines and event loops tell each other is their affair
        steps = self._body.__await__()
        answer: Any = None  # Any: as above
        error: BaseException | None = None
        while True:
            try:
                request = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration:
                return
            self.count += 1
            if self.count == self._point:
                self._scope.cancel()
            try:
                answer, error = (yield request), None
            except BaseException as raised:  # noqa: BLE001 - a cancellation among others: it is thrown to where it belongs
                answer, error = None, raised


async def cancelled_everywhere(
    scenario: Callable[[], Awaitable[object]],
    *,
    seconds: float = 10.0,
    after: Callable[[int], Awaitable[object]] | None = None,
    at_most: int = 2_000,
) -> int:
    """Run ``scenario`` until it ends by itself, each time cancelled one await point later than the time before.

    The points are those of the scenario's own task: where it gives the event loop its turn, whoever it was that awaited. Tasks that it starts are cancelled with it.

    Args:
        scenario: Makes one run; called for each. It may do anything on asyncio, uvloop and trio, but has to end if nobody cancels it.
        seconds: In which one run has to end, cancelled or not.
        after: Called behind each run with the number of the point, from 1: asserts that nothing is left. The last call is behind the run that was not cancelled.
        at_most: Points after which it is given up.

    Returns:
        How many await points there are.

    Raises:
        AssertionError: a run does not end in time once it is cancelled, or there are too many points.
        Exception: whatever a run or ``after`` raises, with a note that says at which point it was cancelled.
    """
    for point in range(1, at_most + 2):
        try:
            points = await _once(scenario, point, seconds)
            if after is not None:
                await after(point)
        except BaseException as error:
            error.add_note(f"the scenario was cancelled at await point {point}")
            raise
        if points < point:
            return points
    raise AssertionError(f"the scenario has more than {at_most} await points: make it shorter, or raise at_most")


async def _once(scenario: Callable[[], Awaitable[object]], point: int, seconds: float) -> int:
    """Run it, cancel it at a point, and return how many there were."""
    steps: _Steps | None = None
    with anyio.move_on_after(seconds) as patience:
        with anyio.CancelScope() as scope:
            steps = _Steps(scenario(), point, scope)
            await steps
    if steps is None or patience.cancel_called:
        state = "" if steps is None or steps.count < point else " behind its cancellation"
        raise AssertionError(f"a run did not end within {seconds:g} s{state}")
    return steps.count
