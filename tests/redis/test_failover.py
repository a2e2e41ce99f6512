"""A master that is replaced by its replica, behind sentinels and in a cluster, and slots that move: delivered or announced, as a plain client of the new master reads it."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import pytest
import redis

from fanwire import GapReason, Realtime, Start
from fanwire.errors import CursorExpired, Unavailable
from fanwire.hub import connection, history
from fanwire.testing.proxy import FaultProxy
from fanwire_redis import RedisOptions, RedisTransport
from tests.redis.scenes import (
    Books,
    Client,
    Watcher,
    account,
    audited,
    fresh_namespace,
    loops,
    opened,
    plain,
    room,
    running,
    stream_of,
    until,
    watching,
)
from tests.servers.redis import RedisCluster, RedisServer, Sentinels

anyio_backend = loops("asyncio")

A = "feed:a"
AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A replica's first copy is not waited for."""


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failover takes seconds, in which the waits between attempts would grow as long again."""
    monkeypatch.setattr(connection, "backoff", lambda _: 0.05)


@asynccontextmanager
async def under_way(rt: Realtime, url: str, namespace: str, *, after: int = 30) -> AsyncGenerator[tuple[Books, Watcher]]:
    """Subscribe, and publish all the while on connections of another's; at the end, wait until the last message that was accepted has come."""
    other = opened(url, namespace, history=100_000, timeout=25)
    books, stop = Books(other, room()), anyio.Event()
    async with other, watching(rt, room()) as watcher:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(books.go_on, stop)
            await watcher.reach(after)
            yield books, watcher
            goal = books.tried + 20
            await until(lambda: books.tried >= goal, "publishing goes on", 15)
            stop.set()
        await watcher.reach(max(books.accepted), 15)


def check(books: Books, watcher: Watcher, client: Client, namespace: str) -> int:
    """Compare the books, the subscriber and the stream; return how many accepted messages the stream has lost."""
    audit = audited(client, namespace, A)
    audit.check()
    account(watcher.told, books.accepted)
    assert not books.refused, f"not tried again: {books.refused}"
    lost = sorted(set(books.accepted) - set(audit.numbers))
    assert not lost or watcher.gaps, f"the stream has lost what was accepted, and nobody was told: {lost}"
    assert set(audit.numbers) <= set(books.accepted)
    kept = {number: receipt.id for number, receipt in books.accepted.items() if number not in set(lost)}
    assert kept == dict(zip(audit.numbers, audit.ids, strict=True))
    return len(lost)


# ---------------------------------------------------------------------- sentinels


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    """A master, a replica and a sentinel."""
    made = Sentinels()
    made.servers = [RedisServer(*AT_ONCE), RedisServer(*AT_ONCE)]
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.mark.anyio
async def test_a_failover_that_was_ordered(sentinels: Sentinels) -> None:
    namespace = fresh_namespace()
    before = sentinels.master()
    async with opened(sentinels.url, namespace, timeout=20) as rt, under_way(rt, sentinels.url, namespace) as (books, watcher):
        with RedisServer(port=sentinels.port).client() as client:
            client.execute_command("SENTINEL", "FAILOVER", "themaster")
        await until(lambda: sentinels.master() is not before, "the replica is the master")
        # Found by the probe: the sentinel takes longer than that until it tells the old master.
        await until(lambda: rt.stats().connections > 1 and rt.stats().state == "connected", "it has gone over", 10)
    with plain(sentinels.master()) as client:
        check(books, watcher, client, namespace)


@pytest.mark.anyio
async def test_a_master_that_is_killed(sentinels: Sentinels) -> None:
    namespace = fresh_namespace()
    before = sentinels.master()
    with plain(next(server for server in sentinels.servers if server is not before)) as client:
        await until(lambda: client.info("replication").get("master_link_status") == "up", "they are in step")
    try:
        async with opened(sentinels.url, namespace, timeout=20) as rt, under_way(rt, sentinels.url, namespace) as (books, watcher):
            before.stop(signal.SIGKILL)
            await until(lambda: sentinels.master() is not before, "the replica is the master", 15)
            await until(lambda: rt.stats().connections > 1 and rt.stats().state == "connected", "it has gone over", 15)
        with plain(sentinels.master()) as client:
            check(books, watcher, client, namespace)
    finally:
        before.start()


# ---------------------------------------------------------------------- a tail that is lost


@pytest.mark.anyio
@pytest.mark.parametrize("regrown", [0, 5, 10, 15], ids=["to-where-it-was", "still-behind", "to-the-cursor", "past-the-cursor"])
async def test_a_replica_that_lagged_is_promoted(regrown: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has 5 of 15 messages. What is published on it takes the numbers of those that were lost: only the marks tell."""
    monkeypatch.setattr(history, "_STALE_DEADLINE", 0.3)
    namespace = fresh_namespace()
    with running(*AT_ONCE) as master, running() as replica, plain(replica) as promoted:
        promoted.replicaof("127.0.0.1", master.port)
        await until(lambda: promoted.info("replication").get("master_link_status") == "up", "they are in step")
        async with FaultProxy(("127.0.0.1", master.port)) as proxy:
            rt = opened(f"redis://{proxy.host}:{proxy.port}", namespace)
            async with rt, watching(rt, room()) as watcher:
                books = Books(rt, room())
                await books.publish(5)
                await until(lambda: promoted.xlen(stream_of(namespace, A)) == 5, "the replica has 5")
                promoted.replicaof("NO", "ONE")
                await books.publish(10)
                await watcher.reach(15)
                await proxy.refuse()
                await proxy.cut()
                master.stop(signal.SIGKILL)
                proxy.target = ("127.0.0.1", replica.port)
                async with opened(replica.url, namespace) as other:
                    later = Books(other, room())
                    later.tried = 100
                    await later.publish(regrown)
                    proxy.accept()
                    await until(lambda: rt.stats().state == "connected", "it has gone over")
                    await until(lambda: bool(watcher.gaps), "the lost tail is announced")
                    await later.publish(15)
                    await watcher.reach(115 + regrown)
                    assert not later.refused
                with pytest.raises(CursorExpired):
                    async with rt.subscribe(room(), start=Start.after(books.accepted[12].cursor or "")):
                        pass
        audit = audited(promoted, namespace, A)
        audit.check()
        assert audit.numbers == [1, 2, 3, 4, 5, *range(101, 116 + regrown)]
        assert watcher.told[:15] == list(range(1, 16))
        account(watcher.told, [*books.accepted, *later.accepted])
        assert {gap.reason for gap in watcher.gaps} == {GapReason.RESET}
        assert len(watcher.gaps) == 1
        assert watcher.numbers[-15:] == list(range(101 + regrown, 116 + regrown)), "what came behind the gap is whole"


# ---------------------------------------------------------------------- a cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Three masters with a replica each, of these tests' own: their roles change."""
    made = RedisCluster()
    options = (
        "--cluster-enabled",
        "yes",
        "--cluster-node-timeout",
        "1000",
        "--shutdown-timeout",
        "0",
        *AT_ONCE,
    )  # the last but one: for replicas that are gone
    made.servers = [RedisServer(*options, port=server.port) for server in made.servers]
    try:
        made.start()
        yield made
    finally:
        made.stop()


class Place:
    """The servers that have, or may have, a channel."""

    def __init__(self, cluster: RedisCluster, namespace: str, channel: str) -> None:
        self.cluster = cluster
        with plain(cluster.servers[0]) as client:
            self.slot: int = client.execute_command("CLUSTER", "KEYSLOT", stream_of(namespace, channel))

    def ports(self) -> list[int]:
        """Return the ports of the channel's master and of its replicas, as a server that runs has them."""
        for server in self.cluster.servers:
            try:
                with plain(server) as client:
                    slots = client.execute_command("CLUSTER", "SLOTS")
            except redis.ConnectionError:
                continue
            for first, last, *servers in slots:
                if first <= self.slot <= last:
                    return [each[1] for each in servers]
        return []

    def master(self) -> RedisServer:
        """Return the channel's master."""
        return self._at(self.ports()[0])

    def replica(self) -> RedisServer:
        """Return its replica."""
        return self._at(self.ports()[1])

    def roles(self) -> dict[int, bool]:
        """Return whether each server is a master, by its port."""
        found = {}
        for server in self.cluster.servers:
            with plain(server) as client:
                found[server.port] = client.info("replication")["role"] == "master"
        return found

    def _at(self, port: int) -> RedisServer:
        return next(server for server in self.cluster.servers if server.port == port)

    def move(self) -> None:
        """Move the slot with its keys to another master, as ``redis-cli --cluster reshard`` does."""
        source = self.master()
        with plain(source) as client:
            nodes = self._masters(client)
        there, target = next((id, server) for id, server in nodes if server is not source)
        here = next(id for id, server in nodes if server is source)
        with plain(source) as old, plain(target) as new:
            new.execute_command("CLUSTER", "SETSLOT", self.slot, "IMPORTING", here)
            old.execute_command("CLUSTER", "SETSLOT", self.slot, "MIGRATING", there)
            while found := old.execute_command("CLUSTER", "GETKEYSINSLOT", self.slot, 100):
                old.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *found)
            for _, server in sorted(nodes, key=lambda node: node[1] is not target):
                with plain(server) as client:
                    client.execute_command("CLUSTER", "SETSLOT", self.slot, "NODE", there)

    def _masters(self, client: Client) -> list[tuple[str, RedisServer]]:
        found = client.execute_command("CLUSTER", "SLOTS")
        ids = {servers[0][1]: servers[0][2].decode() for _, _, *servers in found}
        return [(id, self._at(port)) for port, id in ids.items()]


@pytest.mark.anyio
async def test_a_cluster_hands_over_a_master(cluster: RedisCluster) -> None:
    """Ordered at the replica: the master waits until it has everything, so nothing is lost and no gap is told."""
    namespace = fresh_namespace()
    place = Place(cluster, namespace, A)
    async with opened(cluster.url, namespace, timeout=20) as rt, under_way(rt, cluster.url, namespace) as (books, watcher):
        await until(lambda: len(place.ports()) > 1, "its replica is known")
        replica = place.replica()
        with plain(replica) as client:
            client.execute_command("CLUSTER", "FAILOVER")
        await until(lambda: place.master() is replica, "the replica is the master")
        await until(lambda: rt.stats().connections > 1 and rt.stats().state == "connected", "it has gone over", 15)
    with plain(place.master()) as client:
        assert check(books, watcher, client, namespace) == 0
    assert not watcher.gaps


@pytest.mark.anyio
@pytest.mark.parametrize("subscribed", [True, False])
async def test_a_slot_that_moves(cluster: RedisCluster, subscribed: bool) -> None:
    """Under a subscriber and a publisher; and with neither, so that nobody tells before the channel is asked for."""
    namespace = fresh_namespace()
    place = Place(cluster, namespace, A)
    async with opened(cluster.url, namespace, history=100_000, timeout=20, connect_timeout=5) as rt:
        before = place.master()
        if subscribed:
            async with under_way(rt, cluster.url, namespace) as (books, watcher):
                place.move()
            assert not watcher.gaps
        else:
            books = Books(rt, room())
            await books.publish(10)
            place.move()
            async with watching(rt, room(), start=Start.EARLIEST) as watcher:
                await watcher.reach(10)
            assert [message.data for message in await rt.history(room(), start=Start.last(3))] == [8, 9, 10]
        await until(lambda: place.master() is not before, "the slot has moved")
    with plain(place.master()) as client:
        assert check(books, watcher, client, namespace) == 0


@pytest.mark.anyio
async def test_history_of_a_slot_that_has_moved(cluster: RedisCluster) -> None:
    """Whoever only reads has to find the new server as well: told once that it may try again, it must get there."""
    namespace = fresh_namespace()
    place = Place(cluster, namespace, A)
    async with opened(cluster.url, namespace, timeout=5) as rt:
        await rt.publish_many([room()(number) for number in range(1, 6)])
        place.move()
        found: list[int] = []

        async def read() -> None:
            while not found:
                try:
                    found.extend([message.data for message in await rt.history(room(), start=Start.EARLIEST)])
                except Unavailable:
                    await anyio.sleep(0.01)

        with anyio.fail_after(5):
            await read()
        assert found == [1, 2, 3, 4, 5]


@pytest.mark.anyio
async def test_left_and_entered_again_at_once(cluster: RedisCluster) -> None:
    """The answer to leaving comes behind the question to enter: it is no sign that a slot has moved."""
    namespace = fresh_namespace()
    transport = RedisTransport(RedisOptions.model_validate({"url": cluster.url, "namespace": namespace}))
    async with Realtime(transport, linger=0.0) as rt, opened(cluster.url, namespace) as other:
        for number in range(1, 21):
            async with watching(rt, room()) as watcher:
                await other.publish(room(), number)
                await watcher.reach(number)
        assert rt.stats().connections == 1


@pytest.mark.anyio
async def test_all_of_a_cluster_is_restarted_with_its_data(cluster: RedisCluster) -> None:
    """As for an upgrade: the servers end in order, all at once, and come back in the roles they had."""
    namespace = fresh_namespace()
    place = Place(cluster, namespace, A)
    await until(lambda: len(place.ports()) > 1, "its replica is known")
    roles = place.roles()
    elsewhere = [room(title) for title in "bcdefgh"]
    async with opened(cluster.url, namespace, timeout=25) as rt, watching(rt, *elsewhere) as others:
        async with under_way(rt, cluster.url, namespace) as (books, watcher):
            await rt.publish_many([ref(1) for ref in elsewhere])
            await anyio.to_thread.run_sync(cluster.restart, roles)
            await rt.publish_many([ref(2) for ref in elsewhere], timeout=25)
        assert place.roles() == roles
        await until(lambda: others.numbers.count(2) == len(elsewhere), "the other channels go on")
        assert others.numbers.count(1) == len(elsewhere)
        assert not others.gaps
    with plain(place.master()) as client:
        assert check(books, watcher, client, namespace) == 0
    assert not watcher.gaps


@pytest.mark.anyio
async def test_a_cluster_replaces_a_master_that_was_killed(cluster: RedisCluster) -> None:
    namespace = fresh_namespace()
    place = Place(cluster, namespace, A)
    await until(lambda: len(place.ports()) > 1, "its replica is known")
    before = place.master()
    async with opened(cluster.url, namespace, timeout=20) as rt, under_way(rt, cluster.url, namespace) as (books, watcher):
        before.stop(signal.SIGKILL)
        await until(lambda: place.ports()[:1] != [before.port], "the replica is the master", 15)
        await until(lambda: rt.stats().connections > 1 and rt.stats().state == "connected", "it has gone over", 15)
    with plain(place.master()) as client:
        check(books, watcher, client, namespace)
