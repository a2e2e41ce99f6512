"""The command line over a real Redis: what ``fanwire check`` says about a server that can be used and about others, and the demo."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest

from tests.cli.commands import fanwire
from tests.servers.processes import free_ports
from tests.servers.redis import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    made = RedisServer()
    made.start()
    with made.client() as client:
        client.execute_command("ACL SETUSER reader on >pw ~{fanwire:* &{fanwire:* +@all -xadd -publish")
        client.execute_command("ACL SETUSER stranger on >pw ~other:* &other:* +@all")
        client.execute_command("ACL SETUSER live on >pw &{fanwire:* -@all +ping +subscribe +unsubscribe +publish")
    yield made
    made.stop()


def checked(url: str, *arguments: str, code: int) -> dict[str, Any]:
    """Run ``fanwire check``; return the object it prints, with the steps by name."""
    result = fanwire("check", url, "--json", "--timeout", "10", *arguments)
    assert (result.exit_code, result.stderr) == (code, ""), result.output
    found: dict[str, Any] = json.loads(result.stdout)  # Any: JSON
    found["steps"] = {step["name"]: step for step in found["steps"]}
    return found


def test_all_is_well(server: RedisServer) -> None:
    found = checked(server.url, code=0)
    assert [step["status"] for step in found["steps"].values()] == ["ok"] * 9
    assert found["may"] == {"subscribe": True, "publish": True, "history": True}
    assert found["capabilities"]["delivery"] == "exactly_once"
    found = checked(f"{server.url}?history=0", code=0)
    assert (found["steps"]["history"]["status"], found["steps"]["receive"]["status"]) == ("skipped", "ok")


def test_nobody_is_there(server: RedisServer) -> None:
    (port,) = free_ports()
    for url, diagnosis in (
        (f"redis://127.0.0.1:{port}", "refused"),
        (f"redis+cluster://127.0.0.1:{port}", "refused"),
        ("redis://nowhere.invalid", "dns"),
        ("redis+unix:///nowhere/redis.sock", "no_socket"),
        (f"redis+sentinel://127.0.0.1:{port}/main", "refused"),
    ):
        step = checked(url, "--timeout", "0.5", code=3)["steps"]["connect"]
        assert (step["code"], step["diagnosis"]) == ("connect_failed", diagnosis), url


@pytest.mark.parametrize(
    ("url", "code", "diagnosis", "text"),
    [
        ("redis://reader:wrong@HOST", 4, "credentials", "refuses the credentials"),
        ("redis://nobody:wrong@HOST", 4, "credentials", "refuses the credentials"),
        ("redis://HOST/99", 2, "bad_option", "DB index is out of range"),
        ("redis+cluster://HOST", 2, "unsupported", "is no cluster: use redis://"),
    ],
)
def test_what_is_not_waited_for(server: RedisServer, url: str, code: int, diagnosis: str, text: str) -> None:
    step = checked(url.replace("HOST", f"127.0.0.1:{server.port}"), code=code)["steps"]["connect"]
    assert step["diagnosis"] == diagnosis
    assert text in step["detail"]
    assert step["seconds"] < 5
    assert "wrong" not in json.dumps(step)


def test_what_a_user_may_not_do(server: RedisServer) -> None:
    found = checked(f"redis://reader:pw@127.0.0.1:{server.port}", code=4)
    assert found["may"]["publish"] is False
    assert found["steps"]["publish"]["diagnosis"] == "permission"
    found = checked(f"redis://stranger:pw@127.0.0.1:{server.port}", code=4)
    assert found["may"] == {"subscribe": False, "publish": False, "history": False}
    found = checked(f"redis://live:pw@127.0.0.1:{server.port}?history=0", code=0)
    assert found["may"] == {"subscribe": True, "publish": True, "history": None}


_ANSWERS = {b"INFO SERVER": b"# Server\r\nredis_version:6.2.14\r\n", b"CLIENT INFO": b"id=7 addr=127.0.0.1:1\n"}


class _Old(socketserver.BaseRequestHandler):
    """Says that it is Redis 6.2, which no package of today has."""

    def handle(self) -> None:
        reader = hiredis.Reader()
        while data := self.request.recv(65_536):
            reader.feed(data)
            while (command := reader.gets()) is not False:
                text = _ANSWERS.get(b" ".join(command[:2]).upper(), b"OK")
                self.request.sendall(b"$%d\r\n%s\r\n" % (len(text), text))


def test_a_server_that_is_too_old() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Old) as old:
        old.daemon_threads = True
        threading.Thread(target=old.serve_forever, args=(0.01,), daemon=True).start()
        result = fanwire("check", f"redis://127.0.0.1:{old.server_address[1]}", "--timeout", "10")
        old.shutdown()
    assert result.exit_code == 2
    line = next(line for line in result.stdout.splitlines() if line.startswith("FAILED  connect"))
    assert "is Redis 6.2.14" in line
    assert "upgrade it, or set history=0" in line
    assert "fanwire check" not in result.stdout  # which has just been done


@pytest.mark.slow
def test_the_demo_by_one_setting(server: RedisServer, file: Path) -> None:
    """Three processes, of which one is killed; the environment says over which broker."""
    result = fanwire("demo", "--input", file, "--json", env={"FANWIRE_URL": f"{server.url}?client_name=demo"})
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["verdict"] == "passed"
    assert [attempt["returncode"] for attempt in found["attempts"]] == [-9, 0]
    with server.client() as client:
        assert client.xlen(f"{{fanwire:{found['channel']}}}:s") == sum(attempt["tokens"] for attempt in found["attempts"]) + 4
    # Statuses that were repeated under their keys are there once.
    assert found["suppressed"] == 1


def test_the_option_wins_over_the_environment(file: Path) -> None:
    (port,) = free_ports()
    result = fanwire("demo", "--input", file, "--timeout", "0.5", "--url", f"redis://127.0.0.1:{port}", env={"FANWIRE_URL": "memory://"})
    assert result.exit_code == 3
    result = fanwire("demo", "--input", file, "--timeout", "0.5", env={"FANWIRE_URL": f"redis://app:hunter2@127.0.0.1:{port}"})
    assert (result.exit_code, "hunter2" in result.output) == (3, False)
