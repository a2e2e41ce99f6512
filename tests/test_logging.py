"""What is logged: below one logger, at the documented level, quiet while all is well, and never anything that a message holds or an option keeps secret."""

from __future__ import annotations

import ast
import enum
import importlib.util
import logging
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio
import pytest
from pydantic import BaseModel, Field, field_validator

from fanwire import Channel, Cursor, Message, Realtime, Start, TopicRef, channel, topic
from fanwire.errors import ConnectFailed, FanwireError, Internal, PermissionDenied, Unauthenticated, Unavailable
from fanwire.events import InvalidMessage
from fanwire.hub import connection, hub, lanes, records
from fanwire.hub.hub import Hub
from fanwire.messages import Receipt
from fanwire.transport import Outbound, Sink
from fanwire_memory import MemoryTransport
from fanwire_schemas.attrs import AttrsSchema
from fanwire_schemas.msgspec import MsgspecSchema
from tests.hub.support import LINKED, FakeHistory, FakeTransport, HastyClock, entries, entry, frame, until
from tests.planting import planting
from tests.rules.support import Room, engine_of, pair, take

LEVELS = ("debug", "info", "warning", "error", "exception", "critical")

DOCUMENTED = {
    ("fanwire", "warning", "skipped an invalid message of %d bytes on %s: %s"),
    ("fanwire", "error", "fanwire stopped by an unexpected error"),
    ("fanwire", "debug", "reading history failed: %s"),
    ("fanwire.connection", "warning", "%s: connection attempt %d failed: %s"),
    ("fanwire.connection", "warning", "%s: the connection was lost: %s"),
    ("fanwire.connection", "error", "%s: giving up: %s"),
    ("fanwire.connection", "error", "%s: unexpected error in the transport"),
    ("fanwire.history", "warning", "the history of channel %r cannot be read: %s"),
    ("fanwire.hub", "error", "the on_invalid hook failed on channel %r"),
    ("fanwire.publish", "error", "%s: unexpected error in publish"),
    ("fanwire.reconciler", "debug", "unsubscribing %d channels failed: %s"),
    ("fanwire.runs", "warning", "%s is recorded with other data than it has now: what is recorded stands, and nothing is sent"),
    ("fanwire.subscription", "warning", "%s"),
}
"""Every record of the library, as docs/logging.md has them: a new one has to be entered in both places."""

room = Room(number=1)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections come back without a wait."""
    monkeypatch.setattr(connection, "backoff", lambda _: 0.0)


# ---------------------------------------------------------------- by the sources


def sources() -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules of the library: not its command line and its test kit, which are programs."""
    roots: set[Path] = set()
    for package in ("fanwire", "fanwire_memory", "fanwire_schemas"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        roots.add(Path(spec.origin).parent.parent)
    for root in sorted(roots):
        for path in sorted(root.glob("fanwire*/**/*.py")):
            inside = path.relative_to(root).parts
            if inside[1] not in {"cli", "testing"}:
                yield "/".join(inside), ast.parse(path.read_text(encoding="utf-8"))


def logged(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Yield logger, level and message of each call that logs; ``?`` for what is not written out there."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    names = {text(call.args[0]) for call in calls if ast.unparse(call.func) == "logging.getLogger" and call.args}
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        target = ast.unparse(call.func.value)
        if call.func.attr in LEVELS and ("logger" in target.lower() or target == "logging"):
            name = next(iter(names)) if len(names) == 1 and target == "_logger" else "?"
            yield name, "error" if call.func.attr == "exception" else call.func.attr, text(call.args[0])


def text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else "?"


def test_every_record_is_below_fanwire_and_documented() -> None:
    found = [record for _, tree in sources() for record in logged(tree)]
    assert set(found) == DOCUMENTED
    assert len(found) == len(DOCUMENTED), "each is logged in one place"
    assert all(name == "fanwire" or name.startswith("fanwire.") for name, _, _ in found)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('import logging\nlogging.warning("x")', ("?", "warning", "x")),
        ('import logging\nlogging.getLogger().info("x")', ("?", "info", "x")),
        ('import logging\n_logger = logging.getLogger(__name__)\n_logger.debug("x")', ("?", "debug", "x")),
        ('import logging\n_logger = logging.getLogger("redis")\n_logger.exception(f"{1}")', ("redis", "error", "?")),
    ],
)
def test_a_record_elsewhere_is_found(source: str, found: tuple[str, str, str]) -> None:
    assert list(logged(ast.parse(source))) == [found]
    assert found not in DOCUMENTED


@pytest.mark.checkout
def test_the_documentation_names_every_logger_with_its_levels() -> None:
    page = Path(__file__).resolve().parent.parent / "docs" / "logging.md"
    if not page.exists():
        pytest.fail("docs/logging.md is missing")
    listed: set[tuple[str, str]] = set()
    name = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.split("|")]
        if len(cells) == 5 and cells[2] in {"debug", "info", "warning", "error"}:
            name = cells[1] or name
            listed.add((name, cells[2]))
    assert listed == {(name, level) for name, level, _ in DOCUMENTED}


def test_nothing_is_configured() -> None:
    code = (
        "import logging, fanwire, fanwire_memory, fanwire.hub.engine, fanwire.realtime; "
        "own = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith('fanwire')]; "
        "assert own and not logging.root.handlers; "
        "assert all(not one.handlers and one.propagate and one.level == logging.NOTSET and not one.filters for one in own), own"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


# ---------------------------------------------------------------- by what happens


def heard(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    """Logger, level and text of what was logged."""
    return [(one.name, one.levelname.lower(), one.getMessage()) for one in caplog.records if one.name.startswith("fanwire")]


@pytest.mark.anyio
async def test_nothing_is_said_while_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Realtime.from_url("memory://") as rt:
        await rt.publish_many([room.a(n) for n in range(50)])
        async with rt.subscribe(room, start=Start.EARLIEST) as early, rt.subscribe(room) as live, rt.events() as events:
            for n in range(50):
                await rt.publish(room.b, n, key=f"k{n}", headers={"a": "b"})
            assert len(await take(early, 100)) == 100
            assert len(await take(live, 50)) == 50
            assert (await anext(events)).attempt == 0
            await rt.ping()
            await rt.history(room)
    assert heard(caplog) == []


@pytest.mark.anyio
async def test_a_connection_that_breaks_warns_once_per_attempt(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport = MemoryTransport()
    async with Realtime(transport) as rt:
        transport.faults.disconnect(refuse=2)
        await until(lambda: rt.stats().connections == 2)
    assert heard(caplog) == [
        ("fanwire.connection", "warning", "memory: the connection was lost: memory: the connection was broken by a scripted fault"),
        ("fanwire.connection", "warning", "memory: connection attempt 1 failed: memory: the connection was refused by a scripted fault"),
        ("fanwire.connection", "warning", "memory: connection attempt 2 failed: memory: the connection was refused by a scripted fault"),
    ]


@pytest.mark.anyio
async def test_giving_up_is_an_error_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport = FakeTransport()
    async with Realtime(transport) as rt:
        transport.connects = [Unauthenticated("wrong password")]
        transport.break_()
        await until(lambda: rt.stats().state == "failed")
    assert heard(caplog)[-1] == ("fanwire.connection", "error", "fake: giving up: wrong password")


@pytest.mark.anyio
async def test_a_gap_warns_unless_it_is_shown_or_raised(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport = MemoryTransport()
    async with Realtime(transport) as rt, rt.subscribe(room) as logs, rt.subscribe(room).with_gaps() as shows:
        transport.faults.drop(2, skip=1, stored=False)
        for n in range(4):
            await rt.publish(room.a, n)
        assert len(await take(shows, 3)) == 3
        assert heard(caplog) == []
        assert [message.data for message in await take(logs, 2)] == [0, 3]
    assert heard(caplog) == [("fanwire.subscription", "warning", "2 messages lost on channel 'room:1' (hole)")]


@pytest.mark.anyio
async def test_what_may_be_tried_again_is_said_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    history = FakeHistory()
    history.store("c", *entries("c", 1, 3))
    history.history_errors = [Unavailable("busy")]
    ref: TopicRef[Any] = TopicRef("c", "t")  # Any: payloads do not matter here
    async with Realtime(history, clock=HastyClock(), linger=0.0) as rt:
        async with rt.subscribe(ref, start=Start.EARLIEST) as messages:
            assert len(await take(messages, 3)) == 3

        async def fail() -> None:
            raise Unavailable("later")

        history.on_unsubscribe = fail
        await until(lambda: not rt.stats().channels)
    assert heard(caplog) == [
        ("fanwire", "debug", "reading history failed: busy"),
        ("fanwire.reconciler", "debug", "unsubscribing 1 channels failed: later"),
    ]


# ---------------------------------------------------------------- skipped messages


class Model(BaseModel):
    message: str
    level: int = 0


class Quoting(BaseModel):
    """A careless author's validator."""

    message: str

    @field_validator("message")
    @classmethod
    def refuse(cls, value: str) -> str:
        raise ValueError(f"{value.upper()} is not nice")


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Color(enum.Enum):
    RED = "red"


SECRET = "s3cret-4711"
SCHEMAS: dict[str, tuple[object, object, str]] = {
    "a field": (Model, {"message": 3, "level": SECRET}, "message: Input should be a valid string; level: Input should be a valid integer"),
    "a missing field": (Model, {"level": 7, "note": SECRET}, "message: Field required"),
    "a validator that quotes": (Quoting, {"message": SECRET}, "may quote it"),
    "a tag": (Annotated[Cat | Dog, Field(discriminator="kind")], {"kind": SECRET}, "does not match any of the expected tags: 'cat', 'dog'"),
    "a value of an enum, msgspec": (MsgspecSchema(Color), SECRET, "may quote it"),
    "a literal, msgspec": (MsgspecSchema(Literal["a"]), SECRET, "may quote it"),
    "a number": (list[int], [1, 2, SECRET], "2: Input should be a valid integer"),
    "attrs": (AttrsSchema(dict[str, int]), {"a": SECRET}, "a: expected int, got str"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", SCHEMAS)
async def test_a_skipped_message_is_told_without_its_values(case: str, caplog: pytest.LogCaptureFixture) -> None:
    schema, wrong, said = SCHEMAS[case]
    chat = channel(name="chat", topics={"status": schema, "other": int})
    async with Realtime.from_url("memory://") as rt, rt.subscribe(chat.status, chat.other) as messages:
        await rt.publish(TopicRef("chat", "status"), wrong, key=f"key-{SECRET}", headers={"h": SECRET})
        await rt.publish(chat.other, 1)
        assert len(await take(messages, 1)) == 1
    (record,) = [one for one in caplog.records if one.name.startswith("fanwire")]
    assert (record.name, record.levelno) == ("fanwire", logging.WARNING)
    assert record.getMessage().startswith("skipped an invalid message of ")
    assert "on topic 'status' of channel 'chat': " in record.getMessage()
    assert said in record.getMessage()
    assert SECRET.casefold() not in record.getMessage().casefold()


def told(reason: str, raw: bytes, caplog: pytest.LogCaptureFixture, topic: str | None = "t") -> str:
    caplog.clear()
    records.log_invalid(InvalidMessage("c", topic, reason, raw))
    return caplog.messages[0].partition(": ")[2]


def test_words_of_a_schema_are_withheld_only_where_they_may_quote(caplog: pytest.LogCaptureFixture) -> None:
    envelope = frame("c", "p.1", {"note": "abcdefghijklmnopqrstuvwxyz", "n": 123456, "deep": [{"x": 'a"b\nc d'}], "ok": True, "none": None})
    withheld = "its schema refuses it, in words that may quote it: on_invalid= is told"
    assert told("note: too long", envelope, caplog) == "note: too long"
    assert told("note: ABCDEFGHIJKLMNOP… is too long", envelope, caplog) == withheld
    assert told("n: 123456 is too much", envelope, caplog) == withheld
    assert told("deep.0.x: 'a\"b\\nc d' is odd", envelope, caplog) == withheld
    assert told("ok: True or None", envelope, caplog) == "ok: True or None"
    assert told("x" * 10, b"x" * 100_000, caplog) == withheld, "too large to be compared"
    assert told("cannot read hello", b"\xff hello", caplog) == withheld
    assert told("cannot read", b"\xff hello", caplog) == "cannot read"
    assert told("the frame is not UTF-8", b"\xff frame", caplog, None) == "the frame is not UTF-8", "the codec's own words"
    assert told("t: wrong", frame("c", "p.1", {"t": 1}, topic="wrong"), caplog) == "t: wrong", "names are no secrets"


# ---------------------------------------------------------------- secrets, everywhere, whatever happens

SECRETS = {
    "payload": "payl0ad-5ecret",
    "wrong payload": "wr0ng-5ecret",
    "key": "k3y-5ecret",
    "header": "h3ader-5ecret",
    "URL": "ur1-5ecret",
    "option": "0ption-5ecret",
    "hook": "h00k-5ecret",
}


class AgentChat(Channel, name="agent-chat:{thread_id}"):
    thread_id: str
    status = topic(Model)
    quoting = topic(Quoting)


def everything_in(records: Sequence[logging.LogRecord]) -> str:
    """Return whatever a handler could write of records: text with traceback, arguments, and attributes."""
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
    return "\n".join(
        f"{formatter.format(one)}\n{one.args!r}\n{ {name: value for name, value in vars(one).items() if name != 'exc_info'}!r}" for one in records
    )


def leaked(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = everything_in(caplog.records).casefold()
    return [place for place, secret in SECRETS.items() if secret in said]


async def publish_secrets(rt: Realtime, chat: AgentChat, count: int) -> None:
    for n in range(count):
        await rt.publish(chat.status, Model(message=SECRETS["payload"], level=n), key=f"{SECRETS['key']}-{n}", headers={"x": SECRETS["header"]})


LAST = 999


async def through_every_fault(chat: AgentChat) -> None:
    """Lose, repeat, refuse, break, trim, restart and fill up, with secrets in every message."""
    here, transport = pair()

    def hook(message: InvalidMessage) -> None:
        raise RuntimeError(f"{SECRETS['hook']} {message.frame!r}")

    async with Realtime(here, clock=HastyClock(), on_invalid=hook) as rt, Realtime(transport, clock=HastyClock()) as other:  # noqa: SIM117
        async with rt.subscribe(chat, buffer=4) as slow, other.subscribe(chat) as logs, rt.subscribe(chat).with_gaps() as shows:
            await publish_secrets(rt, chat, 10)
            faults: list[Callable[[], None]] = [
                lambda: transport.faults.drop(2),
                lambda: transport.faults.drop(2, stored=False),
                lambda: transport.faults.duplicate(2),
                lambda: transport.faults.lose_ack(1),
                lambda: transport.faults.refuse(PermissionDenied("not now"), 1),
                lambda: transport.faults.disconnect(refuse=1),
                lambda: transport.faults.trim(chat.name),
                lambda: transport.faults.new_epoch(chat.name),
            ]
            for fault in faults:
                fault()
                try:
                    await publish_secrets(rt, chat, 3)
                except PermissionDenied:
                    continue
            wrong = {"message": SECRETS["wrong payload"], "level": SECRETS["wrong payload"]}
            for name in ("status", "quoting"):
                await rt.publish(TopicRef(chat.name, name), wrong, key=SECRETS["key"], headers={"x": SECRETS["header"]})
            broker = transport.faults._broker
            for raw in (
                SECRETS["payload"].encode(),
                b'{"data":"%b"' % SECRETS["payload"].encode(),
                b'{"channel":3,"data":"%b"}' % SECRETS["payload"].encode(),
            ):
                broker.inject(chat.name, raw)
            await rt.publish(chat.status, Model(message=SECRETS["payload"], level=LAST))
            for messages in (slow, logs, shows):
                with anyio.fail_after(10):
                    while not isinstance(item := await anext(messages), Message) or item.data.level != LAST:
                        pass
    with pytest.raises(Internal):
        async with Realtime(Careless()) as rt:
            await publish_secrets(rt, chat, 1)


class Careless(FakeTransport):
    """A driver whose mistakes quote what it was given."""

    async def publish(self, batch: Sequence[Outbound], /) -> Sequence[Receipt | FanwireError]:
        raise KeyError(batch[0].frame) from ValueError(SECRETS["option"])

    async def subscribe(self, wanted: Mapping[str, frozenset[str] | None], generation: int, /) -> Mapping[str, Cursor | None | FanwireError]:
        raise LookupError(SECRETS["option"])


@pytest.mark.anyio
async def test_no_secret_is_logged_whatever_goes_wrong(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await through_every_fault(AgentChat(thread_id="t"))
    assert {one.name for one in caplog.records} >= {"fanwire", "fanwire.connection", "fanwire.hub", "fanwire.publish", "fanwire.subscription"}
    assert leaked(caplog) == []


@pytest.mark.anyio
async def test_no_secret_of_a_url_is_logged(caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG)
    chat = AgentChat(thread_id="t")
    with planting(tmp_path, monkeypatch) as planter:
        planter.toyfan()
        rt = Realtime.from_url(f"toy://user:{SECRETS['URL']}@host?password={SECRETS['option']}")
        toy = rt._transport
        url: str = toy.options.url.get_secret_value()  # type: ignore[attr-defined]  # the toy's own
        assert SECRETS["URL"] in url
        run = type(toy).run
        failures: list[Exception] = [ConnectFailed("toy: no route to host")]

        @asynccontextmanager
        async def stumble(self: Any, sink: Sink) -> AsyncGenerator[None, None]:  # Any: of a planted module
            if failures:
                raise failures.pop()
            async with run(self, sink):
                yield

        monkeypatch.setattr(type(toy), "run", stumble)
        async with rt, rt.subscribe(chat.status) as messages:
            await publish_secrets(rt, chat, 3)
            assert len(await take(messages, 3)) == 3
            assert repr(rt) == "<Realtime toy connected>"
        failures.append(ValueError(f"bad DSN {url}?password={SECRETS['option']}"))
        with pytest.raises(Internal):
            async with Realtime(toy):
                raise AssertionError("it cannot be opened")
    assert {one.name for one in caplog.records if one.name.startswith("fanwire")} == {"fanwire.connection"}
    assert "toy: giving up: a defect (ValueError)" in caplog.messages
    assert leaked(caplog) == []


@pytest.mark.anyio
async def test_a_defect_of_the_transport_in_subscribe_is_logged_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with Realtime(Careless()) as rt:
        with pytest.raises(FanwireError):
            await rt.subscribe(TopicRef("c", "t")).__aenter__()
    (record,) = [one for one in caplog.records if one.name.startswith("fanwire")]
    assert record.getMessage() == "fanwire stopped by an unexpected error"
    assert record.exc_info is not None
    said = everything_in([record])
    assert "LookupError, whose text is withheld" in said
    assert "in _ask" in said, "where it came from is told"
    assert leaked(caplog) == []


# ---------------------------------------------------------------- the net itself


def log_the_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Hub._receive

    def receive_and_tell(sink: Hub, record: Any, raw: bytes, position: Cursor | None, prev: Cursor | None) -> None:  # Any: a record
        logging.getLogger("fanwire.hub").debug("received %r", raw)
        receive(sink, record, raw, position, prev)

    monkeypatch.setattr(Hub, "_receive", receive_and_tell)


def log_exceptions_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hub, lanes):
        monkeypatch.setattr(module, "traced", lambda error: (type(error), error, error.__traceback__))


def believe_schemas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_quotes", lambda *_: False)


@pytest.mark.anyio
@pytest.mark.parametrize("plant", [log_the_frame, log_exceptions_as_they_are], ids=lambda plant: plant.__name__)
async def test_a_planted_leak_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    plant(monkeypatch)
    await through_every_fault(AgentChat(thread_id="t"))
    assert leaked(caplog) != []


def test_a_schema_that_is_believed_leaks(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    believe_schemas(monkeypatch)
    assert SECRET in told(f"not {SECRET}", frame("c", "p.1", SECRET), caplog)


@pytest.mark.anyio
async def test_what_a_linked_history_says_of_a_channel_is_its_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    transport = FakeHistory(LINKED)
    transport.store("c", *entries("c", 1, 1))
    transport.history_errors = [PermissionDenied("not yours")]
    async with Realtime(transport, clock=HastyClock()) as rt, rt.subscribe(TopicRef("c", "t")) as messages:
        transport.store("c", *entries("c", 2, 4))
        transport.push("c", entry("c", 4))
        await until(lambda: engine_of(rt).hub.gaps == 1)
        assert len(await take(messages, 1)) == 1
    assert heard(caplog) == [
        ("fanwire.history", "warning", "the history of channel 'c' cannot be read: not yours"),
        ("fanwire.subscription", "warning", "an unknown number of messages lost on channel 'c' (expired)"),
    ]
