"""In Flask: its test client, and a real threaded server in a process of its own, with a response that streams what is published by another request."""

from __future__ import annotations

import importlib.util
import signal
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from fanwire import BlockingRealtime
from fanwire.errors import Timeout, WrongLoop
from tests.blocking.support import finish, in_thread, program, room, until
from tests.untested import require


@pytest.fixture(autouse=True)
def _flask() -> None:
    require("flask", importlib.util.find_spec("flask") is not None, "the blocking façade in Flask")


def test_with_the_test_client() -> None:
    import flask

    app = flask.Flask(__name__)
    rt = BlockingRealtime.from_url("memory://")

    @app.post("/say/<int:number>")
    def say(number: int) -> dict[str, str]:
        return {"id": rt.publish(room.a, number).id}

    @app.get("/follow")
    def follow() -> flask.Response:
        def stream() -> Iterator[str]:
            with rt.subscribe(room.a) as messages:
                yield ": ready\n\n"
                while True:
                    try:
                        yield f"data: {messages.get(timeout=0.05).data}\n\n"
                    except Timeout:
                        yield ": still here\n\n"

        return flask.Response(stream(), mimetype="text/event-stream")

    assert app.test_client().post("/say/1").json == {"id": rt.history(room.a)[0].id}
    response = app.test_client().get("/follow")
    lines = response.iter_encoded()
    assert next(lines) == b": ready\n\n"
    finish(in_thread(lambda: app.test_client().post("/say/2")))
    assert next(lines) == b"data: 2\n\n"
    assert next(lines) == b": still here\n\n"
    assert app.test_client().post("/say/3").status_code == 200
    assert next(line for line in lines if not line.startswith(b":")) == b"data: 3\n\n"
    response.close()
    until(lambda: rt.stats().subscriptions == 0, "its subscription has gone")
    rt.close()


def test_an_async_view_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Flask runs it in an event loop, which must not be blocked."""
    import asyncio

    import flask

    app = flask.Flask(__name__)
    app.testing = True
    app.async_to_sync = lambda view: lambda *args, **kwargs: asyncio.run(view(*args, **kwargs))  # type: ignore[assignment,method-assign]  # asgiref's, in short
    rt = BlockingRealtime.from_url("memory://")

    @app.get("/")
    async def view() -> str:
        return rt.publish(room.a, 1).id

    with pytest.raises(WrongLoop, match="use a Realtime and await it"):
        app.test_client().get("/")


SERVER = """
    import logging
    import flask
    from werkzeug.serving import make_server

    logging.disable()
    app = flask.Flask(__name__)
    rt = BlockingRealtime.from_url("memory://")

    @app.post("/say/<int:number>")
    def publish(number: int) -> dict[str, str]:
        return {"id": rt.publish(room.a, number).id}

    @app.get("/follow")
    def follow() -> flask.Response:
        def stream():
            with rt.subscribe(room.a) as messages:
                yield ": ready\\n\\n"
                while True:
                    try:
                        yield f"data: {messages.get(timeout=0.05).data}\\n\\n"
                    except errors.Timeout:
                        yield ": still here\\n\\n"

        return flask.Response(stream(), mimetype="text/event-stream")

    @app.get("/stats")
    def stats() -> dict[str, object]:
        return rt.stats()._asdict()

    server = make_server("127.0.0.1", 0, app, threaded=True)
    say(server.port)
    server.serve_forever()  # ends by Ctrl-C without an error
    say("ended")
"""


def ask(port: int, method: str, path: str) -> bytes:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    assert answer.status == 200
    body = answer.read()
    connection.close()
    return body


def follow(port: int) -> tuple[HTTPConnection, HTTPResponse]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/follow")
    response = connection.getresponse()
    assert response.readline() == b": ready\n"
    return connection, response


def messages(response: HTTPResponse, number: int) -> list[int]:
    found: list[int] = []
    while len(found) < number:
        line = response.readline()
        assert line
        if line.startswith(b"data: "):
            found.append(int(line.removeprefix(b"data: ")))
    return found


@pytest.mark.slow
def test_with_a_real_server(tmp_path: Path) -> None:
    import json

    with program(SERVER, tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        port = int(process.stdout.readline() or process.stderr.read())
        followers = [follow(port) for _ in range(3)]
        for number in range(20):
            assert b"id" in ask(port, "POST", f"/say/{number}")
        for _, response in followers:
            assert messages(response, 20) == list(range(20))
        assert json.loads(ask(port, "GET", "/stats"))["subscriptions"] == 3
        for connection, response in followers[1:]:
            response.close()
            connection.close()
        until(lambda: json.loads(ask(port, "GET", "/stats"))["subscriptions"] == 1, "those who have gone are not subscribed any more")
        ask(port, "POST", "/say/20")
        assert messages(followers[0][1], 1) == [20]
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ended\n"
        assert process.wait(10) == 0, "it ends, although somebody is being served"
        assert time.monotonic() - begin < 5
        followers[0][0].close()
        assert process.stderr.read() == ""
