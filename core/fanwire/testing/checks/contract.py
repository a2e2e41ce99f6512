"""I: the contract itself, and what a transport says about itself. H4: the idempotency key."""

from __future__ import annotations

import importlib.util
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, cast, final

import anyio
import anyio.to_thread

from ...capabilities import Capabilities, HistoryForm
from ...codec import ENVELOPE
from ...errors import AuthError, Closed, ConfigError, ConnectFailed, FanwireError, Timeout, Unavailable, UnknownTransport, Unsupported
from ...messages import Cursor, GapReason, Message, Receipt, Start
from ...realtime import Realtime
from ...registry import installed, open_transport
from ...topics import TopicRef
from ...transport import Outbound, SupportsCopy, SupportsHistory, Transport
from ..check import check
from ..exchange import Exchange, up_to_the_end, works
from ..harness import Harness
from ..tools import Room, confirmed, expect, open_realtime, until

__all__ = ()

ROOM = Room(number=1)

# ---------------------------------------------------------------------- capabilities

_FORMS: dict[HistoryForm, Start] = {
    "earliest": Start.EARLIEST,
    "last_n": Start.last(1),
    "after_cursor": Start.after(Cursor("epoch", 1, "00000000")),
    "since_time": Start.since(datetime(2024, 5, 1, tzinfo=UTC)),
}

_EVERYTHING = Capabilities(
    delivery="exactly_once",
    ordering="channel",
    history=frozenset(_FORMS),
    multi_process=True,
    confirmed_publish=True,
    confirmed_subscribe=True,
    idempotent_publish=True,
    links="contiguous",
)


async def _refused(what: str, error: type[FanwireError], call: Callable[[], object]) -> FanwireError:
    """Assert that a call, or awaiting it, raises this class."""
    try:
        result = call()
        if isinstance(result, Awaitable):
            await result
    except error as raised:
        return raised
    raise AssertionError(f"{what} is not refused with {error.__name__}")


@check("I1", finds={"promise by the day"})
async def declared_capabilities(harness: Harness) -> None:
    """What is declared is well-formed, known before connecting, and stays; what is not declared is Unsupported, whoever asks for it."""
    transport = harness.transport()
    claims = transport.capabilities
    confirmed(0 < claims.max_channel_bytes <= 255, f"max_channel_bytes is {claims.max_channel_bytes}; 255 is the longest name there is")
    confirmed(claims.max_channel_bytes >= 32, f"names of at most {claims.max_channel_bytes} bytes are too short to be of use")
    confirmed(claims.max_payload is None or claims.max_payload >= 1_024, f"max_payload is {claims.max_payload}")
    confirmed(bool(claims.async_backends), "no event loop is declared")
    confirmed(not claims.history or isinstance(transport, SupportsHistory), "history is declared, but there is no history()")
    confirmed(bool(transport.name) and transport.name.isprintable(), f"the name is {transport.name!r}")
    for name in sorted(_EVERYTHING.names()):
        if name in claims.names():
            Realtime(harness.transport(), require={name})
        else:
            await _refused(f"require={{{name!r}}}", Unsupported, partial(Realtime, harness.transport(), require={name}))
    await _refused("require of what is no capability", ConfigError, lambda: Realtime(harness.transport(), require={"teleport"}))
    async with Realtime(transport, timeout=harness.patience, connect_timeout=harness.patience) as rt:
        expect(rt.capabilities, claims, "the capabilities once it is connected, against those before")
        await works(harness, rt, ROOM)
        expect(rt.capabilities, claims, "the capabilities after use")
    expect(transport.capabilities, claims, "the capabilities after it was closed")


@check("I1b", finds={"start anywhere"})
async def undeclared_history(harness: Harness) -> None:
    """A form of history that is not declared is Unsupported before anything is asked of the server; a declared one is not."""
    await _forms_of_history(harness, harness.transport())
    if harness.can("plain"):
        await _forms_of_history(harness, harness.plain())


async def _forms_of_history(harness: Harness, transport: Transport) -> None:
    async with Realtime(transport, timeout=harness.patience, connect_timeout=harness.patience) as rt:
        for form, start in _FORMS.items():
            if form in rt.capabilities.history:
                rt.subscribe(ROOM.a, start=start)
                continue
            calls: dict[str, Callable[[], object]] = {
                "subscribe": partial(rt.subscribe, ROOM.a, start=start),
                "subscribe to a channel": partial(rt.subscribe, ROOM, start=start),
                "subscribe by name": partial(rt.subscribe, ROOM.name, start=start),
                "history": partial(rt.history, ROOM.a, start=start),
            }
            for what, call in calls.items():
                error = await _refused(f"{what} from {start!r}", Unsupported, call)
                confirmed(form in str(error), f"the error does not name the form that is missing, {form!r}: {error}")
        expect(rt.stats().channels, 0, "channels subscribed")
        await works(harness, rt, ROOM)


@check("I7")
async def declared_event_loops(harness: Harness) -> None:
    """On an event loop that is declared it works, also in another thread; on one that is not, entering is Unsupported."""
    declared = harness.transport().capabilities.async_backends

    async def use() -> None:
        async with open_realtime(harness) as rt:
            await works(harness, rt, ROOM)

    backends: tuple[Literal["asyncio", "trio"], ...] = ("asyncio", "trio") if importlib.util.find_spec("trio") is not None else ("asyncio",)
    for backend in backends:
        try:
            await anyio.to_thread.run_sync(partial(anyio.run, use, backend=backend))
        except Unsupported:
            confirmed(backend not in declared, f"{backend} is declared and refused")
        else:
            confirmed(backend in declared, f"{backend} is not declared and not refused")


# ---------------------------------------------------------------------- errors


def _keeps_its_cause(harness: Harness, error: BaseException) -> None:
    """Assert that an error was made from one of the client's; what stays within the process has no client."""
    cause = error.__cause__
    while isinstance(cause, FanwireError):
        cause = cause.__cause__
    networked = harness.transport().capabilities.multi_process
    confirmed(cause is not None or not networked, f"the error of the client is not kept as the cause of {error!r}")


async def _enter(transport: Transport, seconds: float) -> None:
    async with Realtime(transport, timeout=seconds, connect_timeout=seconds):
        pass


@check("I2", uses={"absent"}, finds={"claim a connection"})
async def no_server(harness: Harness) -> None:
    """Where no server is, entering is ConnectFailed within connect_timeout: retryable, and with the client's own error as its cause."""
    seconds = min(0.3, harness.patience)
    with anyio.fail_after(seconds + harness.patience):
        error = await _refused("entering without a server", ConnectFailed, lambda: _enter(harness.absent(), seconds))
    confirmed(error.retryable, "ConnectFailed is not retryable")
    _keeps_its_cause(harness, error)


@check("I2b", uses={"unauthorised"}, finds={"mistake a refusal"})
async def refused_credentials(harness: Harness) -> None:
    """Credentials that the server refuses are an AuthError at once, not retried until the time is up, with the client's own error as its cause."""
    with anyio.fail_after(harness.patience):
        error = await _refused("entering with wrong credentials", AuthError, lambda: _enter(harness.unauthorised(), 10 * harness.patience))
    confirmed(not error.retryable, f"{type(error).__name__} is retryable, though no second attempt can help")
    _keeps_its_cause(harness, error)


# ---------------------------------------------------------------------- the escape hatch, and ping


@final
class _Nothing:
    """No client has an object of this type."""


@check("I3", finds={"hand out anything"})
async def native(harness: Harness) -> None:
    """The client's own objects are handed out by their type, the same each time; any other type is Unsupported, and the error names those there are."""
    async with open_realtime(harness) as rt:
        error = await _refused("native() of a type that no client has", Unsupported, lambda: rt.native(_Nothing))
        for kind in harness.native:
            found = cast("object", rt.native(kind))  # of the type that is looked at here
            confirmed(isinstance(found, kind), f"native({kind.__name__}) returned {found!r}")
            confirmed(rt.native(kind) is found, f"native({kind.__name__}) returns another object each time")
            confirmed(kind.__name__ in str(error), f"the error does not name {kind.__name__}: {error}")
        confirmed(_Nothing.__name__ in str(error), f"the error does not name what was asked for: {error}")


@check("I6")
async def ping(harness: Harness) -> None:
    """A ping takes its time and returns it, alone, side by side with others, and amid messages; after closing it is Closed."""
    async with open_realtime(harness) as rt, rt.subscribe(ROOM.a) as messages:
        line = Exchange(harness, rt, messages)
        times: list[float] = []

        async def one() -> None:
            times.append(await rt.ping())

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(one)
                await line.say(ROOM.a, number)
        expect(len(times), 20, "pings that were answered")
        confirmed(all(0 <= seconds <= harness.patience for seconds in times), f"pings took {sorted(times)} seconds")
    await _refused("ping after closing", Closed, rt.ping)


@check("I6b", uses={"stall", "resume"}, finds={"answer for the server"})
async def ping_of_a_stalled_server(harness: Harness) -> None:
    """While nothing gets through, a ping is Timeout or Unavailable, and never a success; afterwards it is one."""
    async with open_realtime(harness, timeout=0.2) as rt:
        await rt.ping()
        await harness.stall()
        try:
            for _ in range(2):
                error = await _refused("ping while nothing gets through", FanwireError, rt.ping)
                confirmed(isinstance(error, Timeout | Unavailable) and error.retryable, f"a ping that nobody answers raises {error!r}")
        finally:
            await harness.resume()
        with anyio.fail_after(harness.patience):
            while True:
                try:
                    await rt.ping()
                    break
                except (Timeout, Unavailable):
                    await anyio.sleep(0.01)  # it may have to connect again


# ---------------------------------------------------------------------- registration and configuration

_LAZY = """
import sys
from fanwire.registry import installed, open_transport
scheme = sys.argv[1]
module = installed()[scheme].reference.partition(":")[0]
assert module not in sys.modules, f"{module} is imported before a URL of it is opened"
print(module)
"""


@check("I4", uses={"schemes"})
async def discovery(harness: Harness) -> None:
    """The transport is found by its URL schemes, imported no sooner than one is opened; a scheme that is misspelt is UnknownTransport with a suggestion."""
    kind = type(harness.transport())
    confirmed(bool(harness.schemes()), "the harness names no scheme")
    for scheme in harness.schemes():
        registered = installed().get(scheme)
        if registered is None:
            raise AssertionError(f"no distribution registers {scheme}://; installed: {', '.join(installed())}")
        module, _, attribute = registered.reference.partition(":")
        confirmed(attribute.rpartition(".")[2] == kind.__name__, f"{scheme}:// is {registered.reference}, not {kind.__name__}")
        result = await anyio.run_process([sys.executable, "-c", _LAZY, scheme], check=False)
        expect((result.stderr.decode(), result.stdout.decode().strip()), ("", module), f"what importing fanwire imports of {scheme}://")
        misspelt = scheme[:-1] if len(scheme) > 3 else f"{scheme}{scheme[-1]}"
        error = await _refused(f"{misspelt}://", UnknownTransport, partial(open_transport, f"{misspelt}://"))
        confirmed(scheme in str(error), f"the error for {misspelt}:// does not lead to {scheme}://: {error}")


def _told_of(error: BaseException | None) -> str:
    """Return all that a traceback or an error tracker would show of an error."""
    return "" if error is None else f"{error!s} {error!r} {vars(error)!r} {_told_of(error.__cause__)} {_told_of(error.__context__)}"


@check("I5", uses={"schemes"}, finds={"tell secrets"})
async def configuration(harness: Harness) -> None:
    """Options that do not exist are ConfigError with a suggestion, and what stands for a password in a URL or an option is shown nowhere."""
    secret = secrets.token_hex(8)
    for scheme in harness.schemes():
        error = await _refused("an unknown option", ConfigError, partial(open_transport, f"{scheme}://localhost?namespac=x"))
        confirmed("namespace" in str(error), f"the error for the option 'namespac' does not suggest 'namespace': {error}")
        error = await _refused("a wrong namespace", ConfigError, partial(open_transport, f"{scheme}://localhost", namespace="a b"))
        confirmed("namespace" in str(error), f"the error for a wrong namespace does not name the option: {error}")
        for url, options in (
            (f"{scheme}://user:{secret}@localhost", {}),
            (f"{scheme}://user:{secret}@localhost?namespac=x", {}),
            (f"{scheme}://localhost?password={secret}", {}),
            (f"{scheme}://localhost", {"password": secret}),
            (f"{scheme}://localhost", {"token": secret}),
        ):
            try:
                transport = open_transport(url, **options)
            except ConfigError as refused:
                shown = _told_of(refused)
            else:
                rt = Realtime(transport)
                shown = f"{transport!r} {transport!s} {rt!r} {rt!s} {transport.capabilities!r}"
            confirmed(
                secret not in shown,
                f"the secret in {url.replace(secret, '***')} with options {list(options)} is shown: {shown.replace(secret, '***')}",
            )
    plain = harness.transport()
    for name, field in type(plain).options_model.model_fields.items():
        sensitive = any(word in name for word in ("pass", "secret", "token", "credential"))
        confirmed(not sensitive or "Secret" in repr(field.annotation), f"the option {name} is not SecretStr, so repr shows it")


# ---------------------------------------------------------------------- at the seam


@final
class _Recorder:
    """A sink that notes what it is told."""

    def __init__(self) -> None:
        self.confirmed: list[tuple[str, int, Cursor | None]] = []
        self.frames: list[tuple[str, int, bytes, Cursor | None]] = []
        self.ended = False

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        self.confirmed.append((channel, generation, position))

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        del prev
        confirmed(not self.ended, "a frame is delivered after run() was left")
        confirmed((channel, generation) in [known[:2] for known in self.confirmed], f"a frame of {channel!r} before it was said to be subscribed")
        self.frames.append((channel, generation, frame, position))

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        raise AssertionError(f"a loss of {lost} on {channels} because of {reason.value}, though nothing happened")


def _outbound(channel: str, number: int, *, retry: bool = False) -> Outbound:
    ref = TopicRef[Any](channel, "a")  # Any: a number
    id = f"seam.{number}"
    data = str(number).encode()
    frame = ENVELOPE.encode(ref, data, id, "2024-05-01T12:00:00.000Z", None, None, None)
    return Outbound(channel, "a", id, None, None, None, data, frame, retry)


@check("I8", needs={"ordering.publisher", "confirmed_subscribe"}, finds={"drop one"})
async def the_seam(harness: Harness) -> None:
    """Between transport and core: confirmed with generation and position before the first frame, frames byte for byte, positions that rise, one result per message."""
    transport, sink = harness.transport(), _Recorder()
    one, two = Room(number=1).name, Room(number=2).name
    async with transport.run(sink):
        answers = await transport.subscribe({one: None, two: None}, 1)
        expect(set(answers), {one, two}, "the channels that subscribe answers for")
        expect(sorted(sink.confirmed), sorted((name, 1, answers[name]) for name in (one, two)), "what the sink was told by then")
        expect(list(await transport.publish([])), [], "the results of an empty batch")
        batch = [_outbound((one, two)[number % 2], number) for number in range(50)]
        results = await transport.publish(batch)
        expect(
            [(r.id, r.channel, r.topic, r.duplicate) for r in results if isinstance(r, Receipt)],
            [(m.id, m.channel, "a", False) for m in batch],
            "receipts",
        )
        await until(lambda: len(sink.frames) >= 50, "the frames arrive", harness.patience)
        for name in (one, two):
            found = [frame for frame in sink.frames if frame[0] == name]
            expect([frame for _, _, frame, _ in found], [message.frame for message in batch if message.channel == name], f"the frames of {name}")
            positions = [position for _, _, _, position in found if position is not None]
            expect([p.offset for p in positions], sorted({p.offset for p in positions}), "the offsets, which rise")
            cursors = [r.cursor for r in results if isinstance(r, Receipt) and r.channel == name]
            confirmed(not any(cursors) or cursors == positions, "the positions are not those of the receipts")
        await transport.subscribe({one: None}, 2)
        await transport.unsubscribe([two, "room:unknown"])
        await transport.publish([_outbound(two, 50), _outbound(one, 51)])
        await until(lambda: sink.frames[-1][0] == one and len(sink.frames) > 50, "the frame behind an unsubscribe arrives", harness.patience)
        expect(
            (sink.frames[-1][1], sink.frames[-1][2]),
            (2, _outbound(one, 51).frame),
            "the generation of a channel that was subscribed again, and its frame",
        )
        await transport.ping()
    sink.ended = True
    again = _Recorder()
    async with transport.run(again):
        await transport.publish([_outbound(one, 52)])
        await transport.ping()
        expect(again.frames, [], "frames of channels that nobody has subscribed since it was entered again")


# ---------------------------------------------------------------------- the idempotency key


@check("H4", finds={"forget keys"})
async def repeats_under_a_key(harness: Harness) -> None:
    """A message published again under its key, by the same publisher or another, reaches a subscriber once; other keys and other channels have nothing to do with it."""
    other = Room(number=2)
    async with open_realtime(harness) as rt, open_realtime(harness) as second, rt.subscribe(ROOM.a, ROOM.text, other.a) as messages:
        line = Exchange(harness, rt, messages, alone=False)
        await line.say(ROOM.text, "begin")
        await line.say(other.a, -1)
        for number in range(20):
            await rt.publish(ROOM.a, number, key=f"key {number}")
            await (rt, second)[number % 2].publish(ROOM.a, number, key=f"key {number}")
            await rt.publish_many([ROOM.a(number, key=f"key {number}"), other.a(100 + number, key=f"key {number}")])
        found = await up_to_the_end(harness, rt, ROOM, messages)
        numbers = [message.data for message in found if message.topic == "a" and message.data >= 0]
        here, there = [n for n in numbers if n < 100], [n for n in numbers if n >= 100]
        if "ordering.publisher" in rt.capabilities.names():
            expect(here, list(range(20)), "what was published thrice under twenty keys")
            expect(there, list(range(100, 120)), "what was published on another channel under the same keys")
            expect(messages.stats().gaps, 0, "losses told, where repeats were dropped")
        expect((len(here), len(there)), (len(set(here)), len(set(there))), "messages, against different ones")


@check("H4b", needs={"idempotent_publish"}, finds={"forget keys"})
async def the_server_knows_keys(harness: Harness) -> None:
    """The server itself takes one of the messages under a key: the receipts of the others say so and name its position, and history holds it once."""
    async with open_realtime(harness) as rt, open_realtime(harness) as second:
        first = await rt.publish(ROOM.a, 1, key="one")
        confirmed(not first.duplicate, "the first message under a key is told to be a duplicate")
        for publisher in (rt, second):
            again = await publisher.publish(ROOM.a, 2, key="one")
            confirmed(again.duplicate, "a repeat under a key is not told to be one")
            confirmed(
                again.cursor is None or again.cursor[:2] == (first.cursor or again.cursor)[:2], "the receipt of a repeat names another position"
            )
        receipts: list[Receipt] = []

        async def publish(publisher: Realtime, number: int) -> None:
            receipts.append(await publisher.publish(ROOM.a, number, key="contested"))

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(publish, (rt, second)[number % 2], number)
        expect(sum(not receipt.duplicate for receipt in receipts), 1, "messages taken, of twenty under one key")
        confirmed(not (await rt.publish(ROOM.a, 3, key="three")).duplicate, "another key is told to be a duplicate")
        confirmed(not (await rt.publish(ROOM.a, 3)).duplicate, "a message without a key is told to be a duplicate")
        if "history.earliest" in rt.capabilities.names():
            keys = [message.key for message in await rt.history(ROOM.a)]
            expect(keys, ["one", "contested", "three", None], "the keys in history")


# ---------------------------------------------------------------------- a second one, in another event loop


@check("I9", needs={"confirmed_subscribe", "ordering.publisher"})
async def a_copy_for_blocking_code(harness: Harness) -> None:
    """A transport with ``copy()`` serves blocking code on a connection of its own, beside the one it was copied from; without it, ``blocking()`` is a ConfigError."""
    transport = harness.transport()
    async with Realtime(transport, timeout=harness.patience, connect_timeout=harness.patience) as rt, rt.subscribe(ROOM.a) as messages:
        if not isinstance(transport, SupportsCopy) or "asyncio" not in transport.capabilities.async_backends:
            await _refused("blocking() of a transport without copy()", ConfigError, rt.blocking)
            return
        expect(transport.copy().capabilities, transport.capabilities, "the capabilities of a copy")
        blocking = rt.blocking()

        def converse() -> object:
            with blocking, blocking.subscribe(ROOM.b) as answers:
                blocking.publish(ROOM.a, 1)
                return next(answers).data

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_answer, rt, messages)
            with anyio.fail_after(harness.patience):
                expect(await anyio.to_thread.run_sync(converse, abandon_on_cancel=True), 2, "the answer to what blocking code has published")
        await works(harness, rt, Room(number=3))


async def _answer(rt: Realtime, questions: AsyncIterator[Message[int]]) -> None:
    question = await anext(questions)
    await rt.publish(ROOM.b, question.data + 1)
