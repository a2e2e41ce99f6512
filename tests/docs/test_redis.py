"""What the page about Redis states: options, rights, keys and memory; and that the first examples run over it by another URL."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fanwire import Channel, Realtime, topic
from fanwire.runs import StepRecord
from fanwire_redis import RedisOptions, RedisStepStore
from fanwire_redis.errors import GRANT
from tests.docs.markdown import blocks
from tests.docs.test_facts import table
from tests.servers.redis import RedisServer
from tests.sources import CHECKOUT

pytestmark = pytest.mark.checkout

PAGE = CHECKOUT / "docs" / "redis.md"


class Room(Channel, name="{room}"):
    room: str
    status = topic(str)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    made.start()
    yield made
    made.stop()


def test_options() -> None:
    rows = table("redis.md", "| option | default |")
    fields = {name: field for name, field in RedisOptions.model_fields.items() if name not in {"url", "namespace"}}
    assert set(rows) == set(fields)
    units = {"MiB": 2**20}
    for name, row in rows.items():
        shown, default = row.partition("|")[0].strip().strip("`"), fields[name].default
        number, _, unit = shown.partition(" ")
        if isinstance(default, bool):
            assert shown == str(default).lower(), name
        elif isinstance(default, int | float):
            assert float(number) * units.get(unit, 1) == default, name
        else:
            assert default is None or shown == default, name


@pytest.mark.anyio
async def test_the_rights_are_enough(server: RedisServer) -> None:
    """For connecting, after a break too, publishing with a key, subscribing, history; and with those for steps, for steps."""
    (rule,) = (block.code for block in blocks(PAGE) if block.code.startswith("ACL SETUSER"))
    assert {word for word in rule.split() if word[0] in "~&+"} == set(GRANT.replace("<namespace>", "fanwire").split())
    url = f"redis://app:secret@127.0.0.1:{server.port}"
    with server.client() as client:
        client.execute_command(*shlex.split(rule))
        client.execute_command("ACL LOG RESET")
        async with Realtime.from_url(url) as rt, rt.subscribe(Room(room="a").status) as messages:
            await rt.publish(Room(room="a").status, "one", key="k")
            assert (await anext(messages)).data == "one"
            for connection in client.client_list():
                if connection["user"] == "app":
                    client.client_kill_filter(_id=connection["id"])
            await rt.publish(Room(room="a").status, "two", key="k2")
            assert (await anext(messages)).data == "two"
            assert len(await rt.history(Room(room="a"))) == 2
        assert client.execute_command("ACL LOG") == []
        text = PAGE.read_text(encoding="utf-8")
        more = re.search(r"For the \[steps of runs\]\(#steps-of-runs\) add `([^`]+)`", text)
        assert more is not None
        client.execute_command("ACL SETUSER", "app", *more[1].split())
        async with RedisStepStore(url) as store:
            await store.record("run", "step", StepRecord("run", None, None, b"1"))
            assert await store.load("run", "step") is not None
            await store.forget("run")
        assert client.execute_command("ACL LOG") == []


@pytest.mark.anyio
async def test_memory(server: RedisServer) -> None:
    """Within a quarter, for it depends on the version and on how the messages came."""
    units = {"KB": 1_000, "MB": 1_000_000}
    shown = [float(number) * units[unit] for number, unit in map(str.split, _second_column("| a channel with | takes |"))]
    with server.client() as client:

        def used(name: str) -> int:
            return int(client.memory_usage(f"{{fanwire:{name}}}:s", samples=0) or 0)

        async with Realtime.from_url(server.url) as rt:
            async with rt.subscribe(Room(room="empty")):
                found = [used("empty")]
            for count, size in ((10, 256), (100, 256), (1000, 256), (1000, 1024)):
                room = Room(room=f"room-{count}-{size}")
                for begin in range(0, count, 50):
                    await rt.publish_many([room.status("x" * (size - 2)) for _ in range(min(50, count - begin))])
                found.append(used(room.name))
            await rt.publish(Room(room="keyed").status, "x", key="order-17")
        (key,) = client.keys("{fanwire:keyed}:i:*")
        found.append(int(client.memory_usage(key) or 0))
    assert found == [pytest.approx(size, rel=0.25) for size in shown]


def _second_column(header: str) -> list[str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = lines.index(header) + 2
    return [line.strip("| ").split("|")[1].strip() for line in lines[begin : lines.index("", begin)]]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/getting-started.md"])
def test_the_first_example_of_a_page_runs_over_redis(page: str, server: RedisServer, tmp_path: Path) -> None:
    """With another URL, and nothing else changed."""
    printed: list[str] = []
    for url in ("memory://", server.url):
        for block in blocks(CHECKOUT / page):
            if block.title or "anyio.run(main)" in block.code:
                (tmp_path / (block.title or "program.py")).write_text(block.code.replace("memory://", url), encoding="utf-8")
        program = tmp_path / ("app.py" if (tmp_path / "app.py").exists() else "program.py")
        assert url in program.read_text(encoding="utf-8")
        printed.append(subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True, timeout=20).stdout)
    assert printed[0] == printed[1] != ""
