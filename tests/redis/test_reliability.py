"""Load and faults at once, compared by somebody else: nothing is lost in silence, nothing comes twice. See docs/reliability.md."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.redis.scenes import plain
from tests.reliability.audit import Account, Id
from tests.reliability.run import Load, run
from tests.servers.redis import RedisServer

SMALL = Load(subscriptions=200, channels=1000, publishers=4, rate=600, seconds=20)
LARGE = Load()


class Scene:
    """A server of its own, and what is done to it."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.namespace = f"r-{secrets.token_hex(4)}"
        self.url = f"{server.url}?namespace={self.namespace}&history=1000"
        self.cuts = 0
        self.restarts = 0

    def cut(self) -> None:
        """Break a random half of all connections."""
        with plain(self.server) as client:
            mine = client.client_id()
            ids = [found["id"] for found in client.client_list() if int(found["id"]) != mine]
            for id in random.sample(ids, max(1, len(ids) // 2)):
                client.client_kill_filter(_id=id)
        self.cuts += 1

    def restart(self) -> None:
        """By turns as it is asked to, and by force; its data is kept."""
        self.server.restart(keep=True, how=(signal.SIGTERM, signal.SIGKILL)[self.restarts % 2])
        self.restarts += 1

    def stored(self, channels: list[str]) -> Mapping[str, Sequence[Id]]:
        """Read the streams by redis-py."""
        found: dict[str, list[Id]] = {}
        with plain(self.server) as client:
            for channel in channels:
                entries = client.xrange(f"{{{self.namespace}:{channel}}}:s")
                said = [json.loads(fields[b"d"][9:])["data"] for _, fields in entries]
                found[channel] = [Id(publisher, int(n)) for publisher, _, n in (text.partition(":") for text in said if ":" in text)]
        return found


def broken(tmp_path: Path, load: Load, cuts: int, restarts: int) -> Account:
    """Run it, and write down what came of it."""
    server = RedisServer("--save", "")
    server.start()
    try:
        scene = Scene(server)
        breaks: list[Callable[[], None]] = [scene.cut] * cuts
        for number in range(restarts):
            breaks.insert((number + 1) * (cuts + restarts) // (restarts + 1), scene.restart)
        account = run(tmp_path, scene.url, load, breaks, scene.stored)
    finally:
        server.stop(signal.SIGKILL)
    facts = f"{load}\n{cuts} cuts, {restarts} restarts\n{account}\n"
    (tmp_path / "account.txt").write_text(facts, encoding="utf-8")
    if os.environ.get("FANWIRE_ACCOUNT"):
        with Path(os.environ["FANWIRE_ACCOUNT"]).open("a", encoding="utf-8") as file:
            file.write(facts)
    assert account.faults == 0, account.examples
    assert account.expected > 0
    assert account.delivered + account.announced >= account.expected
    return account


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_twenty_seconds_of_cuts_and_restarts(tmp_path: Path) -> None:
    broken(tmp_path, SMALL, cuts=6, restarts=2)


@pytest.mark.soak
def test_a_minute_of_cuts_and_restarts(tmp_path: Path) -> None:
    """1,000 subscriptions over 5,000 channels, 10 publishers."""
    broken(tmp_path, LARGE, cuts=20, restarts=5)


@pytest.mark.soak
def test_with_history_cuts_alone_cost_nothing(tmp_path: Path) -> None:
    assert broken(tmp_path, LARGE, cuts=20, restarts=0).gaps == 0
