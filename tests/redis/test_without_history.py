"""Publishing without history: batches as transactions, what refuses them, and users who may not have any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from fanwire import Cursor, GapReason, Receipt
from fanwire.errors import ConnectionLost, PartialPublish, PermissionDenied, Unavailable
from fanwire.transport import Outbound
from fanwire_redis import RedisOptions
from fanwire_redis.names import Names
from fanwire_redis.remembered import Remembered
from fanwire_redis.shard import Shard
from fanwire_redis.wire import ServerError, Wire, pack_publishes
from tests.redis.harness import cluster
from tests.redis.scenes import connections_of, fresh_namespace, loops, opened, plain, room, running, until, watching, works
from tests.servers.redis import RedisServer

anyio_backend = loops("asyncio", "asyncio+uvloop")


@asynccontextmanager
async def user(*rules: str) -> AsyncGenerator[tuple[RedisServer, str, str]]:
    """Start a server with a user who may only that; yield server, namespace and URL."""
    namespace = fresh_namespace()
    with running() as own:
        allow(own, namespace, "reset", "on", ">sesam", "-@all", *(rule.replace("NS", namespace) for rule in rules))
        yield own, namespace, f"redis://{namespace}:sesam@127.0.0.1:{own.port}"


def allow(server: RedisServer, name: str, *rules: str) -> None:
    with plain(server) as client:
        client.execute_command("ACL", "SETUSER", name, *rules)


LEAST = ("&{NS:*", "+ping", "+subscribe", "+unsubscribe", "+publish")


def calls_of(server: RedisServer, command: str, which: str = "calls") -> int:
    """Return how often the server has carried out a command, or refused it."""
    with plain(server) as client:
        found: dict[str, Any] = client.info("commandstats").get(f"cmdstat_{command}", {which: 0})  # Any: as redis-py reads it
    calls: int = found[which]
    return calls


@pytest.mark.anyio
async def test_a_user_without_transactions_publishes_one_by_one() -> None:
    async with user(*LEAST) as (own, namespace, url), opened(url, namespace, history=0) as rt:
        await works(rt)
        await works(rt, "b")
        assert rt.stats().connections == 1
        assert calls_of(own, "exec") == 0
        assert calls_of(own, "multi", "rejected_calls") == 1, "it is not tried again"


@pytest.mark.anyio
async def test_a_user_who_may_begin_a_transaction_and_not_end_it() -> None:
    """As by the server's categories: ``MULTI`` is fast, and ``EXEC`` is slow."""
    async with user(*LEAST, "+multi") as (own, namespace, url), opened(url, namespace, history=0) as rt:
        await works(rt)
        await works(rt, "b")
        assert calls_of(own, "exec", "rejected_calls") == 1, "it is not tried again"
        assert rt.stats().connections == 1


@pytest.mark.anyio
async def test_a_batch_is_one_transaction() -> None:
    async with user(*LEAST, "+multi", "+exec") as (own, namespace, url), opened(url, namespace, history=0) as rt:
        await works(rt)  # 98 of its messages are one batch
        assert calls_of(own, "exec") == 1
        async with watching(rt, room("a")) as a, watching(rt, room("b")) as b:
            await rt.publish_many([room("ab"[n % 2])(n) for n in range(200)])
            await b.reach(199)
            await a.reach(198)
        assert a.told == list(range(0, 200, 2))
        assert b.told == list(range(1, 200, 2))
        assert calls_of(own, "exec") == 2, "channels share one"


@pytest.mark.anyio
async def test_a_channel_that_is_refused_leaves_others_of_the_same_transaction_alone() -> None:
    rules = ("&{NS:feed:a}", "&{NS:feed:c}", *LEAST[1:], "+multi", "+exec")
    async with (
        user(*rules) as (_, namespace, url),
        opened(url, namespace, history=0) as rt,
        watching(rt, room("a")) as a,
        watching(rt, room("c")) as c,
    ):
        with pytest.raises(PartialPublish) as raised:
            await rt.publish_many([room("abc"[n % 3])(n) for n in range(30)])
        for n, result in enumerate(raised.value.results):
            assert isinstance(result, Unavailable if n > 1 and n % 3 == 1 else PermissionDenied if n == 1 else Receipt), f"{n}: {result!r}"
        await a.reach(27)
        await c.reach(29)
        assert a.told == list(range(0, 30, 3))
        assert c.told == list(range(2, 30, 3))
        assert rt.stats().connections == 1


@pytest.mark.anyio
async def test_transactions_that_are_forbidden_later() -> None:
    """The commands of the next one are carried out on their own: all of them, and once."""
    async with user(*LEAST, "+multi", "+exec") as (own, namespace, url), opened(url, namespace, history=0) as rt, watching(rt, room()) as watcher:
        await rt.publish_many([room()(n) for n in range(1, 11)])
        allow(own, namespace, "-multi", "-exec")
        await rt.publish_many([room()(n) for n in range(11, 21)])
        await rt.publish_many([room()(n) for n in range(21, 31)])
        await watcher.reach(30)
        assert watcher.told == list(range(1, 31))
        allow(own, namespace, "-publish")
        with pytest.raises(PartialPublish) as raised:
            await rt.publish_many([room()(n) for n in range(31, 41)])
        assert [type(result) for result in raised.value.results] == [PermissionDenied] + [Unavailable] * 9
        assert rt.stats().connections == 1


@pytest.mark.anyio
async def test_a_server_that_is_busy_accepts_the_whole_batch_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[ServerError] = []
    judge = Shard._transacted

    def transacted(shard: Shard, parts: Sequence[Sequence[Outbound]], replies: Sequence[Any]) -> Any:  # Any: as hiredis makes them
        refused.extend(reply for reply in replies[-1:] if isinstance(reply, ServerError))
        return judge(shard, parts, replies)

    monkeypatch.setattr(Shard, "_transacted", transacted)
    namespace = fresh_namespace()
    with running("--busy-reply-threshold", "1") as own:
        async with opened(f"redis://127.0.0.1:{own.port}", namespace, history=0, probe=20) as rt, watching(rt, room()) as watcher:
            await rt.publish_many([room()(n) for n in range(1, 4)])

            def spin() -> None:
                with plain(own) as client, pytest.raises(ResponseError, match="killed"):
                    client.eval("while true do end", 0)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, spin)
                await until(lambda: _is_busy(own), "the script runs")
                tasks.start_soon(rt.publish_many, [room()(n) for n in range(4, 504)])
                with plain(own) as client:
                    connection = client.connection_pool.get_connection()
                    await until(lambda: len(refused) >= 3, "it was refused some times")
                    connection.send_command("SCRIPT", "KILL")
                    connection.read_response()
                    client.connection_pool.release(connection)
            await watcher.reach(503)
            assert watcher.told == list(range(1, 504))
            with plain(own) as client:
                assert len(connections_of(client, namespace)) == 2


def _is_busy(server: RedisServer) -> bool:
    try:
        with plain(server) as client:
            client.ping()
    except ResponseError as error:
        return "BUSY" in str(error)
    return False


@pytest.mark.anyio
async def test_on_a_cluster() -> None:
    """A transaction per slot, all of them side by side."""
    async with opened(cluster().url, history=0) as rt:
        for title in "abc":
            await works(rt, title)
        titles = [f"r{n}" for n in range(20)]
        async with AsyncExitStack() as stack:
            watchers = [await stack.enter_async_context(watching(rt, room(title))) for title in titles]
            await rt.publish_many([room(titles[n % 20])(n) for n in range(1000)])
            for number, watcher in enumerate(watchers):
                await watcher.reach(980 + number)
                assert watcher.told == list(range(number, 1000, 20))


# ---------------------------------------------------------------------- what a server says at a moment that no test can meet


class _Answers:
    """A connection that says this."""

    def __init__(self, replies: list[object]) -> None:
        self._replies = replies
        self.aborted = False

    def abort(self, _error: Exception) -> None:
        self.aborted = True

    def transact(self, _packed: object, _count: int) -> asyncio.Future[list[object]]:
        future: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
        future.set_result(self._replies)
        return future


class _NoSink:
    """Nothing comes."""

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        raise NotImplementedError

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        raise NotImplementedError

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        raise NotImplementedError


def _outbound(channel: str, n: int) -> Outbound:
    return Outbound(channel, "t", f"p.{n}", None, None, None, b"1", b"frame", retry=False)


def _publishing(connection: _Answers, *messages: Outbound) -> Sequence[object]:
    shard = Shard(RedisOptions(history=0), Names("fanwire"), _NoSink(), sharded=False, remembered=Remembered())
    shard.commands = connection  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]  # only this is asked of it
    return asyncio.run(shard.publish(messages))  # pyright: ignore[reportArgumentType]


BUSY = "BUSY Redis is busy running a script"


def test_busy_when_all_is_queued_nothing_was_accepted() -> None:
    with pytest.raises(Unavailable, match="busy with somebody's script"):
        _publishing(_Answers([ServerError(f"EXECABORT Transaction discarded because of: {BUSY}")]), _outbound("a", 1), _outbound("a", 2))


def test_one_of_its_own_commands_is_refused_at_the_end() -> None:
    """The user's rights changed between the queue and the end of it."""
    told = _publishing(_Answers([[1, ServerError("NOPERM no"), 1]]), _outbound("a", 1), _outbound("b", 1), _outbound("c", 1))
    assert [type(result) for result in told] == [Receipt, PermissionDenied, Receipt]


def test_without_a_transaction_each_channel_is_judged_by_itself() -> None:
    replies: list[object] = [ServerError("NOPERM no multi"), 1, ServerError("NOPERM no channel"), ServerError("ERR EXEC without MULTI")]
    told = _publishing(_Answers(replies), _outbound("a", 1), _outbound("b", 1))
    assert [type(result) for result in told] == [Receipt, PermissionDenied]


@pytest.mark.parametrize("error", ["NOPERM no exec", "ERR unknown command 'EXEC'"])
def test_a_transaction_that_cannot_be_ended_ends_the_connection(error: str) -> None:
    """Old servers keep it open: what came next would be queued, and look accepted."""
    connection = _Answers([b"OK", b"QUEUED", b"QUEUED", ServerError(error)])
    with pytest.raises(ConnectionLost, match="cannot be ended"):
        _publishing(connection, _outbound("a", 1), _outbound("a", 2))
    assert connection.aborted


@pytest.mark.parametrize("error", ["MOVED 7 10.0.0.1:6379", "CLUSTERDOWN The cluster is down"])
def test_a_cluster_that_changes_before_the_end_of_a_transaction(error: str) -> None:
    connection = _Answers([ServerError(error)])
    with pytest.raises(ConnectionLost if error.startswith("MOVED") else Unavailable, match="cluster"):
        _publishing(connection, _outbound("a", 1), _outbound("a", 2))
    assert connection.aborted is error.startswith("MOVED")


def test_a_part_of_no_transaction_was_accepted() -> None:
    replies: list[object] = [ServerError("NOPERM no multi"), ServerError(BUSY), 1, ServerError("ERR EXEC without MULTI")]
    with pytest.raises(ConnectionLost, match="accepted behind one that was refused"):
        _publishing(_Answers(replies), _outbound("a", 1), _outbound("a", 2))


# ---------------------------------------------------------------------- the bytes


class _Pipe(asyncio.WriteTransport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Be asked for nothing."""

    def write(self, data: Any) -> None:  # Any: as the class it follows
        self.written.append(bytes(data))


def _lines(*replies: bytes | int) -> bytes:
    return b"".join(b":%d\r\n" % reply if isinstance(reply, int) else reply + b"\r\n" for reply in replies)


@given(st.data())
def test_replies_are_told_alike_however_they_are_cut(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 5))
    before, behind = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    queued = data.draw(st.lists(st.sampled_from([b"+QUEUED", b"-NOPERM no", b"-BUSY wait"]), min_size=count, max_size=count))
    fails = any(reply != b"+QUEUED" for reply in queued)
    executed = _lines(b"-EXECABORT Transaction discarded because of previous errors.") if fails else _lines(b"*%d" % count, *range(count))
    told = _lines(*range(before)) + _lines(b"+OK", *queued) + executed + _lines(*range(behind))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(told)))))

    async def run() -> None:
        wire = Wire(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it is asked for nothing
        wire.attach(_Pipe())
        sent = [wire.send([("PING",)], 1) for _ in range(before)]
        transaction = wire.transact(pack_publishes("PUBLISH", b"c", [b"x"] * count), count)
        sent += [wire.send([("PING",)], 1) for _ in range(behind)]
        for begin, end in zip([0, *cuts], [*cuts, len(told)], strict=True):
            if end > begin:
                wire.data_received(told[begin:end])
        assert [future.result() for future in sent] == [[n] for n in [*range(before), *range(behind)]]
        *seen, outcome = transaction.result()
        if fails:
            assert isinstance(outcome, ServerError)
            assert outcome.code == "EXECABORT"
            assert [str(reply).encode() if isinstance(reply, ServerError) else reply for reply in seen] == [b"OK", *(reply[1:] for reply in queued)]
        else:
            assert outcome == list(range(count))
            assert seen in ([], [b"OK", *[b"QUEUED"] * count])

    asyncio.run(run())


@given(st.lists(st.binary(max_size=40), max_size=6), st.binary(min_size=1, max_size=20))
def test_commands_are_packed_as_the_server_reads_them(frames: Sequence[bytes], channel: bytes) -> None:
    import hiredis

    reader = hiredis.Reader()
    reader.feed(b"".join(pack_publishes("SPUBLISH", channel, frames)))
    assert [reader.gets() for _ in frames] == [[b"SPUBLISH", channel, frame] for frame in frames]
    assert reader.gets() is False
