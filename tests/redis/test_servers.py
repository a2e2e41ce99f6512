"""Every way to reach a server: sockets, TLS, passwords, restricted users, an application's own client, sentinels, a cluster."""

from __future__ import annotations

import re
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio import RedisCluster as ClusterClient

import fanwire_redis
from fanwire import BlockingRealtime, Channel, Realtime, Start, topic
from fanwire.errors import ConfigError, ConnectFailed, FanwireError, Internal, PermissionDenied, Unauthenticated, Unavailable, Unsupported
from fanwire.runs import StepRecord
from fanwire_redis import RedisOptions, RedisStepStore, RedisTransport
from fanwire_redis.scripts import PUBLISH
from tests.redis.harness import cluster
from tests.redis.scenes import (
    audited,
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
from tests.servers.processes import Process, free_ports
from tests.servers.redis import RedisServer, command, redis_server, valkey_server

anyio_backend = loops("asyncio", "asyncio+uvloop")

# ---------------------------------------------------------------------- sockets


@pytest.mark.anyio
async def test_a_unix_socket() -> None:
    with running("--unixsocket", "DIRECTORY/s", "--requirepass", "sesam:@/") as own:
        path = own.directory / "s"
        await until(path.exists, "the socket is there")
        async with opened(f"redis+unix://:sesam%3A%40%2F@{path}?history=500") as rt:
            await works(rt)
        await refused(f"redis+unix://:wrong@{path}", Unauthenticated, str(path))
        await refused(f"redis+unix://{path}-absent", ConnectFailed, f"{path}-absent", seconds=0.5)


@pytest.mark.anyio
@pytest.mark.parametrize("history", [0, 1000])
async def test_a_database_number(history: int) -> None:
    namespace = fresh_namespace()
    async with opened(f"{server().url}/7", namespace, history=history) as rt:
        await works(rt)
    with plain(server()) as nought, plain(server(), db=7) as seven:
        assert nought.keys(f"{{{namespace}:*") == []
        assert bool(seven.keys(f"{{{namespace}:*")) == bool(history)


# ---------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificates() -> Iterator[tuple[Path, Path, Path]]:
    """An authority, and a certificate for 127.0.0.1 with its key."""
    with tempfile.TemporaryDirectory() as directory:
        yield certificates_in(Path(directory))


@pytest.fixture(scope="module")
def tls(certificates: tuple[Path, Path, Path]) -> Iterator[RedisServer]:
    """A server that speaks TLS only, and takes any client."""
    with running(*tls_arguments(certificates), "--tls-auth-clients", "no") as own:
        yield own


def tls_arguments(certificates: tuple[Path, Path, Path]) -> list[str]:
    ca, certificate, key = map(str, certificates)
    return ["--tls-port", "PORT", "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", ca]


@pytest.mark.anyio
async def test_tls_with_an_authority_of_ones_own(tls: RedisServer, certificates: tuple[Path, Path, Path]) -> None:
    async with opened(f"rediss://127.0.0.1:{tls.port}?tls_ca={certificates[0]}") as rt:
        await works(rt)
    async with opened(f"redis://127.0.0.1:{tls.port}?tls=true&tls_ca={certificates[0]}") as rt:
        await works(rt)


@pytest.mark.anyio
async def test_an_authority_that_did_not_sign_is_refused(tls: RedisServer, tmp_path: Path) -> None:
    other, *_ = certificates_in(tmp_path)
    await refused(f"rediss://127.0.0.1:{tls.port}?tls_ca={other}", ConnectFailed, "certificate", "tls_ca", seconds=2.5)
    await refused(f"rediss://127.0.0.1:{tls.port}", ConnectFailed, "certificate", "tls_ca", seconds=2.5)


@pytest.mark.anyio
async def test_a_certificate_of_another_host_is_refused(tls: RedisServer, certificates: tuple[Path, Path, Path]) -> None:
    await refused(f"rediss://127.0.0.2:{tls.port}?tls_ca={certificates[0]}", ConnectFailed, "127.0.0.2", seconds=1.5)


@pytest.mark.anyio
async def test_without_verification_any_certificate_will_do(tls: RedisServer) -> None:
    async with opened(f"rediss://127.0.0.1:{tls.port}?tls_verify=false") as rt:
        await works(rt)


@pytest.mark.anyio
async def test_a_certificate_of_the_client(certificates: tuple[Path, Path, Path]) -> None:
    ca, certificate, key = certificates
    with running(*tls_arguments(certificates), "--tls-auth-clients", "yes") as own:
        async with opened(f"rediss://127.0.0.1:{own.port}?tls_ca={ca}&tls_cert={certificate}&tls_key={key}") as rt:
            await works(rt)
        await refused(f"rediss://127.0.0.1:{own.port}?tls_ca={ca}", ConnectFailed, seconds=1.5)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio+uvloop"], indirect=True)  # a cluster takes two seconds to begin
async def test_tls_in_a_cluster(certificates: tuple[Path, Path, Path]) -> None:
    """Of one server, which has all slots and names itself by its TLS port."""
    ca = certificates[0]
    with running(*tls_arguments(certificates), "--tls-auth-clients", "no", "--cluster-enabled", "yes", "--tls-cluster", "yes") as own:
        with plain(own, ssl=True, ssl_ca_certs=str(ca)) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await until(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")), "it serves all slots")
        async with opened(f"redis+cluster://127.0.0.1:{own.port}?tls=true&tls_ca={ca}") as rt:
            await works(rt)
        await refused(f"redis+cluster://127.0.0.1:{own.port}?tls=true", ConnectFailed, "certificate", seconds=2.5)


@pytest.mark.parametrize("option", ["tls_ca", "tls_cert", "tls_key"])
def test_a_file_that_is_not_there_is_found_before_connecting(option: str) -> None:
    with pytest.raises(ConfigError, match=rf"{option}.*there is no file /nowhere\.pem"):
        Realtime.from_url(f"rediss://localhost?{option}=/nowhere.pem")


@pytest.mark.parametrize(
    "given",
    [
        "-----BEGIN PRIVATE KEY-----\nMIIEsecret\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY----- MIIEsecret",
        "MIIEsecret\n",
        "MIIEsecret" * 99,
    ],
)
def test_a_key_in_the_place_of_its_file_is_not_shown(given: str) -> None:
    with pytest.raises(ConfigError, match="tls_key.*give that of a file") as raised:
        Realtime.from_url("rediss://localhost", options={"tls_key": given})
    assert "secret" not in str(raised.value)


# ---------------------------------------------------------------------- passwords and users


@pytest.mark.anyio
async def test_a_password() -> None:
    with running("--requirepass", "pass word/ü") as own:
        async with opened(f"redis://:pass%20word%2F%C3%BC@127.0.0.1:{own.port}") as rt:
            assert "pass" not in repr(rt)
            assert "pass" not in repr(rt._transport)
            await works(rt)
        await refused(f"redis://:wrong@127.0.0.1:{own.port}", Unauthenticated, f"127.0.0.1:{own.port}")


MINIMUM = re.findall(r"\+([a-z|]+)", re.split(r"ACL SETUSER app on >password", fanwire_redis.__doc__ or "")[1].partition("\n\n")[0])
"""The commands that a user needs, as the documentation of the package has them."""


@pytest.fixture(scope="module", params=[redis_server, valkey_server], ids=["redis", "valkey"])
def guarded(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server for users with few rights."""
    program: Callable[[], str] = request.param
    with running(program=program()) as own:
        yield own


def grant(guarded: RedisServer, namespace: str, *rules: str) -> str:
    """Give a new user these rights; return the URL."""
    with plain(guarded) as client:
        client.execute_command("ACL", "SETUSER", namespace, "reset", "on", ">sesam", *rules)
    return f"redis://{namespace}:sesam@127.0.0.1:{guarded.port}"


@pytest.mark.anyio
@pytest.mark.parametrize("history", [0, 1000])
async def test_a_user_who_may_only_what_is_needed(guarded: RedisServer, history: int) -> None:
    namespace = fresh_namespace()
    url = grant(guarded, namespace, f"~{{{namespace}:*", f"&{{{namespace}:*", *(f"+{command}" for command in MINIMUM))
    async with opened(url, namespace, history=history) as rt:
        await works(rt)
        await rt.publish(room(), 101, key="order-17")
        assert (await rt.publish(room(), 101, key="order-17")).duplicate == bool(history)


@pytest.mark.anyio
@pytest.mark.parametrize("without", ["subscribe", "publish", "eval", "evalsha", "xadd", "xrevrange", "xinfo|stream", "xrange", "keys", "channels"])
async def test_what_a_user_may_not_do_is_named(guarded: RedisServer, without: str) -> None:
    namespace = fresh_namespace()
    keys = "~elsewhere:*" if without == "keys" else f"~{{{namespace}:*"
    channels = "&elsewhere:*" if without == "channels" else f"&{{{namespace}:*"
    url = grant(guarded, namespace, keys, channels, *(f"+{command}" for command in MINIMUM if command != without))
    async with opened(f"redis://127.0.0.1:{guarded.port}", namespace) as other:
        await other.publish(room(), 1)  # some need more rights where there is something than where there is nothing
    async with opened(url, namespace) as rt:
        with pytest.raises(PermissionDenied) as raised, anyio.fail_after(3):
            for number in (2, 3):
                await rt.publish(room(), number)
            async with rt.subscribe(room()):
                pass
            for start in (Start.EARLIEST, Start.last(1)):
                await rt.history(room(), start=start)
    with plain(guarded) as client:
        audited(client, namespace, "feed:a").check()
    text = str(raised.value)
    wanted = {"keys": f"~{{{namespace}:*", "channels": f"&{{{namespace}:*"}.get(without, f"+{without.partition('|')[0]}")
    assert wanted in text.replace("<namespace>", namespace), f"{wanted!r} is not in: {text}"


@pytest.mark.anyio
async def test_a_channel_that_is_refused_leaves_the_others_alone(guarded: RedisServer) -> None:
    namespace = fresh_namespace()
    url = grant(guarded, namespace, f"~{{{namespace}:*", f"&{{{namespace}:feed:a}}", *(f"+{command}" for command in MINIMUM))
    async with opened(url, namespace) as rt, watching(rt, room("a")) as watcher:
        with pytest.raises(PermissionDenied):
            async with rt.subscribe(room("a"), room("b")):
                pass
        with pytest.raises(PermissionDenied):
            await rt.publish(room("b"), 1)
        await rt.publish(room("a"), 1)
        await watcher.reach(1)
        assert watcher.told == [1]
        assert rt.stats().connections == 1
    with plain(guarded) as client:
        assert client.xlen(stream_of(namespace, "feed:b")) == 0, "what was refused is there"


@pytest.mark.anyio
@pytest.mark.parametrize("key", [None, "order-17"])
async def test_what_is_refused_takes_no_number(guarded: RedisServer, key: str | None) -> None:
    """Nobody who may publish sees a hole where somebody tried who may not."""
    namespace = fresh_namespace()
    url = grant(guarded, namespace, f"~{{{namespace}:*", f"&{{{namespace}:*", *(f"+{command}" for command in MINIMUM if command != "publish"))
    full = f"redis://127.0.0.1:{guarded.port}"
    async with opened(full, namespace) as rt, opened(url, namespace) as refused_one, watching(rt, room()) as watcher:
        for number in (1, 2, 3):
            for _ in range(2):  # the second time, the epoch is known
                with pytest.raises(PermissionDenied, match="publish"):
                    await refused_one.publish(room(), 100, key=key)
            await rt.publish(room(), number)
        await watcher.reach(3)
        assert watcher.told == [1, 2, 3]
        assert [message.data for message in await rt.history(room())] == [1, 2, 3]
    with plain(guarded) as client:
        assert [id.partition(b"-")[2] for id, _ in command(client, "XRANGE", stream_of(namespace, "feed:a"), "-", "+")] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("epoch", ["", "1700000000000"])
def test_what_could_not_be_published_is_not_in_history(epoch: str) -> None:
    """For a reason that cannot be known before: here another command in the place of PUBLISH, for which the channel is a key of the wrong type."""
    namespace = fresh_namespace()
    stream, wrong = stream_of(namespace, "feed:a"), f"{{{namespace}:feed:a}}wrong"
    with plain(server()) as client:
        client.xadd(stream, {"d": "before"}, "1700000000000-1")
        client.rpush(wrong, 1)
        arguments: list[str | int] = ["APPEND", wrong, 10, 60_000, epoch, "1700000000000", 60_000, "plain", "frame", "another"]
        (told,) = command(client, "EVAL", PUBLISH.source, 1, stream, *arguments)
        assert told.startswith(b"!WRONGTYPE")
        assert client.xinfo_stream(stream)["last-generated-id"] == b"1700000000000-2", "it was appended once"
        assert [id for id, _ in command(client, "XRANGE", stream, "-", "+")] == [b"1700000000000-1"]


@pytest.mark.anyio
async def test_a_server_whose_publish_has_another_name() -> None:
    namespace = fresh_namespace()
    with running("--rename-command", "PUBLISH", "proclaim") as own:
        async with opened(own.url, namespace) as rt:
            with pytest.raises(Internal, match="(?i)command"):
                await rt.publish(room(), 1)
        with plain(own) as client:
            assert not client.exists(stream_of(namespace, "feed:a"))


@pytest.mark.anyio
async def test_a_user_without_what_is_said_to_be_dispensable(guarded: RedisServer) -> None:
    namespace = fresh_namespace()
    needed = [command for command in MINIMUM if command not in {"ping", "info"} and not command.startswith("client")]
    url = grant(guarded, namespace, f"~{{{namespace}:*", f"&{{{namespace}:*", *(f"+{command}" for command in needed))
    async with opened(url, namespace, probe=0.1) as rt:
        await works(rt)
        assert rt.stats().connections == 1


@pytest.mark.anyio
async def test_a_user_who_may_only_what_is_needed_in_a_cluster() -> None:
    namespace = fresh_namespace()
    rules = [f"~{{{namespace}:*", f"&{{{namespace}:*", *(f"+{command}" for command in MINIMUM), "+cluster|slots"]
    for each in cluster().servers:
        with plain(each) as client:
            client.execute_command("ACL", "SETUSER", namespace, "reset", "on", ">sesam", *rules)
    try:
        async with opened(cluster().url.replace("://", f"://{namespace}:sesam@"), namespace) as rt:
            for title in "abcdef":
                await works(rt, title)
    finally:
        for each in cluster().servers:
            with plain(each) as client:
                client.execute_command("ACL", "DELUSER", namespace)


# ---------------------------------------------------------------------- a client that was passed in


@pytest.mark.anyio
@pytest.mark.parametrize("settings", [{}, {"decode_responses": True}, {"protocol": 3}, {"db": 5, "socket_timeout": 0.2}], ids=str)
async def test_a_client_of_the_application(settings: dict[str, object]) -> None:
    client = Redis(host="127.0.0.1", port=server().port, **settings)  # type: ignore[arg-type]  # the dictionary's values
    namespace = fresh_namespace()
    try:
        await client.set(f"{namespace}-before", 1)
        before = await client.client_id()
        async with Realtime(RedisTransport(RedisOptions(namespace=namespace), client=client)) as rt:
            await works(rt)
            assert rt.native(Redis) is client
            with pytest.raises(Unsupported, match="Redis"):
                _ = rt.native(ClusterClient)
        assert await client.client_id() == before, "its connections were closed"
        assert await client.get(f"{namespace}-before") in {b"1", "1"}
        assert await client.exists(stream_of(namespace, "feed:a"))
    finally:
        await client.aclose()


@pytest.mark.anyio
async def test_a_pool_of_the_application_is_left_its_connections() -> None:
    pool = BlockingConnectionPool(host="127.0.0.1", port=server().port, max_connections=1, timeout=1)
    client = Redis(connection_pool=pool)
    namespace = fresh_namespace()
    try:
        async with Realtime(RedisTransport(RedisOptions(namespace=namespace), client=client)) as rt:
            await works(rt)
            assert await client.ping()
        assert await client.ping()
    finally:
        await client.aclose()
        await pool.aclose()


def test_a_client_of_the_application_stays_in_its_event_loop() -> None:
    with pytest.raises(ConfigError, match="event loop"):
        BlockingRealtime(RedisTransport(client=Redis(port=server().port)))


@pytest.mark.anyio
async def test_a_cluster_client_of_the_application() -> None:
    host = cluster().servers[0]
    client = ClusterClient(host="127.0.0.1", port=host.port)
    namespace = fresh_namespace()
    try:
        async with Realtime(RedisTransport(RedisOptions(namespace=namespace), client=client)) as rt:
            await works(rt)
            assert rt.native(ClusterClient) is client
        assert await client.exists(stream_of(namespace, "feed:a"))
    finally:
        await client.aclose()


# ---------------------------------------------------------------------- sentinels, clusters


@contextmanager
def sentinel(directory: Path, port: int, *lines: str) -> Generator[None]:
    """Run a sentinel that listens on ``port``, and is told the rest by ``lines``."""
    file = directory / "sentinel.conf"
    file.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {directory}", *lines, ""]))
    probe = RedisServer(directory=str(directory), port=port)  # for its way to tell whether something listens; never started
    process = Process([redis_server(), file, "--sentinel"], directory / "log", probe._listens)
    process.start()
    try:
        yield
    finally:
        process.stop()


@pytest.fixture(scope="module")
def watched() -> Iterator[str]:
    """A master with a password, and a sentinel with another; the sentinel's host and port."""
    (port,) = free_ports()
    with running("--requirepass", "master's") as master, tempfile.TemporaryDirectory(prefix="fw-") as name:
        lines = ["requirepass sentinels", f"sentinel monitor themaster 127.0.0.1 {master.port} 1", 'sentinel auth-pass themaster "master\'s"']
        with sentinel(Path(name), port, *lines):
            yield f"127.0.0.1:{port}"


@pytest.mark.anyio
async def test_sentinels_with_a_password(watched: str) -> None:
    (absent,) = free_ports()
    async with opened(f"redis+sentinel://:master%27s@127.0.0.1:{absent},{watched}/themaster/2?sentinel_password=sentinels") as rt:
        await works(rt)
    await refused(f"redis+sentinel://:master%27s@{watched}/themaster", Unauthenticated, "sentinel", "sentinel_password")
    await refused(f"redis+sentinel://:wrong@{watched}/themaster?sentinel_password=sentinels", Unauthenticated)
    await refused(
        f"redis+sentinel://:master%27s@{watched}/another?sentinel_password=sentinels", ConnectFailed, "another", "is that its name", seconds=1.5
    )
    await refused(f"redis+sentinel://:master%27s@127.0.0.1:{absent}/themaster", ConnectFailed, f"the sentinel 127.0.0.1:{absent}", seconds=1.5)


@pytest.mark.anyio
async def test_tls_to_sentinels_and_servers_each_by_itself(tls: RedisServer, certificates: tuple[Path, Path, Path], tmp_path: Path) -> None:
    ca, certificate, key = certificates
    plain_port, tls_port = free_ports(2)
    lines = [
        f"tls-port {tls_port}", f"tls-cert-file {certificate}", f"tls-key-file {key}", f"tls-ca-cert-file {ca}", "tls-auth-clients no", "tls-replication yes",
        f"sentinel monitor bytls 127.0.0.1 {tls.port} 1", f"sentinel monitor plainly 127.0.0.1 {server().port} 1",
        "sentinel down-after-milliseconds plainly 60000",  # to which it speaks TLS in vain
    ]  # fmt: skip
    with sentinel(tmp_path, plain_port, *lines):
        for sentinel_port, master, options in [
            (tls_port, "bytls", f"tls=true&tls_ca={ca}"),
            (plain_port, "bytls", f"tls=true&sentinel_tls=false&tls_ca={ca}"),
            (tls_port, "plainly", f"sentinel_tls=true&tls_ca={ca}"),
            (plain_port, "plainly", ""),
        ]:
            async with opened(f"redis+sentinel://127.0.0.1:{sentinel_port}/{master}?{options}") as rt:
                await works(rt)
        at = f"the sentinel 127.0.0.1:{tls_port}"
        await refused(f"redis+sentinel://127.0.0.1:{tls_port}/bytls?tls=true", ConnectFailed, at, "certificate", "tls_ca", seconds=1.5)
        await refused(f"redis+sentinel://127.0.0.1:{tls_port}/bytls", ConnectFailed, at, "does it want TLS?", seconds=1.5)


@pytest.fixture
def silent() -> Iterator[str]:
    """The host and port of what accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.anyio
async def test_sentinels_that_do_not_answer(silent: str) -> None:
    await refused(f"redis+sentinel://{silent},{silent},{silent}/themaster", ConnectFailed, "themaster", "did not answer within 0.4 s", seconds=1.0)


@pytest.mark.anyio
async def test_one_sentinel_that_answers_is_enough(watched: str, silent: str) -> None:
    (absent,) = free_ports()
    hosts = f"127.0.0.1:{absent},{silent},{silent},{watched}"
    with anyio.fail_after(1.0):  # one after the other would take 4 s
        async with opened(f"redis+sentinel://:master%27s@{hosts}/themaster?sentinel_password=sentinels") as rt:
            await works(rt)


@pytest.mark.anyio
async def test_of_several_sentinels_the_one_is_quoted_that_says_most(watched: str, silent: str) -> None:
    (absent,) = free_ports()
    dead = f"127.0.0.1:{absent},{silent}"
    await refused(f"redis+sentinel://{dead},{watched}/themaster", Unauthenticated, f"the sentinel {watched}", "sentinel_password", seconds=1.0)
    known = f"redis+sentinel://{dead},{watched}/another?sentinel_password=sentinels"
    await refused(known, ConnectFailed, "they name no such master", seconds=1.0)


@pytest.mark.anyio
async def test_a_step_store_is_told_what_sentinels_say(watched: str, silent: str) -> None:
    record = StepRecord("run", None, None, b"1")
    url = f"redis+sentinel://:master%27s@{watched}/themaster"
    async with RedisStepStore(f"{url}?sentinel_password=sentinels") as store:
        await store.record(fresh_namespace(), "step", record)
    for at, kind, words in [
        (url, Unauthenticated, f"the sentinel {watched} refuses .* sentinel_password"),
        (f"redis+sentinel://127.0.0.1:{server().port}/themaster", Unsupported, "is no sentinel: use redis://"),
        (f"redis+sentinel://{silent}/themaster", Unavailable, "within 1 s"),
    ]:
        with pytest.raises(kind, match=words):
            async with (store := RedisStepStore(at, timeout=1.0)):
                pass
        assert not store._open, "it is entered by nobody, and its connections are open"


@pytest.mark.anyio
async def test_a_server_that_is_no_sentinel() -> None:
    await refused(
        f"redis+sentinel://127.0.0.1:{server().port}/themaster",
        FanwireError,
        f"the sentinel 127.0.0.1:{server().port} is no sentinel",
        "redis://",
        seconds=1.0,
    )


class Wide(Channel, name="wide:{number}"):
    """Channels all over a cluster."""

    number: int
    n = topic(int)


@pytest.mark.anyio
async def test_a_cluster_has_channels_on_all_its_servers() -> None:
    namespace = fresh_namespace()
    refs = [Wide(number=number).n for number in range(60)]
    async with opened(cluster().url, namespace) as rt, watching(rt, *refs[:8]) as some, watching(rt, *refs) as everything:
        await rt.publish_many([ref(number * 60 + each) for number in range(5) for each, ref in enumerate(refs)])
        everywhere = 5 * len(refs)
        await until(lambda: len(everything.items) >= everywhere and len(some.items) >= 40, "all has come")
        for each in range(60):
            assert [number // 60 for number in everything.numbers if number % 60 == each] == [0, 1, 2, 3, 4]
        assert len(everything.items) == everywhere
        assert len(some.items) == 40
        for master in cluster().servers[:3]:
            with plain(master) as client:
                assert client.keys(f"{{{namespace}:*"), "a server has none of the channels"
                assert len(connections_of(client, namespace)) == 2
