"""A process that publishes durably through its parent, and dies when it is told to: the child of `test_crash.py`.

Its one argument is a JSON object: the store's path, the run's id, how many steps, which of them kills it and when, and whether keys are left out. Batches to publish go to
standard output, a line each; what came of them is read from standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import anyio

import fanwire.runs.run
from fanwire import Realtime, TopicRef
from fanwire.capabilities import Capabilities
from fanwire.cli.relay import RelayTransport
from fanwire.runs import SQLiteStepStore, StepRecord

__all__ = ("TOPIC",)

TOPIC: TopicRef[Any] = TopicRef("orders:17", "status")  # Any: JSON


def die() -> None:
    """End at once, without any cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


class Store:
    """The SQLite store, in a process that dies beside it."""

    def __init__(self, steps: SQLiteStepStore, doomed: str | None, moment: str) -> None:
        self._steps = steps
        self._doomed = doomed
        self._moment = moment

    async def load(self, run_id: str, step_id: str, /) -> StepRecord | None:
        return await self._steps.load(run_id, step_id)

    async def record(self, run_id: str, step_id: str, record: StepRecord, /) -> StepRecord:
        if step_id == self._doomed and self._moment == "before the record":
            die()
        result = await self._steps.record(run_id, step_id, record)
        if step_id == self._doomed:
            die()
        return result

    async def forget(self, run_id: str, /) -> None:
        await self._steps.forget(run_id)


def exchange(request: bytes) -> bytes:
    """Ask the parent."""
    sys.stdout.buffer.write(request)
    sys.stdout.buffer.flush()
    answer = sys.stdin.buffer.readline()
    if not answer:
        os._exit(3)  # the parent has gone
    return answer


async def main() -> None:
    """Make one attempt."""
    job: dict[str, Any] = json.loads(sys.argv[1])  # Any: JSON
    if job["keyless"]:
        fanwire.runs.run._key = lambda *_: None  # type: ignore[assignment]  # what it would be like without
    terms = Capabilities(
        delivery="exactly_once", ordering="channel", multi_process=True, confirmed_publish=True, confirmed_subscribe=False, idempotent_publish=True
    )
    async with Realtime(RelayTransport(exchange, terms)) as rt, SQLiteStepStore(job["store"]) as steps:
        run = rt.run(job["run"], steps=Store(steps, job["doomed"], job["moment"]))
        for number in range(job["steps"]):
            returned = await run.step.publish("notify", TOPIC, {"number": number})
            assert returned == {"number": number}


if __name__ == "__main__":
    anyio.run(main)
