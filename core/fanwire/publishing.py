"""Publishing beyond the hot path: several messages at once, and messages of a run. One lone message is written out in :meth:`Realtime.publish`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, final

from .errors import DeclarationError, FanwireError, PartialPublish
from .hub.calls import Prepared
from .hub.engine import Engine
from .hub.lanes import Lanes
from .hub.told import fresh
from .messages import Receipt
from .outgoing import MARGIN, check, encode, refused, unpack
from .topics import Outgoing, TopicRef

__all__ = ("Sender", "send_many")


@final
class Sender:
    """Publishes the messages of one run. Made at any time; usable while its Realtime is."""

    __slots__ = ("_engine", "_max_payload", "_timeout", "run_id")

    def __init__(self, engine: Callable[[], Engine], max_payload: int, timeout: float, run_id: str) -> None:
        self.run_id: str = run_id
        self._engine = engine
        self._max_payload = max_payload
        self._timeout = timeout

    def encode(self, message: Outgoing[Any], key: str | None, headers: Mapping[str, str] | None) -> bytes:  # Any: any payload
        """Check a message and return its payload as JSON; see :func:`fanwire.outgoing.encode`."""
        return encode(message.ref, message.data, key, headers, self._max_payload, self.run_id)

    async def send(
        self,
        ref: TopicRef[Any],  # Any: the payload is encoded
        encoded: bytes,
        key: str | None,
        headers: Mapping[str, str] | None,
        timeout: float | None,
    ) -> Receipt:
        """Publish one message that has been checked.

        Raises:
            FanwireError: it was not accepted, or the outcome is unknown.
        """
        lanes = self._engine().lanes
        lanes.admit(ref.channel)
        message = Prepared(ref, encoded, lanes.stamp(), key, headers, self.run_id)
        (result,) = await lanes.send_many((message,), self._timeout if timeout is None else timeout)
        if isinstance(result, FanwireError):
            raise fresh(result)
        return result

    # Any: messages of several topics
    async def send_many(self, messages: Iterable[Outgoing[Any]], timeout: float | None) -> Sequence[Receipt]:
        """Publish several messages; see :meth:`Realtime.publish_many`."""
        return await send_many(self._engine().lanes, messages, self._max_payload, self.run_id, self._timeout if timeout is None else timeout)


# Any: messages of several topics
async def send_many(lanes: Lanes, messages: Iterable[Outgoing[Any]], max_payload: int, run_id: str | None, timeout: float) -> Sequence[Receipt]:
    """Check several messages and publish them; see :meth:`Realtime.publish_many`."""
    stamp = lanes.stamp()
    prepared: list[Prepared] = []
    last: object = prepared  # nothing that a message could name
    for message in messages:
        if not isinstance(message, Outgoing):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a checker
            _not_outgoing(message)
        ref, key, headers = message.ref, message.key, message.headers
        if ref is not last:
            if ref.__class__ is not TopicRef:
                unpack(message)
            lanes.admit(ref.channel)
            last = ref
        schema = ref.schema
        try:  # as encode() does it, which is saved here
            encoded = schema.dump(schema.validate(message.data))
        except Exception as error:
            raise refused(ref, error) from error
        if key is not None or headers is not None or len(encoded) > max_payload - MARGIN:
            check(ref, encoded, key, headers, max_payload, run_id)
        fields = (ref, encoded, stamp, key, headers, run_id)
        prepared.append(tuple.__new__(Prepared, fields))  # pyright: ignore[reportUnknownMemberType]  # half the cost of calling the class
    if not prepared:
        return []
    results = await lanes.send_many(prepared, timeout)
    receipts = [result for result in results if isinstance(result, Receipt)]
    if len(receipts) == len(results):
        return receipts
    first = results[0]
    if isinstance(first, FanwireError) and all(type(result) is type(first) and str(result) == str(first) for result in results):
        raise fresh(first)  # nothing was accepted, all for one reason
    raise PartialPublish(results)


def _not_outgoing(value: object) -> NoReturn:
    kind = type(value).__name__
    hint = "such as chat.status(data)" if not isinstance(value, tuple) else "ref(data) in place of (ref, data)"
    raise DeclarationError(f"publish_many() takes messages made by calling a topic, {hint}; got {kind}")
