"""What is wrong is said at once, by a typed error that tells what to do; what strangers send breaks nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import pytest

from fanwire import Realtime, Start, TopicRef
from fanwire.errors import ConfigError, ConnectFailed, FanwireError, InvalidName, PayloadTooLarge, Unauthenticated, Unsupported
from fanwire.events import InvalidMessage
from tests.redis.harness import cluster
from tests.redis.impostor import Serve, listening, of_version, says, silent
from tests.redis.scenes import (
    Client,
    Feed,
    certificates_in,
    connections_of,
    fresh_namespace,
    loops,
    opened,
    plain,
    refused,
    room,
    running,
    server,
    stream_of,
    until,
    watching,
    works,
)
from tests.servers.processes import free_ports

anyio_backend = loops("asyncio")

A = "feed:a"


# ---------------------------------------------------------------------- credentials


@pytest.mark.anyio
async def test_a_wrong_password_is_not_tried_again() -> None:
    with running("--requirepass", "sesam") as own, plain(own, password="sesam") as client:
        for url in (f"redis://:wrong@127.0.0.1:{own.port}", own.url, f"redis://app:sesam@127.0.0.1:{own.port}"):
            client.config_resetstat()
            began = time.monotonic()
            await refused(url, Unauthenticated, f"127.0.0.1:{own.port}", seconds=10)
            assert time.monotonic() - began < 2, "it was waited for"
            assert client.info("stats")["total_connections_received"] <= 2, "it was tried again"  # one attempt makes two at most
        await refused(f"redis://:needless@127.0.0.1:{server().port}", Unauthenticated, "password")


@pytest.mark.anyio
async def test_a_password_that_changes_ends_everything() -> None:
    with running("--requirepass", "sesam") as own, plain(own, password="sesam") as client:
        namespace = fresh_namespace()
        async with opened(f"redis://:sesam@127.0.0.1:{own.port}", namespace) as rt, watching(rt, room()) as watcher:
            await rt.publish(room(), 1)
            client.config_set("requirepass", "another")
            for id in connections_of(client, namespace):
                client.client_kill_filter(_id=id)
            await until(lambda: rt.stats().state == "failed", "it gives up")
            with pytest.raises(Unauthenticated):
                await rt.publish(room(), 2)
            await until(lambda: watcher.error is not None, "the subscriber is told")
            assert isinstance(watcher.error, Unauthenticated)
            assert watcher.told == [1]


# ---------------------------------------------------------------------- what is there instead


@pytest.mark.anyio
async def test_tls_or_none_by_mistake(tmp_path_factory: pytest.TempPathFactory) -> None:
    ca, certificate, key = map(str, certificates_in(tmp_path_factory.mktemp("tls")))
    with running(
        "--tls-port", "PORT", "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", ca, "--tls-auth-clients", "no"
    ) as tls:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: refused(f"redis://127.0.0.1:{tls.port}", ConnectFailed, f"127.0.0.1:{tls.port}", "TLS", "rediss://"))
            tasks.start_soon(lambda: refused(f"rediss://127.0.0.1:{server().port}", ConnectFailed, f"127.0.0.1:{server().port}", "TLS"))
            # Who waits as long as a probe does, as `fanwire check` by default, is told all the same.
            tasks.start_soon(lambda: refused(f"rediss://127.0.0.1:{server().port}", ConnectFailed, "does it speak TLS", seconds=2.0, probe=2.0))


@pytest.mark.anyio
@pytest.mark.parametrize("history", [0, 1000])
async def test_where_there_is_no_redis(history: int) -> None:
    (nobody,) = free_ports()
    places: list[tuple[Serve, Sequence[str]]] = [
        (says(answer=b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), ["Redis"]),
        (says(first=b"SSH-2.0-OpenSSH_9.6\r\n"), ["Redis"]),
        (says(first=b"\x00\xff\x00\xff" * 100), ["Redis"]),
        (says(), []),
        (silent, []),
    ]
    async with anyio.create_task_group() as tasks:

        async def one(serve: Serve, words: Sequence[str]) -> None:
            async with listening(serve) as port:
                await refused(f"redis://127.0.0.1:{port}", ConnectFailed, f"127.0.0.1:{port}", *words, history=history)

        for serve, words in places:
            tasks.start_soon(one, serve, words)
        for url in (
            f"redis://127.0.0.1:{nobody}",
            "redis://nowhere.invalid",
            f"redis+cluster://127.0.0.1:{nobody}",
            f"redis+sentinel://127.0.0.1:{nobody}/x",
        ):
            tasks.start_soon(partial(refused, url, ConnectFailed, "nowhere.invalid" if "nowhere" in url else "", history=history))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("info", "needed"),
    [
        ("redis_version:6.2.14\r\n", "Redis 7.0"),
        ("redis_version:5.0.0\r\nredis_mode:standalone\r\n", "Redis 7.0"),
        ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:7.1.0\r\n", "Valkey 7.2"),
        ("nothing of interest\r\n", "Redis 7.0"),
        ("redis_version:none\r\n", "Redis 7.0"),
    ],
)
async def test_too_old_a_server(info: str, needed: str) -> None:
    async with listening(of_version(info)) as port:
        url = f"redis://127.0.0.1:{port}"
        await refused(url, Unsupported, needed, "history=0")
        async with opened(f"{url}?history=0"):
            pass


@pytest.mark.anyio
@pytest.mark.parametrize(
    "info", ["redis_version:7.0.0\r\n", "redis_version:8.0.2\r\n", "redis_version:7.2.4\r\nvalkey_version:8.1.0\r\n", "redis_version:10.0\r\n"]
)
async def test_new_enough_a_server(info: str) -> None:
    async with listening(of_version(info)) as port, opened(f"redis://127.0.0.1:{port}"):
        pass


@pytest.mark.anyio
async def test_the_wrong_kind_of_server() -> None:
    await refused(f"redis+cluster://127.0.0.1:{server().port}", Unsupported, "no cluster", "redis://")
    await refused(f"redis+sentinel://127.0.0.1:{server().port}/themaster", FanwireError, "no sentinel", "redis://")


@pytest.mark.anyio
async def test_one_server_of_a_cluster_is_no_place_for_all_channels() -> None:
    """It has a part of the slots: that is said before the first channel of another part is published to."""
    await refused(f"redis://127.0.0.1:{cluster().servers[0].port}", Unsupported, "cluster", "redis+cluster://")


# ---------------------------------------------------------------------- urls


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://localhost?histroy=3", ["histroy", "did you mean 'history'"]),
        ("redis://localhost?prob=3", ["prob", "did you mean 'probe'"]),
        ("redis://localhost?history=-1", ["history"]),
        ("redis://localhost?history=many", ["history"]),
        ("redis://localhost?ttl=0", ["ttl"]),
        ("redis://localhost?namespace=a:b", ["namespace"]),
        ("redis://localhost?namespace=", ["namespace"]),
        ("redis://localhost?namespace=%7Ba%7D", ["namespace"]),
        ("redis://localhost?client_name=with%20space", ["client_name"]),
        ("redis://localhost?client_name=a%0D%0ASET", ["client_name"]),
        ("redis://localhost/x", ["'x'", "database"]),
        ("redis://localhost/-1", ["database"]),
        ("redis://localhost/1/2", ["redis://host:port/db"]),
        ("redis://localhost:port", ["port"]),
        ("redis://localhost:70000", ["70000"]),
        ("redis://a,b", ["one host", "redis+cluster://"]),
        ("redis+cluster://a,b/3", ["database 0"]),
        ("redis+sentinel://a,b", ["service"]),
        ("redis+unix://host/path", ["redis+unix:///path"]),
        ("redis+unix://", ["redis+unix:///path"]),
        ("redis+clusters://a", ["did you mean", "redis+cluster"]),
    ],
)
def test_a_wrong_url_says_what_is_right(url: str, words: Sequence[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        Realtime.from_url(url)
    for word in words:
        assert word in str(raised.value), f"{word!r} is not in: {raised.value}"


def test_no_secret_is_shown_by_a_wrong_url() -> None:
    for url in (
        "redis://app:hunter2@localhost/x",
        "redis://app:hunter2@localhost:port",
        "redis+sentinel://:hunter2@a",
        "redis://:hunter2@h?sentinel_pasword=hunter2",
    ):
        with pytest.raises(ConfigError) as raised:
            Realtime.from_url(url)
        assert "hunter2" not in str(raised.value)
    assert "hunter2" not in repr(Realtime.from_url("redis://:hunter2@h?sentinel_password=hunter2")._transport)


@pytest.mark.anyio
async def test_a_database_that_the_server_has_not() -> None:
    await refused(f"{server().url}/99", ConfigError, "DB index")


@pytest.mark.anyio
async def test_databases_do_not_mix() -> None:
    """Publishing knows no databases, keys do: a live message of one must not be taken for one of another."""
    namespace = fresh_namespace()
    async with opened(f"{server().url}/1", namespace) as one, opened(f"{server().url}/2", namespace) as two, watching(one, room()) as watcher:
        for number in range(1, 6):
            await two.publish(room(), 100 + number)
            await one.publish(room(), number)
        await watcher.reach(5)
        assert watcher.told == [1, 2, 3, 4, 5]


# ---------------------------------------------------------------------- what strangers send

FRAMES = [
    b"", b" ", b"\x00", b"garbage", b"\xff\xfe\x00\x80", b"-", b"- ", b"1-1", b"1-1 ", b"1-1 abcdefgh", b"x-y abcdefgh {}", b"{}", b"[]", b"null",
    b'{"id":"x.1","topic":"n","kind":"data","channel":"another","created_at":"2024-01-01T00:00:00Z","data":1}', b"1-" + b"9" * 5000 + b" abcdefgh {}",
    b"9" * 5000 + b"-1 abcdefgh {}", b"1--1 abcdefgh {}", "١-١ abcdefgh {}".encode(), b"x" * 3_000_000, b"[" * 100_000,
]  # fmt: skip
"""No messages, or messages of another channel."""


@pytest.mark.anyio
@pytest.mark.parametrize("history", [0, 1000])
@pytest.mark.parametrize("sharded", [False, True])
async def test_foreign_frames_on_a_channel(history: int, sharded: bool) -> None:
    namespace = fresh_namespace()
    invalid: list[InvalidMessage] = []
    url = cluster().url if sharded else server().url
    name = f"{{{namespace}:{A}}}"
    async with opened(url, namespace, history=history, on_invalid=invalid.append) as rt, watching(rt, room()) as watcher:
        await rt.publish(room(), 1)
        await watcher.reach(1)
        for at in cluster().servers[:3] if sharded else [server()]:
            with plain(at) as client:
                if sharded and not client.execute_command("PUBSUB", "SHARDCHANNELS", name):
                    continue
                for frame in FRAMES:
                    assert client.execute_command("SPUBLISH" if sharded else "PUBLISH", name, frame) == 1
        await rt.publish(room(), 2)
        await watcher.reach(2)
        assert watcher.numbers == [1, 2]
        assert rt.stats().connections == 1, "a stranger has broken the connection"
        assert rt.stats().invalid == len(invalid) == len(FRAMES)
        assert {message.channel for message in invalid} == {A}
        assert [message.frame for message in invalid if message.frame == b"garbage"]


@pytest.mark.anyio
@pytest.mark.parametrize("position", [b"1-1", b"1-0", b"18446744073709551615-18446744073709551615", b"18446744073709551616-99999999999999999999"])
@pytest.mark.parametrize("rest", [b"abcdefgh {}", b"\xff\xff\xff\xff\xff\xff\xff\xff {}", b"abcdefgh "])
async def test_forged_positions(position: bytes, rest: bytes) -> None:
    """Whoever may publish there can say that the channel began anew. That is told as a gap, and it goes on."""
    namespace = fresh_namespace()
    async with opened(server().url, namespace, on_invalid=lambda _: None) as rt, watching(rt, room()) as watcher:
        await rt.publish(room(), 1)
        await watcher.reach(1)
        with plain(server()) as client:
            assert client.publish(f"{{{namespace}:{A}}}", position + b" " + rest) == 1
        for number in (2, 3, 4):
            await rt.publish(room(), number)
        await watcher.reach(4)
        assert sorted(set(watcher.numbers)) == [1, 2, 3, 4]
        assert rt.stats().connections == 1, "a stranger has broken the connection"
        assert rt.stats().invalid <= 1


def strange_entries(client: Client, key: str) -> int:
    """Add entries to a stream that are no messages; return how many."""
    epoch = client.xinfo_stream(key)["last-generated-id"].partition(b"-")[0].decode()
    entries: list[dict[str, bytes]] = [
        {"d": b""}, {"d": b"x"}, {"d": b"garbage that is long enough"}, {"d": b"\xff\xfe" * 40}, {"e": b"abcdefgh {}"}, {"a": b"1", "b": b"2", "c": b"3"}, {"": b""},
        {"d": b"abcdefgh " + b"[" * 50_000}, {"d": b"ABCDEFGH {}"},
    ]  # fmt: skip
    for entry in entries:
        client.execute_command("XADD", key, f"{epoch}-*", *(part for pair in entry.items() for part in pair))
    return len(entries)


@pytest.mark.anyio
async def test_foreign_entries_in_a_stream() -> None:
    """As the newest, in the middle, read by those who start with history, those who are live, and those who come back."""
    namespace = fresh_namespace()
    invalid: list[InvalidMessage] = []
    key = stream_of(namespace, A)
    with plain(server()) as client:
        async with opened(server().url, namespace, on_invalid=invalid.append) as rt, opened(server().url, namespace) as other:
            async with watching(rt, room()) as watcher:
                await other.publish(room(), 1)
                await watcher.reach(1)
                count = strange_entries(client, key)
                await other.publish(room(), 2)  # behind a hole, which is repaired from history
                await watcher.reach(2)
                assert watcher.numbers == [1, 2]
                assert len(invalid) == count
                strange_entries(client, key)
                for id in connections_of(client, namespace):
                    client.client_kill_filter(_id=id)
                await other.publish(room(), 3)
                await watcher.reach(3)
                assert watcher.numbers == [1, 2, 3]
                assert len(invalid) == 2 * count
            strange_entries(client, key)
            async with watching(rt, room(), start=Start.EARLIEST) as watcher:
                await watcher.reach(3)
                await other.publish(room(), 4)
                await watcher.reach(4)
                assert watcher.told == [1, 2, 3, 4]
            assert [message.data for message in await rt.history(room(), start=Start.last(3))][-1:] == [4]


@pytest.mark.anyio
async def test_a_stream_that_is_full_to_the_last_id() -> None:
    """A stranger has used up the ids: that is told, and concerns that channel only."""
    namespace = fresh_namespace()
    with plain(server()) as client:
        client.execute_command("XADD", stream_of(namespace, A), "18446744073709551615-18446744073709551615", "d", "x")
        async with opened(server().url, namespace) as rt:
            with pytest.raises(FanwireError), anyio.fail_after(5):
                await rt.publish(room(), 1)
            await works(rt, "b")


# ---------------------------------------------------------------------- payloads and names


@pytest.mark.anyio
async def test_payloads_up_to_the_limit() -> None:
    ref = Feed(title="a").text
    async with opened(server().url) as rt, rt.subscribe(ref) as messages:
        limit = 2**20
        with pytest.raises(PayloadTooLarge) as raised:
            await rt.publish(ref, "x" * limit)
        assert raised.value.limit == limit
        text = "x" * (limit - 400)
        await rt.publish(ref, text)
        assert (await anext(messages)).data == text
        assert len(await rt.history(ref)) == 1


NAMES = [
    "*", "?", "[a-z]", "h?llo", "h[^e]llo", "\\*", "hello", "{", "}", "{}", "}x", "{a}b", "a{b}c", "x}:s", "x}:i:0", "x", "x}", "__keyspace@0__:x", "__keyevent@0__:set",
    "__sentinel__:hello", "a b", "a:b", ":", "a:b:s", "'\"", "$(id)", "%s%n", "ü", "🧵", "../../etc", "-1", "0", "NOSCRIPT", "x" * 255,
]  # fmt: skip


def named(name: str) -> TopicRef[Any]:  # Any: made by hand, without a schema
    """Return a topic of a channel of any name."""
    return TopicRef(name, "n")


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["server", "plain", "cluster"])
async def test_hostile_names(where: str) -> None:
    """Each channel gets its own messages and nothing else, also with notifications of keys on."""
    namespace = fresh_namespace()
    at = cluster() if where == "cluster" else server()
    with plain(server()) as client:
        client.config_set("notify-keyspace-events", "KEA")
        try:
            async with opened(at.url, namespace, history=0 if where == "plain" else 1000) as rt, anyio.create_task_group() as tasks:
                found: dict[str, list[object]] = {name: [] for name in NAMES}

                async def collect(name: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
                    async with rt.subscribe(named(name)).with_gaps() as items:
                        task_status.started()
                        async for item in items:
                            found[name].append(getattr(item, "data", item))

                for name in NAMES:
                    await tasks.start(collect, name)
                for turn in range(2):
                    for name in NAMES:
                        await rt.publish(named(name), f"{turn} {name}", key=f"}}:s{turn}")
                await until(lambda: all(len(got) >= 2 for got in found.values()), "all has come")
                for name in NAMES:
                    assert found[name] == [f"0 {name}", f"1 {name}"]
                tasks.cancel_scope.cancel()
        finally:
            client.config_set("notify-keyspace-events", "")
        if where == "server":
            assert len(client.keys(f"{{{namespace}:*")) == 3 * len(NAMES), "a stream and two idempotency keys each"


@pytest.mark.parametrize("name", ["a\r\nSET x 1", "a\nb", "a\x00b", "\x1b[31m", " x", "x ", "", "x" * 256, "\u202ex", "\ud800"])
def test_names_that_no_server_gets_to_see(name: str) -> None:
    with pytest.raises(InvalidName):
        named(name)


@pytest.mark.anyio
async def test_namespaces_share_nothing() -> None:
    """What is one and what the other could be is told apart: namespaces that begin alike, channels that look like another namespace's."""
    base = fresh_namespace()
    namespaces = [base, f"{base}-x", f"{base}_", base[:-1], base.upper()]
    names = ["a", "a}", "-x:a", f"{base}:a", "x:a", "_:a"]
    async with anyio.create_task_group() as tasks:

        async def one(namespace: str) -> None:
            rt = opened(server().url, namespace)
            async with rt, rt.subscribe(named(names[0])) as first, rt.subscribe(named(names[3])) as second:
                ready[namespace].set()
                for other in ready.values():
                    await other.wait()
                for name in names:
                    await rt.publish(named(name), [namespace, name])
                await rt.publish(named(names[0]), "end")
                await rt.publish(named(names[3]), "end")
                assert [(await anext(first)).data for _ in range(2)] == [[namespace, names[0]], "end"]
                assert [(await anext(second)).data for _ in range(2)] == [[namespace, names[3]], "end"]
                assert first.stats().lag == second.stats().lag == 0

        ready = {namespace: anyio.Event() for namespace in namespaces}
        for namespace in namespaces:
            tasks.start_soon(one, namespace)


# ---------------------------------------------------------------------- fanwire check


async def check(url: str, *arguments: str) -> tuple[int, dict[str, Any], str]:  # Any: JSON
    """Run ``fanwire check``; return its exit code, what it says as JSON, and the steps that failed."""
    command = [sys.executable, "-m", "fanwire.cli", "check", url, "--json", "--timeout", "2", "--pings", "3", *arguments]
    done = await anyio.run_process(command, check=False, stdin=subprocess.DEVNULL)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    outcome: dict[str, Any] = json.loads(done.stdout)
    failed = [step for step in outcome["steps"] if step["status"] == "failed"]
    return done.returncode, outcome, " ".join(f"{step['name']}: {step['diagnosis']}: {step['detail']} {step['remedy']}" for step in failed)


@pytest.mark.slow
@pytest.mark.anyio
async def test_check_finds_out_what_is_wrong() -> None:
    namespace = fresh_namespace()
    (nobody,) = free_ports()
    with running("--requirepass", "sesam") as guarded, plain(guarded, password="sesam") as client:
        client.execute_command(
            "ACL", "SETUSER", "reader", "reset", "on", ">r", f"~{{{namespace}:*", f"&{{{namespace}:*", "+@all", "-publish", "-xadd"
        )
        at = f"127.0.0.1:{guarded.port}"
        async with listening(of_version("redis_version:6.2.14\r\n")) as old, listening(says(answer=b"HTTP/1.1 400 Bad\r\n\r\n")) as web:
            wanted = {
                f"redis://127.0.0.1:{nobody}": (3, ["connect: refused", str(nobody)]),
                f"redis://:wrong@{at}": (4, ["connect: credentials", at]),
                f"redis://reader:r@{at}": (4, ["publish: permission", "+publish"]),
                f"redis://127.0.0.1:{old}": (2, ["connect: unsupported", "6.2.14", "7.0"]),
                f"redis://127.0.0.1:{web}": (3, ["connect:", "Redis"]),
            }
            async with anyio.create_task_group() as tasks:

                async def one(url: str, code: int, words: Sequence[str]) -> None:
                    found, outcome, said = await check(url, "--namespace", namespace)
                    assert found == code, (url, found, said)
                    assert outcome["ok"] == (code == 0)
                    assert "sesam" not in json.dumps(outcome)
                    for word in words:
                        assert word in said, f"{url}: {word!r} is not in: {said}"

                for url, (code, words) in wanted.items():
                    tasks.start_soon(one, url, code, words)
