"""Steps recorded in Redis: what every store holds, on each kind of deployment; what is on the server; and what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import redis
from redis.asyncio import Redis, RedisCluster

from fanwire import BlockingRealtime, Realtime, TopicRef
from fanwire.errors import (
    Closed,
    ConfigError,
    ConnectFailed,
    DeclarationError,
    FanwireError,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unsupported,
    WrongLoop,
)
from fanwire.runs import StepRecord, StepStore
from fanwire.testing.step_stores import CHECKS, DURABLE_CHECKS, Check
from fanwire_redis import RedisStepStore
from tests.conftest import LOOPS
from tests.redis.harness import cluster, sentinels, server
from tests.servers.processes import free_ports
from tests.servers.redis import RedisServer, until

RECORD = StepRecord("run", None, None, b"1")
PLACES: dict[str, Callable[[], str]] = {"one-server": lambda: server().url, "cluster": lambda: cluster().url, "sentinel": lambda: sentinels().url}
ALL = [*CHECKS, *DURABLE_CHECKS]
ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""For what other processes do."""


@pytest.fixture(scope="module", params=[name for name in LOOPS if name != "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The loops that redis-py has: not trio's."""
    return LOOPS[request.param]


@pytest.fixture
def namespace() -> str:
    return f"steps-{secrets.token_hex(6)}"


def name(check: Check) -> str:
    return getattr(check, "__name__", "")


# ---------------------------------------------------------------- what every store holds


@pytest.mark.anyio
@pytest.mark.parametrize("check", ALL, ids=name)
@pytest.mark.parametrize("place", PLACES)
async def test_from_a_url(place: str, check: Check, namespace: str) -> None:
    stores: list[RedisStepStore] = []

    def open_store() -> StepStore:
        stores.append(RedisStepStore(PLACES[place](), namespace=namespace))
        return stores[-1]

    await check(open_store)
    for store in stores:
        await store.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("check", ALL, ids=name)
@pytest.mark.parametrize("kind", [Redis, RedisCluster], ids=["Redis", "RedisCluster"])
async def test_with_a_client_of_the_application(kind: type[Redis | RedisCluster], check: Check, namespace: str) -> None:
    """One that decodes what it reads, as many applications have it."""
    client = kind.from_url(server().url if kind is Redis else cluster().servers[0].url, decode_responses=True)
    async with client:
        await check(lambda: RedisStepStore(client, namespace=namespace))
        assert await client.ping()  # it was not closed


@ONE_LOOP
@pytest.mark.anyio
async def test_processes_that_record_at_once_are_told_the_same(namespace: str) -> None:
    program = (
        "import anyio, sys\nfrom fanwire.runs import StepRecord\nfrom fanwire_redis import RedisStepStore\n"
        "async def main():\n  async with RedisStepStore(sys.argv[1], namespace=sys.argv[2]) as store:\n"
        "    for n in range(50): print((await store.record('run', str(n), StepRecord('run', None, None, sys.argv[3].encode()))).data.decode())\n"
        "anyio.run(main)\n"
    )
    told: list[list[str]] = []

    async def attempt(number: int) -> None:
        result = await anyio.run_process([sys.executable, "-c", program, server().url, namespace, str(number)])
        told.append(result.stdout.decode().split())

    with anyio.fail_after(50):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(attempt, number)
    assert len(told[0]) == 50
    assert told[0] == told[1] == told[2]


# ---------------------------------------------------------------- a process that dies

CRASHING = """
import json, os, signal, sys
import anyio
import fanwire.runs.run
from fanwire import Realtime, TopicRef
from fanwire_redis import RedisStepStore

url, namespace, doomed, keyless = json.loads(sys.argv[1])
if keyless:
    fanwire.runs.run._key = lambda *_: None


class Dying:
    def __init__(self, store):
        self.store = store
        self.load = store.load
        self.forget = store.forget

    async def record(self, run_id, step_id, record):
        if step_id == doomed:
            os.kill(os.getpid(), signal.SIGKILL)
        return await self.store.record(run_id, step_id, record)


async def main():
    async with Realtime.from_url(url, options={"namespace": namespace}) as rt, RedisStepStore(url, namespace=namespace) as store:
        run = rt.run("order-17", steps=Dying(store))
        for number in range(3):
            await run.step.publish("notify", TopicRef("orders:17", "status"), {"number": number})


anyio.run(main)
"""


@ONE_LOOP
@pytest.mark.anyio
@pytest.mark.parametrize("keyless", [False, True], ids=["with-its-key", "without-it-would-be-seen-twice"])
async def test_killed_between_publishing_and_recording_it_is_seen_once(keyless: bool, namespace: str, tmp_path: Path) -> None:
    """Publisher, store and subscriber are in three processes, the subscriber in this one."""
    (tmp_path / "crashing.py").write_text(CRASHING)

    def attempt(doomed: str | None) -> int:
        job = json.dumps([server().url, namespace, doomed, keyless])
        return subprocess.run([sys.executable, str(tmp_path / "crashing.py"), job], check=False, timeout=30).returncode

    topic: TopicRef[object] = TopicRef("orders:17", "status")
    async with Realtime.from_url(server().url, options={"namespace": namespace}) as rt, rt.subscribe(topic) as messages:
        codes = [await anyio.to_thread.run_sync(attempt, doomed) for doomed in ("notify:1", "notify:1", None)]
        await rt.publish(topic, "end")
        seen: list[object] = []
        async for message in messages:
            if message.data == "end":
                break
            seen.append(message.data)
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert seen == [{"number": number} for number in ([0, 1, 1, 1, 2] if keyless else [0, 1, 2])]
    with server().client() as observer:
        assert observer.hlen(f"{{{namespace}:order-17}}:r") == 3
        assert observer.xlen(f"{{{namespace}:orders:17}}:s") == len(seen) + 1


# ---------------------------------------------------------------- what is on the server


@pytest.mark.anyio
async def test_a_run_is_one_hash_that_lives_for_ttl_after_its_newest_step(namespace: str) -> None:
    async with RedisStepStore(server().url, namespace=namespace, ttl=1000) as store:
        with server().client() as observer:
            await store.record("run", "publish", StepRecord("publish", "agent-chat:1", "status", b'{"message":"Done"}'))
            (key,) = observer.keys(f"*{namespace}*")
            assert key == f"{{{namespace}:run}}:r".encode()
            assert observer.hgetall(key) == {b"publish": b'[1,"publish","agent-chat:1","status"]\n{"message":"Done"}'}
            assert 990_000 < observer.pttl(key) <= 1_000_000
            observer.pexpire(key, 500_000)
            await store.load("run", "publish")
            assert observer.pttl(key) <= 500_000  # reading does not prolong it
            await store.record("run", "publish", RECORD)
            assert observer.pttl(key) > 990_000
            observer.pexpire(key, 1)
            until(lambda: not observer.exists(key), "the run has expired")
            assert await store.load("run", "publish") is None
    with pytest.raises(ConfigError, match="ttl must be a number of seconds"):
        RedisStepStore(ttl=0)
    assert repr(RedisStepStore("redis://app:hunter2@db")) == "<RedisStepStore db:6379 namespace='fanwire'>"


def test_by_default_it_is_kept_for_a_week(namespace: str) -> None:
    async def main() -> None:
        async with RedisStepStore(server().url, namespace=namespace) as store:
            await store.record("run", "step", RECORD)

    asyncio.run(main())
    with server().client() as observer:
        assert 7 * 86_400 - 10 < observer.ttl(f"{{{namespace}:run}}:r") <= 7 * 86_400


@pytest.mark.anyio
@pytest.mark.parametrize("place", ["one-server", "cluster"])
async def test_hostile_ids(place: str, namespace: str) -> None:
    """Every pair has a record of its own, whatever is in the ids, and the transport's keys are not touched."""
    words = [
        "",
        "a",
        "a:b",
        "{a}",
        "}{",
        "}:s",
        "}:r",
        "a}:r",
        "*",
        "?",
        "a\r\nFLUSHALL\r\n",
        "\0",
        "\ud800",
        "é",
        "e\u0301",
        "x" * 70_000,
        "__keyspace@0__:x",
    ]
    topic: TopicRef[object] = TopicRef("a", "t")
    options = {"namespace": namespace}
    async with Realtime.from_url(PLACES[place](), options=options) as rt, RedisStepStore(PLACES[place](), namespace=namespace) as store:
        await rt.publish(topic, 1, key="k")
        pairs = [(run, step) for run in words for step in words]
        for number, (run, step) in enumerate(pairs):
            await store.record(run, step, StepRecord("run", None, None, b"%d" % number))
        found = [await store.load(run, step) for run, step in pairs]
        assert [record and record.data for record in found] == [b"%d" % number for number in range(len(pairs))]
        await store.forget("a")
        assert await store.load("a", "a") is None
        assert await store.load("a:b", "a") is not None
        assert [message.data for message in await rt.history(topic)] == [1]
        for run in words:
            await store.forget(run)
    with server().client() as observer:
        assert observer.keys(f"*{namespace}*}}:r") == []


@pytest.mark.anyio
async def test_a_record_may_be_so_large(namespace: str) -> None:
    async with RedisStepStore(server().url, namespace=namespace, max_record=1000) as store:
        head = len(b'[1,"run",null,null]\n')
        fits = StepRecord("run", None, None, b"1" * (1000 - head))
        assert await store.record("run", "fits", fits) == fits
        with pytest.raises(DeclarationError, match="step 'large' of run 'run' has 1,001 bytes to record, the store takes 1,000: return less"):
            await store.record("run", "large", fits._replace(data=fits.data + b"1"))
        assert await store.load("run", "large") is None
    with pytest.raises(ConfigError, match="max_record"):
        RedisStepStore(max_record=0)


@pytest.mark.anyio
async def test_what_is_not_its_own_is_told(namespace: str) -> None:
    key = f"{{{namespace}:run}}:r"
    async with RedisStepStore(server().url, namespace=namespace) as store:
        with server().client() as observer:
            observer.set(key, "a string")
            for call in (store.load("run", "step"), store.record("run", "step", RECORD)):
                with pytest.raises(ConfigError, match="holds something else than steps: WRONGTYPE") as caught:
                    await call
                assert isinstance(caught.value.__cause__, redis.ResponseError)
            await store.forget("run")
            observer.hset(key, mapping={"step": "somebody's", "array": "[1]\n", "newer": '[2,"run",null,null]\n1'})
            for step in ("step", "array"):
                with pytest.raises(ConfigError, match="holds something else than steps: choose another namespace, or delete the key"):
                    await store.load("run", step)
            with pytest.raises(ConfigError, match="another version of fanwire"):
                await store.record("run", "newer", RECORD)


# ---------------------------------------------------------------- a server that is away


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
async def test_without_a_server_it_is_unavailable_in_time(scheme: str) -> None:
    store = RedisStepStore(f"{scheme}://127.0.0.1:{free_ports()[0]}{'/x' if scheme == 'redis+sentinel' else ''}", timeout=0.2)
    began = time.monotonic()
    with pytest.raises(Unavailable, match=r"cannot be reached within 0\.2 s: no connection") as caught:
        await store.load("run", "step")
    assert 0.19 <= time.monotonic() - began < 2  # uvloop counts whole milliseconds
    assert isinstance(caught.value.__cause__, ConnectFailed)
    with pytest.raises(Unavailable):
        async with store:
            pass
    await store.aclose()
    with pytest.raises(ConfigError, match="timeout must be positive"):
        RedisStepStore(timeout=0)


@pytest.mark.anyio
async def test_a_server_that_comes_back_in_time_is_waited_for() -> None:
    own = RedisServer()
    own.start()
    try:
        async with RedisStepStore(own.url, timeout=20) as store:
            await store.record("run", "before", RECORD)
            own.stop()
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(store.record, "run", f"meanwhile-{number}", RECORD)
                await anyio.wait_all_tasks_blocked()
                await anyio.to_thread.run_sync(own.start)
            assert [await store.load("run", step) for step in ("before", "meanwhile-0", "meanwhile-2")] == [RECORD] * 3
            own.pause()
            impatient = RedisStepStore(own.url, timeout=0.2)
            with pytest.raises(Unavailable, match=r"within 0\.2 s, and nothing was answered"):
                await impatient.record("run", "paused", RECORD)
            own.resume()
            assert await impatient.record("run", "paused", RECORD) == RECORD
            assert await impatient.load("run", "before") == RECORD
            await impatient.aclose()
    finally:
        own.stop(signal.SIGKILL)


# ---------------------------------------------------------------- a server that refuses


@contextmanager
def user(*rules: str, clustered: bool = False) -> Generator[str]:
    """Make a user of the shared server or cluster; give the URL with its credentials."""
    who = f"u{secrets.token_hex(4)}"
    place = cluster() if clustered else server()
    with ExitStack() as stack:
        clients = [stack.enter_context(each.client()) for each in (cluster().servers if clustered else [server()])]
        for client in clients:
            client.execute_command("ACL SETUSER", who, "on", ">se:cr@et", *rules)
            stack.callback(client.execute_command, "ACL DELUSER", who)
        yield place.url.replace("//", f"//{who}:se%3Acr%40et@")


@pytest.mark.anyio
async def test_credentials(namespace: str) -> None:
    with user(f"~{{{namespace}:*", "-@all", "+@connection", "+hexists", "+hget", "+hset", "+pexpire", "+unlink", "+eval") as url:
        async with RedisStepStore(url, namespace=namespace) as store:  # no more than that is needed
            assert await store.record("run", "step", RECORD) == RECORD
            assert await store.load("run", "step") == RECORD
            await store.forget("run")
        async with RedisStepStore(server().url, namespace=namespace) as ours:
            await ours.record("run", "step", RECORD)
        await refused(url, PermissionDenied, "may not do that")  # in a namespace that is not its own
        await refused(url.replace("se%3A", "x"), Unauthenticated, "refuses the credentials")
    with user("~*", "-@all", "+@connection", "+eval", "+hget") as url:
        await refused(url, PermissionDenied, r"for steps grant it ~\{fanwire:\* \+eval \+hexists")  # in the script
    rights = ("+hexists", "+hget", "+hset", "+pexpire", "+unlink", "+eval", "+command", "+readonly")
    with user("~*", "-@all", *rights, "+cluster|slots", clustered=True) as url:
        async with RedisStepStore(url, namespace=namespace) as store:
            assert await store.record("run", "step", RECORD) == RECORD
    with user("~*", "-@all", *rights, clustered=True) as url:
        await refused(url, PermissionDenied, "for steps grant it")


@pytest.mark.anyio
async def test_the_wrong_kind_of_server() -> None:
    one, several = server(), cluster()
    await refused(one.url.replace("redis:", "redis+cluster:"), Unsupported, "is no cluster: use redis://")
    await refused(several.servers[0].url, Unsupported, r"is one server of a cluster: use redis\+cluster://")
    await refused(several.url.replace("//", "//nobody:secret@"), Unauthenticated, "refuses the credentials")
    await refused(f"{one.url}/99", ConfigError, "DB index is out of range")
    with pytest.raises(
        ConfigError, match="RedisStepStore takes a URL of the redis transport, such as redis://localhost:6379, not one of the memory transport"
    ):
        RedisStepStore("memory://")
    with pytest.raises(ConfigError, match="unknown option 'tsl'; did you mean"):
        RedisStepStore("redis://db?tsl=true")
    with pytest.raises(ConfigError, match="namespace"):
        RedisStepStore(namespace="a:b")


async def refused(url: str, error: type[FanwireError], text: str) -> None:
    """Expect an error that is not waited for."""
    store = RedisStepStore(url, timeout=60)
    with anyio.fail_after(10), pytest.raises(error, match=text) as caught:
        await store.record("run", "step", RECORD)
    assert "secret" not in str(caught.value)
    await store.aclose()


# ---------------------------------------------------------------- event loops, threads, processes


@pytest.fixture
def own() -> Iterator[str]:
    """The shared server's URL with a user of this test, whose connections can be told from others."""
    with user("~*", "+@all") as url:
        yield url


def connections(url: str) -> int:
    who = url.partition("//")[2].partition(":")[0]
    with server().client() as observer:
        return sum(found["user"] == who for found in observer.client_list())


async def recorded_over_a_connection(store: RedisStepStore, url: str) -> StepRecord:
    record = await store.record("run", "step", RECORD)
    assert connections(url) == 1
    return record


def test_a_store_is_usable_from_one_event_loop_after_another(namespace: str, own: str) -> None:
    store = RedisStepStore(own, namespace=namespace)
    for uvloop in (False, True, False):
        assert anyio.run(recorded_over_a_connection, store, own, backend_options={"use_uvloop": uvloop}) == RECORD
        until(lambda: connections(own) == 0, "the connections of the loop are closed with it")
    asyncio.run(store.aclose())
    with pytest.raises(Closed, match="is closed"):
        asyncio.run(store.load("run", "step"))


@pytest.mark.anyio
async def test_many_calls_share_a_few_connections(namespace: str, own: str) -> None:
    async with RedisStepStore(own, namespace=namespace) as store:
        async with anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(store.record, "run", str(number), RECORD)
        assert 1 <= connections(own) <= 16
        with server().client() as observer:
            assert observer.hlen(f"{{{namespace}:run}}:r") == 300


@pytest.mark.anyio
async def test_closing_closes_the_connections(namespace: str, own: str) -> None:
    async with RedisStepStore(own, namespace=namespace) as store:
        await store.record("run", "step", RECORD)
        assert connections(own) == 1
    until(lambda: connections(own) == 0, "they are closed")
    await store.aclose()


def test_a_client_belongs_to_one_event_loop(namespace: str) -> None:
    client = Redis.from_url(server().url)
    store = RedisStepStore(client, namespace=namespace)

    async def once() -> None:
        await store.record("run", "step", RECORD)
        await client.aclose()

    asyncio.run(once())
    with pytest.raises(WrongLoop, match="belongs to another event loop: make the store from a URL"):
        asyncio.run(store.load("run", "step"))


def test_trio_is_refused() -> None:
    with pytest.raises(Unsupported, match="under asyncio only; under trio use SQLiteStepStore"):
        anyio.run(RedisStepStore().load, "run", "step", backend="trio")


async def recorded_here_too(store: RedisStepStore, url: str) -> StepRecord | None:
    record = await store.load("order-17", "done")
    assert connections(url) == 2  # one on each loop
    return record


def test_from_blocking_code(namespace: str, own: str) -> None:
    """The façade has an event loop in a thread of its own; the same store is used there and here."""
    store = RedisStepStore(own, namespace=namespace)
    topic: TopicRef[object] = TopicRef("orders:17", "status")
    with BlockingRealtime.from_url(server().url, options={"namespace": namespace}) as rt:
        for attempt in range(2):
            run = rt.run("order-17", steps=store)
            assert run.step.publish("done", topic, attempt) == 0
            assert run.step.run("work", lambda: "x") == "x"
        assert asyncio.run(recorded_here_too(store, own)) == StepRecord("publish", "orders:17", "status", b"0")
    until(lambda: connections(own) == 0, "they are closed with the loops")


FORKING = """
import asyncio, gc, os, signal, sys, threading
from fanwire.runs import StepRecord
from fanwire_redis import RedisStepStore

store = RedisStepStore(sys.argv[1], namespace=sys.argv[2], timeout=5)
record = StepRecord("run", None, None, b"1")
in_thread = sys.argv[3] == "in-a-thread"
loop = asyncio.new_event_loop()
thread = threading.Thread(target=loop.run_forever, daemon=True)
if in_thread:
    thread.start()


def there(call):
    return asyncio.run_coroutine_threadsafe(call, loop).result(10) if in_thread else loop.run_until_complete(call)


def forked(work):
    child = os.fork()
    if not child:
        signal.alarm(10)  # hung: the default action ends it
        work()
        gc.collect()
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def use():
    assert asyncio.run(store.load("run", "parent")) == record
    asyncio.run(store.record("run", "child", record))
    asyncio.run(store.aclose())


def drop():
    global store
    del store


there(store.record("run", "parent", record))
for work in (lambda: None, use, drop) * 2:
    forked(work)
    assert there(store.load("run", "parent")) == record
assert there(store.load("run", "child")) == record
there(store.aclose())
if in_thread:
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
loop.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("where", ["in-a-thread", "in-the-main-thread"])
def test_a_store_used_before_a_fork_works_on_both_sides(where: str, namespace: str, tmp_path: Path) -> None:
    """Children end as programs do, with a tidy interpreter; the connection that they have inherited goes on in the parent."""
    (tmp_path / "forking.py").write_text(FORKING)
    # Python >= 3.12 warns of forks that are tested here.
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore:This process:DeprecationWarning",
        str(tmp_path / "forking.py"),
        server().url,
        namespace,
        where,
    ]
    result = subprocess.run(command, check=False, capture_output=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, b"")
