"""Across processes: a publisher, two subscribers and an auditor, each in one of its own, compared by what they wrote down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from tests.redis.harness import cluster
from tests.redis.scenes import beyond, connections_of, fresh_namespace, loops, plain, server, stream_of, until
from tests.servers.redis import RedisServer

anyio_backend = loops("asyncio")

HERE = Path(__file__).parent
COUNT = 1500


class Actor:
    """A process, and what it has said."""

    def __init__(self) -> None:
        self.lines: list[list[Any]] = []  # Any: JSON
        self.code: int | None = None

    def said(self, what: str) -> list[list[Any]]:  # Any: JSON
        """Return what it said of one kind."""
        return [rest for kind, *rest in self.lines if kind == what]


@asynccontextmanager
async def acting(role: str, *arguments: object) -> AsyncGenerator[Actor]:
    """Run a role of ``actors.py`` in a process."""
    actor = Actor()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(HERE / "actors.py"), role, *map(str, arguments)]
    async with (
        await anyio.open_process(command, stdin=subprocess.DEVNULL, stderr=None, env=environment) as process,
        anyio.create_task_group() as tasks,
    ):

        async def listen() -> None:
            assert process.stdout is not None
            rest = ""
            async for text in TextReceiveStream(process.stdout):
                *lines, rest = (rest + text).split("\n")
                actor.lines += [json.loads(line) for line in lines]
            actor.code = await process.wait()

        tasks.start_soon(listen)
        try:
            yield actor
        finally:
            if actor.code is None:
                process.kill()
            tasks.cancel_scope.cancel()


async def audit(at: RedisServer, namespace: str) -> list[list[Any]]:  # Any: JSON
    """Let the auditor read the stream."""
    async with acting("auditor", "127.0.0.1", at.port, stream_of(namespace, "feed:a")) as auditor:
        await until(lambda: auditor.code is not None, "the auditor has read it")
        assert auditor.code == 0
        return auditor.said("stored")


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("where", ["server", "cluster"])
async def test_four_processes_agree(where: str) -> None:
    """With every connection cut three times meanwhile: nothing lost, nothing twice, one order, and the same ids and positions everywhere."""
    namespace = fresh_namespace()
    at = cluster() if where == "cluster" else server()
    masters = cluster().servers[:3] if where == "cluster" else [server()]
    async with acting("subscriber", at.url, namespace, COUNT) as one, acting("subscriber", at.url, namespace, COUNT) as two:
        await until(lambda: bool(one.said("ready") and two.said("ready")), "both are subscribed", 20)
        async with acting("publisher", f"{at.url}?history=100000", namespace, COUNT) as publisher:
            for share in (0.2, 0.4, 0.6):
                await beyond(lambda: len(publisher.said("accepted")), COUNT * share, "publishing goes on", 20)
                for master in masters:
                    with plain(master) as client:
                        for id in connections_of(client, namespace):
                            client.client_kill_filter(_id=id)
            await until(lambda: None not in {publisher.code, one.code, two.code}, "all are done", 30)
            assert {publisher.code, one.code, two.code} == {0}
    stored = [found for master in masters if (found := await audit_of(master, namespace))]
    assert len(stored) == 1
    accepted = {number: (id, cursor) for number, id, cursor in publisher.said("accepted")}
    assert sorted(accepted) == list(range(1, COUNT + 1))
    for subscriber in (one, two):
        assert subscriber.said("gap") == []
        assert [number for number, *_ in subscriber.said("came")] == list(range(1, COUNT + 1))
        assert {number: (id, cursor) for number, id, cursor in subscriber.said("came")} == accepted
    assert [number for number, *_ in stored[0]] == list(range(1, COUNT + 1))
    assert {number: id for number, id, _ in stored[0]} == {number: id for number, (id, _) in accepted.items()}
    assert [position.replace("-", ":") for *_, position in stored[0]] == [cursor.rpartition(":")[0] for _, cursor in accepted.values()]


async def audit_of(at: RedisServer, namespace: str) -> list[list[Any]]:  # Any: JSON
    """Let the auditor read the stream where it is; in a cluster one server has it."""
    with plain(at) as client:
        if not client.keys(f"{{{namespace}:*"):
            return []
    return await audit(at, namespace)


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_demo_runs_over_redis() -> None:
    """By another URL: a worker that is killed half way, and three subscribers that verify what came."""
    command = [sys.executable, "-m", "fanwire.cli", "demo", "--url", f"{server().url}?namespace={fresh_namespace()}&history=10000", "--json"]
    done = await anyio.run_process(command, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr.decode()
    outcome = json.loads(done.stdout)
    assert outcome["verdict"] == "passed"
    assert [attempt["returncode"] for attempt in outcome["attempts"]] == [-9, 0]
