"""What may befall one server: nothing is silently lost or comes twice, as a plain client of the server reads it."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence

import anyio
import pytest

from fanwire import Gap, GapReason, Realtime
from fanwire.errors import ConnectionLost, FanwireError, Timeout, Unavailable
from fanwire.hub import connection
from fanwire.testing.proxy import FaultProxy
from fanwire_redis import RedisOptions
from tests.redis.detour import Detour
from tests.redis.scenes import (
    Books,
    Client,
    Feed,
    account,
    audited,
    beyond,
    connections_of,
    fresh_namespace,
    loops,
    opened,
    plain,
    room,
    running,
    server,
    stream_of,
    until,
    watching,
)
from tests.servers.processes import free_ports

anyio_backend = loops("asyncio")

A = "feed:a"


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections come back without a wait, for tests that break many."""
    monkeypatch.setattr(connection, "backoff", lambda _: 0.01)


async def in_thread(call: object, *arguments: object) -> None:
    """Call something that takes its time, while everything else goes on."""
    assert callable(call)
    await anyio.to_thread.run_sync(call, *arguments)


def kill(client: Client, ids: Sequence[str]) -> None:
    """Break connections at the server."""
    for id in ids:
        client.client_kill_filter(_id=id)


# ---------------------------------------------------------------------- the server dies


@pytest.mark.anyio
async def test_killed_and_started_with_its_data() -> None:
    """Published all the while, also before the subscriber is back: no gap, nothing twice, everything in the stream."""
    namespace = fresh_namespace()
    with running("--appendfsync", "always") as own:
        async with FaultProxy(("127.0.0.1", own.port)) as proxy:
            rt, other = opened(f"redis://127.0.0.1:{proxy.port}", namespace), opened(own.url, namespace, timeout=20)
            async with rt, other, watching(rt, room()) as watcher, anyio.create_task_group() as tasks:
                books, stop = Books(other, room()), anyio.Event()
                tasks.start_soon(books.go_on, stop)
                await watcher.reach(20)
                for _ in range(2):
                    await proxy.refuse()
                    await in_thread(own.stop, signal.SIGKILL)
                    await until(lambda: rt.stats().state == "disconnected", "the loss is noticed")
                    await in_thread(own.start)
                    seen = books.tried
                    await beyond(lambda: len(books.accepted), seen + 20, "publishing goes on")
                    proxy.accept()
                    await watcher.reach(seen + 40)
                stop.set()
                await until(lambda: len(books.accepted) + len(books.refused) == books.tried, "the books are complete")
                await watcher.reach(books.tried)
        with plain(own) as client:
            audit = audited(client, namespace, A)
        audit.check()
        assert not books.refused
        assert watcher.told == audit.numbers == list(range(1, books.tried + 1))
        assert watcher.ids == audit.ids


@pytest.mark.anyio
async def test_killed_and_started_without_its_data() -> None:
    """Exactly one gap for each channel, in its place; what was accepted before is known to be lost or was delivered."""
    namespace = fresh_namespace()
    refs = [room(title) for title in "abc"]
    with running() as own:
        async with opened(own.url, namespace, timeout=20) as rt, watching(rt, refs[0]) as a, watching(rt, refs[1]) as b, watching(rt, refs[2]) as c:
            for ref in refs:
                await rt.publish_many([ref(number) for number in range(1, 6)])
            for watcher in (a, b, c):
                await watcher.reach(5)
            await in_thread(lambda: own.restart(keep=False, how=signal.SIGKILL))
            for ref in refs:
                await rt.publish_many([ref(number) for number in range(6, 11)])
            for watcher in (a, b, c):
                await watcher.reach(10)
                assert [gap.reason for gap in watcher.gaps] == [GapReason.RESET], watcher.told
                assert watcher.told[5] is watcher.gaps[0]
                assert watcher.numbers == list(range(1, 11))
        with plain(own) as client:
            audit = audited(client, namespace, A)
        audit.check()
        assert audit.numbers == [6, 7, 8, 9, 10]


@pytest.mark.anyio
async def test_paused_for_longer_than_the_probe() -> None:
    """A connection that is half open is found in time, and repaired once the server goes on; what it still had in its sockets is not done twice."""
    namespace = fresh_namespace()
    with running() as own:
        async with opened(own.url, namespace, probe=0.2, timeout=20, history=100_000) as rt, watching(rt, room()) as watcher:
            books = Books(rt, room())
            await books.publish(10)
            own.pause()
            try:
                began = time.monotonic()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(books.burst, 2000)
                    await until(lambda: rt.stats().state != "connected", "the connection is given up")
                    assert time.monotonic() - began < 2.0
                    await until(lambda: rt._engine is not None and rt._engine.connection._attempt >= 1, "another is made")
                    own.resume()
            finally:
                own.resume()
            await books.publish(10)
            await watcher.reach(2020, 15)
        with plain(own) as client:
            audit = audited(client, namespace, A)
        assert not books.refused
        assert watcher.told == list(range(1, 2021))
        assert audit.numbers[-1] == 2020
        audit.check()


def test_a_half_open_connection_is_found_within_15_seconds_by_default() -> None:
    """A probe is sent after ``probe`` seconds and waited for as long; that these two are all is shown with shorter ones."""
    assert 2 * RedisOptions().probe <= 15


@pytest.mark.anyio
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_a_network_that_lets_nothing_through_one_way(direction: str) -> None:
    namespace = fresh_namespace()
    async with FaultProxy(("127.0.0.1", server().port)) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with opened(url, namespace, probe=0.2) as rt, opened(server().url, namespace) as other, watching(rt, room()) as watcher:
            books = Books(other, room())
            await books.publish(5)
            await watcher.reach(5)
            proxy.stall("up" if direction == "up" else "down")
            await until(lambda: rt.stats().state != "connected", "the connection is given up", 2.0)
            await books.publish(5)
            proxy.resume()
            await watcher.reach(10)
            assert watcher.told == list(range(1, 11))


# ---------------------------------------------------------------------- connections are cut


@pytest.mark.anyio
async def test_a_slow_connection_that_the_server_cuts_is_repaired() -> None:
    """The server gives up a subscriber whose output buffer is full, and says nothing; history has what it missed."""
    namespace = fresh_namespace()
    with running("--client-output-buffer-limit", "pubsub 256kb 0 0") as own:
        async with FaultProxy(("127.0.0.1", own.port)) as proxy:
            url = f"redis://{proxy.host}:{proxy.port}"
            async with opened(url, namespace, probe=5.0) as rt, opened(own.url, namespace) as other:
                ref = Feed(title="a").text
                async with rt.subscribe(ref).with_gaps() as items:
                    with plain(own) as client:
                        before = set(connections_of(client, namespace))
                        proxy.stall("down")
                        text = "x" * 10_000
                        sent = 0
                        while before <= set(connections_of(client, namespace)):
                            assert sent < 2000, "the server cuts no connection"
                            await other.publish_many([ref(f"{sent + each} {text}") for each in range(10)])
                            sent += 10
                        proxy.resume()
                    with anyio.fail_after(10):
                        found = [await anext(items) for _ in range(sent)]
                assert [getattr(item, "data", "gap?").partition(" ")[0] for item in found] == [str(each) for each in range(sent)]
                assert rt.stats().connections == 2


@pytest.mark.anyio
@pytest.mark.parametrize("count", [40, 512])
async def test_an_answer_that_is_lost_is_asked_for_again(count: int) -> None:
    """A batch the server has accepted, and whose answer never comes: the retry finds it in the stream, all of it."""
    namespace = fresh_namespace()
    async with FaultProxy(("127.0.0.1", server().port)) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with opened(url, namespace) as rt, opened(server().url, namespace) as other, watching(other, room()) as watcher:
            books = Books(rt, room())
            await books.publish()
            proxy.truncate(0)
            await books.burst(count)
            await watcher.reach(count + 1)
            assert rt.stats().connections == 2
            with plain(server()) as client:
                audit = audited(client, namespace, A)
            audit.check()
            assert not books.refused
            assert watcher.told == list(range(1, count + 2))
            assert {number: receipt.id for number, receipt in books.accepted.items()} == dict(zip(audit.numbers, audit.ids, strict=True))


@pytest.mark.anyio
async def test_an_answer_that_is_lost_where_little_is_kept() -> None:
    """Of a batch longer than the history, the server has forgotten the beginning by the time of the retry; what is left shows that all was accepted."""
    namespace = fresh_namespace()
    async with FaultProxy(("127.0.0.1", server().port)) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with opened(url, namespace, history=5) as rt, opened(server().url, namespace) as other, watching(other, room()) as watcher:
            books = Books(rt, room())
            await books.publish()
            with plain(server()) as client:
                client.config_set("stream-node-max-entries", 5)  # so that it is trimmed to the entry
                try:
                    proxy.truncate(0)
                    await books.burst(40)
                finally:
                    client.config_set("stream-node-max-entries", 100)
            await books.publish()
            await watcher.reach(42)
            assert watcher.told == list(range(1, 43))
            assert not books.refused


@pytest.mark.anyio
async def test_an_answer_that_is_lost_where_the_message_is_trimmed() -> None:
    """Nothing shows any more whether it was accepted: that is told, and it is not published again."""
    namespace = fresh_namespace()
    with running("--stream-node-max-entries", "5") as own:
        other = opened(own.url, namespace, history=5)
        async with FaultProxy(("127.0.0.1", own.port)) as proxy, other, watching(other, room()) as watcher:
            rt = opened(f"redis://{proxy.host}:{proxy.port}", namespace, history=5)
            async with rt:
                books = Books(rt, room())
                await books.publish()
                proxy.truncate(0)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(books.publish)
                    await watcher.reach(2)
                    await proxy.refuse()
                    await other.publish_many([room()(number) for number in range(3, 53)])
                    proxy.accept()
                assert isinstance(books.refused[2], ConnectionLost)
                assert "unknown" in str(books.refused[2])
                await other.publish(room(), 53)
                await watcher.reach(53)
                assert watcher.told == list(range(1, 54))


@pytest.mark.anyio
@pytest.mark.parametrize("turned_away", [0, 2])
async def test_bytes_that_arrive_behind_their_own_retry(turned_away: int) -> None:
    """A network that holds back what is on its way, until the connection was given up and the publish retried by another route: the late one must not count."""
    namespace = fresh_namespace()
    with running() as own, plain(own) as client:
        other = opened(own.url, namespace)
        async with Detour("127.0.0.1", own.port) as detour, other, watching(other, room()) as watcher:
            rt = opened(f"redis://127.0.0.1:{detour.port}", namespace, probe=0.2)
            async with rt:
                await rt.publish(room(), 1)
                before = set(connections_of(client, namespace))
                detour.hold()
                detour.turned_away = turned_away  # attempts that fail, before one does not
                await rt.publish(room(), 2)
                await rt.publish(room(), 3)
                assert rt.stats().connections == 2
                await detour.release()
                await until(lambda: len(before & set(connections_of(client, namespace))) == 2, "the server has seen the end of the old ones")
                await rt.publish(room(), 4)
                await watcher.reach(4)
        audit = audited(client, namespace, A)
        audit.check()
        assert audit.numbers == [1, 2, 3, 4]
        assert watcher.told == [1, 2, 3, 4]


@pytest.mark.anyio
async def test_a_retry_finds_its_message_behind_those_of_others() -> None:
    namespace = fresh_namespace()
    async with FaultProxy(("127.0.0.1", server().port)) as proxy:
        async with opened(f"redis://{proxy.host}:{proxy.port}", namespace) as rt, opened(server().url, namespace) as other:
            await rt.publish(room(), 1)
            proxy.truncate(0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(rt.publish, room(), 2)
                await until(lambda: rt.stats().state != "connected" or proxy.accepted > 2, "the answer is lost")
                await proxy.refuse()
                await other.publish_many([room()(number) for number in range(3, 603)])
                proxy.accept()
        with plain(server()) as client:
            audit = audited(client, namespace, A)
    assert len(set(audit.ids)) == len(audit.ids), "twice"
    assert sorted(audit.numbers) == list(range(1, 603))


@pytest.mark.anyio
@pytest.mark.usefixtures("at_once")
async def test_connections_killed_in_the_middle_of_everything() -> None:
    """The one that publishes, the one for subscriptions, at any time: the books, the subscriber and the stream agree."""
    namespace = fresh_namespace()
    async with opened(server().url, namespace, history=100_000) as rt, watching(rt, room()) as watcher, anyio.create_task_group() as tasks:
        books, stop = Books(rt, room()), anyio.Event()

        async def go_on() -> None:
            while not stop.is_set() and not books.refused:
                await books.burst(300)

        tasks.start_soon(go_on)
        with plain(server()) as client:
            for turn in range(12):
                connections = rt.stats().connections
                kill(client, connections_of(client, namespace, publishing=turn % 2 == 0))
                await beyond(lambda: rt.stats().connections, connections, "it has connected again")
                goal = books.tried
                await watcher.reach(goal)
        stop.set()
        await until(lambda: len(books.accepted) + len(books.refused) == books.tried, "the books are complete")
        await watcher.reach(books.tried)
        with plain(server()) as client:
            audit = audited(client, namespace, A)
        assert not books.refused
        audit.check()
        assert audit.numbers == list(range(1, books.tried + 1))
        assert watcher.told == audit.numbers
        assert [books.accepted[number].id for number in audit.numbers] == audit.ids


@pytest.mark.anyio
async def test_without_history_each_channel_is_told_one_gap() -> None:
    """At the place where the connection was down; and what is published behind it comes."""
    namespace = fresh_namespace()
    refs = [room(title) for title in "abc"]
    rt, other = opened(server().url, namespace, history=0), opened(server().url, namespace, history=0)
    async with rt, other, watching(rt, refs[0]) as a, watching(rt, refs[1]) as b, watching(rt, refs[2]) as c:
        for number in (1, 2):
            connections = rt.stats().connections
            for ref in refs:
                await other.publish(ref, number)
            for watcher in (a, b, c):
                await watcher.reach(number)
            with plain(server()) as client:
                kill(client, connections_of(client, namespace, publishing=False))
            await beyond(lambda: rt.stats().connections, connections, "it has connected again")
            await beyond(lambda: min(len(watcher.gaps) for watcher in (a, b, c)), number - 1, "each is told")
        for ref in refs:
            await other.publish(ref, 3)
        for watcher in (a, b, c):
            await watcher.reach(3)
            assert [gap.reason if isinstance(gap, Gap) else gap for gap in watcher.told] == [
                1,
                GapReason.DISCONNECTED,
                2,
                GapReason.DISCONNECTED,
                3,
            ]


# ---------------------------------------------------------------------- data go


@pytest.mark.anyio
async def test_flushed_under_live_subscribers() -> None:
    namespace = fresh_namespace()
    with running() as own, plain(own) as client:
        async with (
            opened(own.url, namespace) as rt,
            opened(own.url, namespace) as other,
            watching(rt, room()) as watcher,
            watching(rt, room("b")) as b,
        ):
            books = Books(other, room())
            await books.publish(5)
            await other.publish(room("b"), 1)
            await watcher.reach(5)
            client.flushall()
            await books.publish(5)
            await other.publish(room("b"), 2)
            await watcher.reach(10)
            await b.reach(2)
            for found in (watcher, b):
                assert [gap.reason for gap in found.gaps] in ([], [GapReason.RESET]), found.told
            assert watcher.numbers == list(range(1, 11))
            client.flushall()
            kill(client, connections_of(client, namespace))  # both at once: whoever comes back finds nothing
            await books.publish(5)
            await watcher.reach(15)
            account(watcher.told, books.accepted)
            assert GapReason.RESET in {gap.reason for gap in watcher.gaps}
            audited(client, namespace, A).check()


@pytest.mark.anyio
async def test_flushed_and_published_within_a_millisecond() -> None:
    """A stream that begins anew is never taken for the one before."""
    namespace = fresh_namespace()
    with running() as own, plain(own) as client:
        async with opened(own.url, namespace) as rt, watching(rt, room()) as watcher:
            epochs: set[str] = set()
            for number in range(1, 101):
                receipt = await rt.publish(room(), number)
                assert receipt.cursor is not None
                epochs.add(receipt.cursor.epoch)
                client.flushall()
            await watcher.reach(100)
            assert len(epochs) == 100
            assert watcher.numbers == list(range(1, 101))


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["DEL", "UNLINK", "PEXPIRE"])
async def test_keys_that_go_one_by_one(how: str) -> None:
    """As a server out of memory takes them: streams and idempotency keys, each alone, under subscribers that are live and those that were away."""
    namespace = fresh_namespace()
    async with opened(server().url, namespace) as rt, opened(server().url, namespace) as other, watching(rt, room()) as watcher:
        with plain(server()) as client:
            books = Books(other, room())
            await books.publish(3)
            await other.publish(room(), 4, key="once")
            books.tried = 4
            keys = sorted(client.keys(f"{{{namespace}:*"))
            assert len(keys) == 2, "a stream and an idempotency key"
            for key in keys:
                client.execute_command(how, key, *(["0"] if how == "PEXPIRE" else []))
                again = await other.publish(room(), 4, key="once")
                assert again.duplicate == key.endswith(b":s")
                if not again.duplicate:
                    books.tried = 5
                await books.publish(3)
            await watcher.reach(books.tried)
            assert all(gap.reason is GapReason.RESET for gap in watcher.gaps)
            assert len(watcher.gaps) <= 1
            assert audited(client, namespace, A).positions


@pytest.mark.anyio
async def test_evicted_by_a_server_that_is_full() -> None:
    """allkeys-lru takes any stream at any time. Publishing goes on, and every subscriber is told."""
    namespace = fresh_namespace()
    with running("--maxmemory-policy", "allkeys-random") as own, plain(own) as client:
        titles = [f"r{each}" for each in range(40)]
        refs = [room(title) for title in titles]
        rt, other = opened(own.url, namespace), opened(own.url, namespace)
        async with rt, other, watching(rt, *refs) as watcher:
            books = dict.fromkeys(titles, 0)

            async def everywhere(count: int) -> None:
                for _ in range(count):
                    for title in titles:
                        books[title] += 1
                    await other.publish_many([room(title)(books[title]) for title in titles])

            await everywhere(20)
            client.config_set("maxmemory", client.info("memory")["used_memory"] - 64_000)
            await everywhere(20)
            client.config_set("maxmemory", 0)
            assert client.info("stats")["evicted_keys"] > 0
            kill(client, connections_of(client, namespace))
            await everywhere(2)
            await until(lambda: sum(number == 42 for number in watcher.numbers) == len(titles), "all has come")
            for title in titles:
                channel = Feed(title=title).name
                account([item if isinstance(item, Gap) else item.data for item in watcher.items if item.channel == channel], range(1, 43))
                audited(client, namespace, channel).check()
            assert watcher.gaps


# ---------------------------------------------------------------------- scripts go


def errors(client: Client, code: str) -> int:
    """Count the errors that the server has answered."""
    found: int = client.info("errorstats").get(f"errorstat_{code}", {"count": 0})["count"]
    return found


@pytest.mark.anyio
async def test_scripts_flushed_while_batches_are_under_way() -> None:
    namespace = fresh_namespace()
    with running() as own, plain(own) as client:
        async with opened(own.url, namespace, history=100_000) as rt, watching(rt, room()) as watcher, anyio.create_task_group() as tasks:
            books, stop = Books(rt, room()), anyio.Event()

            async def go_on() -> None:
                while not stop.is_set() and not books.refused:
                    for count in (1, 60, 200):
                        await books.burst(count)

            tasks.start_soon(go_on)
            while errors(client, "NOSCRIPT") < 20:
                client.script_flush()
                seen = len(books.accepted)
                assert seen < 60_000, "no call ever missed its script"
                await beyond(lambda: len(books.accepted), seen, "publishing goes on", 5)
            stop.set()
            await until(lambda: len(books.accepted) + len(books.refused) == books.tried, "the books are complete")
            await watcher.reach(books.tried)
            audit = audited(client, namespace, A)
            assert not books.refused
            audit.check()
            assert audit.numbers == list(range(1, books.tried + 1))
            assert watcher.told == audit.numbers


# ---------------------------------------------------------------------- refusals


async def outcome(rt: Realtime, number: int) -> FanwireError | None:
    """Publish, and return the error."""
    try:
        await rt.publish(room(), number)
    except FanwireError as error:
        return error
    return None


@pytest.mark.anyio
async def test_a_server_out_of_memory_says_so() -> None:
    namespace = fresh_namespace()
    with running("--maxmemory-policy", "noeviction") as own, plain(own) as client:
        async with opened(own.url, namespace) as rt, watching(rt, room()) as watcher:
            await rt.publish(room(), 1)
            client.config_set("maxmemory", 1)
            error = await outcome(rt, 2)
            assert isinstance(error, Unavailable)
            assert not isinstance(error, ConnectionLost), "the outcome is known: it was refused"
            assert error.retryable
            assert "memory" in str(error)
            client.config_set("maxmemory", 0)
            await rt.publish(room(), 3)
            await watcher.reach(3)
            assert watcher.told == [1, 3]
            assert audited(client, namespace, A).numbers == [1, 3]
            assert rt.stats().connections == 1


@pytest.mark.anyio
async def test_memory_that_comes_and_goes_reorders_nothing() -> None:
    """Refused between two calls of one burst: nothing behind the refused is accepted before it, and nothing twice."""
    namespace = fresh_namespace()
    with running("--maxmemory-policy", "noeviction") as own:
        async with opened(own.url, namespace, history=100_000, timeout=20) as rt, watching(rt, room()) as watcher:
            books = Books(rt, room())
            stop = anyio.Event()

            def toggle() -> None:
                with plain(own) as client:
                    while not stop.is_set():
                        client.config_set("maxmemory", 1)
                        client.config_set("maxmemory", 0)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(in_thread, toggle)
                while len(books.refused) < 30:
                    await books.burst(1024)
                    assert books.tried < 200_000, "nothing was ever refused"
                stop.set()
            await books.publish()
            await watcher.reach(books.tried)
            with plain(own) as client:
                audit = audited(client, namespace, A)
            audit.check()
            assert set(audit.numbers) == set(books.accepted), "what was refused is there, or what was accepted is not"
            assert watcher.told == audit.numbers
            assert all(isinstance(error, Unavailable) for error in books.refused.values())


@pytest.mark.anyio
async def test_too_few_replicas() -> None:
    namespace = fresh_namespace()
    with running() as own, plain(own) as client:
        async with opened(own.url, namespace, timeout=1.0) as rt, watching(rt, room()) as watcher:
            await rt.publish(room(), 1)
            client.config_set("min-replicas-to-write", 1)
            error = await outcome(rt, 2)
            assert isinstance(error, Unavailable)
            assert not isinstance(error, ConnectionLost), "the outcome is known: it was refused"
            assert "replicas" in str(error)
            client.config_set("min-replicas-to-write", 0)
            await rt.publish(room(), 3)
            await watcher.reach(3)
            assert watcher.told == [1, 3]


@pytest.mark.anyio
async def test_a_server_that_becomes_a_replica_and_a_master_again() -> None:
    """Nothing can be published meanwhile, and that is no defect; afterwards it goes on."""
    namespace = fresh_namespace()
    with running() as own, running("--repl-diskless-sync-delay", "0") as master, plain(own) as client:
        async with opened(own.url, namespace, timeout=0.5) as rt, watching(rt, room()) as watcher:
            books = Books(rt, room())
            await books.publish(3)
            client.replicaof("127.0.0.1", master.port)
            await books.publish()
            (error,) = books.refused.values()
            assert isinstance(error, Unavailable | Timeout), error
            assert error.retryable
            client.replicaof("NO", "ONE")
            await until(lambda: rt.stats().state == "connected", "it has connected again")
            await books.publish(3)
            await watcher.reach(7)
            account(watcher.told, books.accepted)
            audited(client, namespace, A).check()


@pytest.mark.anyio
async def test_a_replica_that_has_lost_its_master() -> None:
    """It answers nothing but that. Whether that is waited for or told, it may be tried again, and is when the server answers."""
    namespace = fresh_namespace()
    (nobody,) = free_ports()
    with running("--replica-serve-stale-data", "no") as own, plain(own) as client:
        async with opened(own.url, namespace, timeout=0.5) as rt:
            client.replicaof("127.0.0.1", nobody)
            error = await outcome(rt, 1)
            assert isinstance(error, Unavailable | Timeout)
            assert error.retryable
            client.replicaof("NO", "ONE")
            await until(lambda: rt.stats().state == "connected", "it has connected again")
            await rt.publish(room(), 2)
            assert audited(client, namespace, A).numbers == [2]


@pytest.mark.anyio
async def test_a_key_that_holds_something_else() -> None:
    namespace = fresh_namespace()
    with plain(server()) as client:
        client.set(stream_of(namespace, A), "mine")
        async with opened(server().url, namespace) as rt:
            with pytest.raises(FanwireError, match="namespace"), anyio.fail_after(3):
                await rt.publish(room(), 1)
            with pytest.raises(FanwireError, match="namespace"), anyio.fail_after(3):
                async with rt.subscribe(room()):
                    pass
            await rt.publish(room("b"), 1)


@pytest.mark.anyio
async def test_a_server_that_still_loads_is_waited_for() -> None:
    """It accepts connections long before it answers."""
    namespace = fresh_namespace()
    with running("--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024") as own:
        async with opened(own.url, namespace, timeout=20) as rt, watching(rt, room()) as watcher:
            await rt.publish(room(), 1)
            with plain(own) as client:
                pipe = client.pipeline(transaction=False)
                for each in range(3000):
                    pipe.set(f"filler-{each}", "x" * 100)
                pipe.execute()
            own.stop(signal.SIGKILL)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(in_thread, own.start)
                await rt.publish(room(), 2)
            await watcher.reach(2)
            assert watcher.told == [1, 2]
