"""BlockingRun: publishing from work that is retried, without an event loop.

Generated from core/fanwire/runs/run.py by scripts/generate_blocking.py: change that file, and run ``make generate``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, TypeVarTuple, final, overload

from ..messages import Receipt
from ..runs.run import (
    _NO_DATA,  # pyright: ignore[reportPrivateUsage]  # a default, by identity
    Run,
    Steps,
)
from ..runs.store import StepStore
from ..schemas import Schema
from ..topics import Outgoing, TopicRef
from .lifetime import Part, unchecked

__all__ = (
    "BlockingRun",
    "BlockingSteps",
)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@final
class BlockingRun(Part[Run]):
    """One attempt of a unit of work that is retried until it succeeds. Made by ``rt.run()``, anew for each attempt.

    What it publishes carries the run's id::

        run = rt.run("order-17", steps=store)
        run.publish(chat.tokens, Token(token="Hello"))  # again on every attempt
        run.step.publish("done", chat.status, Status(message="Done"))  # once, however often the work is retried

    After Inngest's ``publish`` and ``step.publish``.
    """

    __slots__ = ()

    @property
    def id(self) -> str:
        """Names the work, the same at every attempt."""
        return self._plan.id

    @property
    def step(self) -> BlockingSteps:
        """The steps of this attempt.

        Raises:
            ConfigError: the run has no store to record them in.
        """
        return BlockingSteps(self._owner, self._plan.step, lambda realtime: self._on(realtime).step)

    @overload
    def publish(
        self, ref: TopicRef[T], data: T, /, *, key: str | None = None, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Receipt: ...
    @overload
    def publish(
        self, outgoing: Outgoing[T], /, *, key: str | None = None, headers: Mapping[str, str] | None = None, timeout: float | None = None
    ) -> Receipt: ...
    def publish(
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
            key: Idempotency key, as for ``BlockingRealtime.publish``.
            headers: Strings that travel along, as for ``BlockingRealtime.publish``.
            timeout: Seconds to wait; by default the BlockingRealtime's.

        Returns:
            The broker's acknowledgement.

        Raises:
            FanwireError: as ``BlockingRealtime.publish``.
        """
        return self._call(lambda run: unchecked(run.publish)(ref, data, key=key, headers=headers, timeout=timeout))

    # Any: messages of several topics
    def publish_many(self, messages: Iterable[Outgoing[Any]], /, *, timeout: float | None = None) -> Sequence[Receipt]:
        """Publish several messages in one round trip, again on every attempt.

        Args:
            messages: ``ref(data)`` each.
            timeout: Seconds to wait for all of them; by default the BlockingRealtime's.

        Returns:
            One acknowledgement per message, in the order given.

        Raises:
            FanwireError: as ``BlockingRealtime.publish_many``.
        """
        messages = tuple(messages)
        return self._call(lambda run: run.publish_many(messages, timeout=timeout))


@final
class BlockingSteps(Part[Steps]):
    """The steps of one attempt of a run: what is recorded is not done again.

    A step is known by its id. An id that is used several times within an attempt, as in a loop, stands for as many steps, by their order: ``id``, ``id:1``, ``id:2``
    (Inngest's rule). Attempts must therefore go through their steps in the same order.
    """

    __slots__ = ()

    @property
    def store(self) -> StepStore:
        """The store it was made with."""
        return self._plan.store

    @overload
    def publish(self, id: str, ref: TopicRef[T], data: T, /, *, headers: Mapping[str, str] | None = None, timeout: float | None = None) -> T: ...
    @overload
    def publish(self, id: str, outgoing: Outgoing[T], /, *, headers: Mapping[str, str] | None = None, timeout: float | None = None) -> T: ...
    def publish(
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
        window in which repeats are suppressed (see ``BlockingRealtime.publish``).

        Args:
            id: The step's name in this run, 255 bytes at most.
            ref: A topic of a channel; or, after the id, ``ref(data)`` as the only argument.
            data: What the topic's schema accepts.
            headers: Strings that travel along, as for ``BlockingRealtime.publish``.
            timeout: Seconds to wait for the broker; by default the BlockingRealtime's.

        Returns:
            The data as it is received by subscribers; where the step was recorded already, the data recorded, even if ``data`` is another one now.

        Raises:
            StepConflict: the id is recorded for another channel, another topic or a function; or what is recorded no longer passes the topic's schema.
            InvalidPayload: the schema refuses the data; nothing was sent or recorded.
            DeclarationError: the message has a key of its own.
            FanwireError: as ``BlockingRealtime.publish``, or the store failed.
        """
        return self._call(lambda steps: unchecked(steps.publish)(id, ref, data, headers=headers, timeout=timeout))

    def run(self, id: str, function: Callable[[*Ts], T], /, *args: *Ts, schema: Schema[T] | None = None) -> T:
        """Run a function, once however often the run is retried.

        Args:
            id: The step's name in this run, 255 bytes at most.
            function: What to run, in this thread. An exception of it is not recorded: the next attempt runs it again.
            *args: Its arguments. They are not recorded.
            schema: How its result is written and read; by default what its return annotation says, and without one the plain JSON value.

        Returns:
            What it returned when it was run, as it is read from the record: on the first attempt too, so that all attempts see the same.

        Raises:
            StepConflict: the id is recorded for a publish; or what is recorded no longer passes the schema.
            DeclarationError: the function is an ``async`` one, its annotation cannot be resolved, or its result cannot be written as JSON.
            FanwireError: the store failed.
        """
        return self._call_back(lambda steps, job: steps.run(id, job.in_caller(function), *args, schema=schema))
