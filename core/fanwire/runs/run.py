"""Runs: publishing from work that is retried."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from inspect import isawaitable
from typing import Any, TypeVar, TypeVarTuple, final, get_type_hints, overload

from ..errors import ConfigError, DeclarationError, InvalidPayload, PayloadTooLarge, StepConflict
from ..messages import Receipt
from ..outgoing import not_a_ref, run_id_fault, unpack
from ..publishing import Sender
from ..schemas import JsonSchema, PydanticSchema, Schema, field_errors
from ..topics import Outgoing, TopicRef
from .store import StepRecord, StepStore

__all__ = ("Run", "Steps")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_logger = logging.getLogger("fanwire.runs")

_NO_DATA: Any = object()  # Any: stands for the argument that was not given, whatever its type


@final
class Run:
    """One attempt of a unit of work that is retried until it succeeds. Made by ``rt.run()``, anew for each attempt.

    What it publishes carries the run's id::

        run = rt.run("order-17", steps=store)
        await run.publish(chat.tokens, Token(token="Hello"))  # again on every attempt
        await run.step.publish("done", chat.status, Status(message="Done"))  # once, however often the work is retried

    After Inngest's ``publish`` and ``step.publish``.
    """

    __slots__ = ("_sender", "_step")

    def __init__(self, sender: Sender, steps: StepStore | None) -> None:
        if (fault := run_id_fault(sender.run_id)) is not None:
            raise ConfigError(f"a run's id {fault}")
        self._sender = sender
        self._step = None if steps is None else Steps(sender, steps)

    def __repr__(self) -> str:
        return f"<Run {self.id!r}{'' if self._step is None else f' {self._step.store!r}'}>"

    @property
    def id(self) -> str:
        """Names the work, the same at every attempt."""
        return self._sender.run_id

    @property
    def step(self) -> Steps:
        """The steps of this attempt.

        Raises:
            ConfigError: the run has no store to record them in.
        """
        if self._step is None:
            raise ConfigError(f"run {self.id!r} has no store for its steps: pass one, as in rt.run({self.id!r}, steps=SQLiteStepStore('steps.db'))")
        return self._step

    @overload
    async def publish(
        self, ref: TopicRef[T], data: T, /, *, key: str | None = None, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Receipt: ...
    @overload
    async def publish(
        self, outgoing: Outgoing[T], /, *, key: str | None = None, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Receipt: ...
    async def publish(
        self,
        ref: TopicRef[Any] | Outgoing[Any],  # Any: bound by the overloads
        data: object = _NO_DATA,
        /,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Publish one message, again on every attempt.

        Args:
            ref: A topic of a channel; or, as the only argument, ``ref(data)``.
            data: What the topic's schema accepts.
            key: Idempotency key, as for ``Realtime.publish``.
            headers: Strings that travel along, as for ``Realtime.publish``.
            timeout: Seconds to wait; by default the Realtime's.

        Returns:
            The broker's acknowledgement.

        Raises:
            FanwireError: as ``Realtime.publish``.
        """
        message = _outgoing(ref, data)
        key = message.key if key is None else key
        headers = message.headers if headers is None else headers
        return await self._sender.send(message.ref, self._sender.encode(message, key, headers), key, headers, timeout)

    # Any: messages of several topics
    async def publish_many(self, messages: Iterable[Outgoing[Any]], /, *, timeout: float | None = None) -> Sequence[Receipt]:
        """Publish several messages in one round trip, again on every attempt.

        Args:
            messages: ``ref(data)`` each.
            timeout: Seconds to wait for all of them; by default the Realtime's.

        Returns:
            One acknowledgement per message, in the order given.

        Raises:
            FanwireError: as ``Realtime.publish_many``.
        """
        return await self._sender.send_many(messages, timeout)


@final
class Steps:
    """The steps of one attempt of a run: what is recorded is not done again.

    A step is known by its id. An id that is used several times within an attempt, as in a loop, stands for as many steps, by their order: ``id``, ``id:1``, ``id:2``
    (Inngest's rule). Attempts must therefore go through their steps in the same order.
    """

    __slots__ = ("_run_id", "_sender", "_used", "store")

    def __init__(self, sender: Sender, store: StepStore) -> None:
        self.store: StepStore = store
        self._sender = sender
        self._run_id = sender.run_id
        self._used: dict[str, int] = {}
        """Ids taken in this attempt, with how often each was asked for."""

    def __repr__(self) -> str:
        return f"<Steps of run {self._run_id!r} {self.store!r}>"

    @overload
    async def publish(
        self, id: str, ref: TopicRef[T], data: T, /, *, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> T: ...
    @overload
    async def publish(self, id: str, outgoing: Outgoing[T], /, *, headers: Mapping[str, str] | None = None, timeout: float | None = None) -> T: ...
    async def publish(
        self,
        id: str,
        ref: TopicRef[Any] | Outgoing[Any],  # Any: bound by the overloads
        data: object = _NO_DATA,
        /,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:  # Any: as above
        """Publish one message, once however often the run is retried.

        It is published, then recorded. A crash between the two repeats it at the next attempt, under the same idempotency key: subscribers see it once, within the bounded
        window in which repeats are suppressed (see ``Realtime.publish``).

        Args:
            id: The step's name in this run, 255 bytes at most.
            ref: A topic of a channel; or, after the id, ``ref(data)`` as the only argument.
            data: What the topic's schema accepts.
            headers: Strings that travel along, as for ``Realtime.publish``.
            timeout: Seconds to wait for the broker; by default the Realtime's.

        Returns:
            The data as it is received by subscribers; where the step was recorded already, the data recorded, even if ``data`` is another one now.

        Raises:
            StepConflict: the id is recorded for another channel, another topic or a function; or what is recorded no longer passes the topic's schema.
            InvalidPayload: the schema refuses the data; nothing was sent or recorded.
            DeclarationError: the message has a key of its own.
            FanwireError: as ``Realtime.publish``, or the store failed.
        """
        message = _outgoing(ref, data)
        if message.key is not None:
            raise DeclarationError("a durable publish has an idempotency key of its own: leave key= out")
        ref, step = message.ref, self._take(id)
        headers = message.headers if headers is None else headers
        known = await self.store.load(self._run_id, step)
        if known is None:
            key = _key(self._run_id, step)
            encoded = self._sender.encode(message, key, headers)
            await self._sender.send(ref, encoded, key, headers, timeout)
            known = await self.store.record(self._run_id, step, StepRecord("publish", ref.channel, ref.topic, encoded))
        else:
            self._warn_if_changed(step, message, known)
        if (known.kind, known.channel, known.topic) != ("publish", ref.channel, ref.topic):
            raise StepConflict(
                f"{self._name(step)} is recorded as {_what(known)}, and cannot publish topic {ref.topic!r} on channel {ref.channel!r}: rename it"
            )
        return self._load(step, ref.schema, known)

    async def run(self, id: str, function: Callable[[*Ts], Awaitable[T]], /, *args: *Ts, schema: Schema[T] | None = None) -> T:
        """Run a function, once however often the run is retried.

        Args:
            id: The step's name in this run, 255 bytes at most.
            function: What to run. An exception of it is not recorded: the next attempt runs it again.
            *args: Its arguments. They are not recorded.
            schema: How its result is written and read; by default what its return annotation says, and without one the plain JSON value.

        Returns:
            What it returned when it was run, as it is read from the record: on the first attempt too, so that all attempts see the same.

        Raises:
            StepConflict: the id is recorded for a publish; or what is recorded no longer passes the schema.
            DeclarationError: the function is no ``async`` one, its annotation cannot be resolved, or its result cannot be written as JSON.
            FanwireError: the store failed.
        """
        reader: Schema[T] = _result_schema(function) if schema is None else schema
        step = self._take(id)
        known = await self.store.load(self._run_id, step)
        if known is None:
            awaitable: object = function(*args)
            if not isawaitable(awaitable):
                raise DeclarationError(f"{self._name(step)} takes an async function; run a blocking one by anyio.to_thread.run_sync")
            value = await awaitable
            try:
                data = reader.dump(reader.validate(value))
            except Exception as error:  # a schema may raise anything
                faults = "; ".join(f"{fault.location}: {fault.message}" if fault.location else fault.message for fault in field_errors(error))
                raise DeclarationError(f"{self._name(step)} returned what cannot be recorded ({faults}): return JSON, or pass schema=") from error
            known = await self.store.record(self._run_id, step, StepRecord("run", None, None, data))
        if known.kind != "run":
            raise StepConflict(f"{self._name(step)} is recorded as {_what(known)}, and cannot run a function: rename it")
        return self._load(step, reader, known)

    def _take(self, id: str) -> str:
        """Return the id this use stands for, at the moment of the call: concurrent steps are told apart by the order of the calls."""
        if (fault := run_id_fault(id)) is not None:
            raise ConfigError(f"a step's id {fault}")
        count = self._used.get(id, 0)
        step = f"{id}:{count}" if count else id
        while count and step in self._used:
            count += 1
            step = f"{id}:{count}"
        self._used[id] = count + 1
        self._used.setdefault(step, 1)
        return step

    def _warn_if_changed(self, step: str, message: Outgoing[Any], known: StepRecord) -> None:  # Any: a payload of any topic
        try:
            same = self._sender.encode(message, None, None) == known.data
        except (InvalidPayload, PayloadTooLarge):
            same = False
        if not same:
            _logger.warning("%s is recorded with other data than it has now: what is recorded stands, and nothing is sent", self._name(step))

    def _load(self, step: str, schema: Schema[T], known: StepRecord) -> T:
        try:
            return schema.load(known.data)
        except Exception as error:  # a schema may raise anything
            raise StepConflict(f"what is recorded of {self._name(step)} no longer passes its schema: rename the step, or forget the run") from error

    def _name(self, step: str) -> str:
        return f"step {step!r} of run {self._run_id!r}"


def _outgoing(ref: object, data: object) -> Outgoing[Any]:  # Any: a payload of any topic
    if data is _NO_DATA:
        return unpack(ref)
    if not isinstance(ref, TopicRef):
        raise DeclarationError(not_a_ref("publish()", ref))
    found: TopicRef[Any] = ref  # pyright: ignore[reportUnknownVariableType]  # an isinstance cannot tell the parameter
    return Outgoing(found, data)


def _what(record: StepRecord) -> str:
    return "a function" if record.kind == "run" else f"a publish of topic {record.topic!r} on channel {record.channel!r}"


def _key(run_id: str, step: str) -> str:
    """Return the step's idempotency key: the same at every attempt, and of one length. Readers see keys, so it tells neither id."""
    return "step:" + hashlib.sha256(f"{len(run_id)}:{run_id}{step}".encode()).hexdigest()[:40]


def _result_schema(function: Callable[..., Awaitable[T]]) -> Schema[T]:
    """Return the schema of what ``function`` is annotated to return."""
    try:
        hints = get_type_hints(getattr(function, "func", function), include_extras=True)
    except NameError as error:
        raise DeclarationError(f"the return annotation of {function!r} cannot be resolved ({error}): pass schema=") from error
    except TypeError:  # a callable without annotations, such as a bound method of a builtin
        hints = {}
    form = hints.get("return", Any)
    return JsonSchema(form) if form is Any else PydanticSchema(form)
