"""The blocking façade: the types users get, and what checkers must refuse (a line marked E, by both). Checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, assert_type

from declarations import AgentChat, Alerts, Point, Status, Struct, Token, Usage, chat, dynamic, factory, forms

from fanwire import BlockingRealtime, BlockingSubscription, Capabilities, Gap, Message, RawMessage, Realtime, Receipt, Start, is_topic
from fanwire.blocking import BlockingRun, BlockingSteps
from fanwire.events import ConnectionEvent, RealtimeStats, SubscriptionStats
from fanwire.runs import MemoryStepStore, StepStore
from fanwire_memory import MemoryBroker, MemoryTransport

# ---------------------------------------------------------------- making one

assert_type(BlockingRealtime.from_url("memory://", timeout=3.0), BlockingRealtime)
assert_type(BlockingRealtime.from_config("fanwire.toml"), BlockingRealtime)
assert_type(BlockingRealtime(MemoryTransport(), buffer=3), BlockingRealtime)
assert_type(Realtime(MemoryTransport()).blocking(), BlockingRealtime)
BlockingRealtime("memory://")  # E
BlockingRealtime(MemoryTransport(), timeout="3")  # E
BlockingRealtime.from_url(3)  # E

rt = BlockingRealtime.from_url("memory://")

with rt as entered:
    assert_type(entered, BlockingRealtime)
assert_type(rt.timeout, float)
assert_type(rt.connect_timeout, float)
assert_type(rt.capabilities, Capabilities)
assert_type(rt.stats(), RealtimeStats)
assert_type(rt.ping(), float)
assert_type(rt.native(MemoryBroker), MemoryBroker)
rt.close()
rt.close(deadline=3.0)
rt.aclose()  # E
with rt.events() as events:
    assert_type(next(events), ConnectionEvent)
    for event in events:
        assert_type(event, ConnectionEvent)

# ---------------------------------------------------------------- publish

assert_type(rt.publish(chat.status, Status(message="a")), Receipt)
assert_type(rt.publish(chat.status(Status(message="a"))), Receipt)
rt.publish(chat.usage({"input_tokens": 1}), key="k", headers={"a": "b"}, timeout=1.5)
rt.publish(dynamic.alert, {"message": "a"})
assert_type(rt.publish_many([chat.status(Status(message="a")), chat.usage({"input_tokens": 2})]), Sequence[Receipt])
rt.publish_many(chat.tokens(Token(token=word)) for word in "a b c".split())
rt.publish(chat.status, Token(token="a"))  # E
rt.publish(chat.status)  # E
rt.publish(AgentChat.status, Status(message=""))  # E
rt.publish(chat.status, Status(message=""), key=b"k")  # E
rt.publish_many([(chat.status, Status(message=""))])  # E

# ---------------------------------------------------------------- subscribe

assert_type(rt.subscribe(chat.status), BlockingSubscription[Message[Status]])
assert_type(rt.subscribe(chat.status, chat.tokens), BlockingSubscription[Message[Status | Token]])
with rt.subscribe(chat.status, chat.tokens) as messages:
    assert_type(messages, BlockingSubscription[Message[Status | Token]])
    for message in messages:
        assert_type(message, Message[Status | Token])
        match message.data:
            case Status(message=text):
                assert_type(text, str)
            case Token(token=text):
                assert_type(text, str)
    assert_type(next(messages), Message[Status | Token])
    assert_type(messages.get(), Message[Status | Token])
    assert_type(messages.get(timeout=3.0), Message[Status | Token])
    assert_type(messages.stats(), SubscriptionStats)
    messages.close()
    iterator: Iterator[Message[Status | Token]] = messages
    message.data.message  # E
    wrong: Message[Status] = next(messages)  # E
    messages.get("3")  # E

with rt.subscribe(chat.status, chat.tokens, chat.usage, forms.point, forms.number, forms.numbers, forms.struct, Alerts.alert) as eight:
    assert_type(next(eight).data, Status | Token | Usage | Point | int | list[int] | Struct)
of_one_type = [chat.status, chat.more_status, Alerts.alert]
assert_type(rt.subscribe(chat.status, *of_one_type), BlockingSubscription[Message[Status]])
assert_type(rt.subscribe(chat), BlockingSubscription[Message[Any]])
assert_type(rt.subscribe(Alerts), BlockingSubscription[Message[Any]])
assert_type(rt.subscribe(factory("x")), BlockingSubscription[Message[Any]])
assert_type(rt.subscribe("agent-chat:x", topics=["status"], start=Start.last(10), on_gap="raise", buffer=3), BlockingSubscription[Message[Any]])
with rt.subscribe(chat) as every:
    for one in every:
        if is_topic(one, chat.status):
            assert_type(one.data, Status)
rt.subscribe()  # E
rt.subscribe(AgentChat)  # E
rt.subscribe(chat.status, topics=["status"])  # E
rt.subscribe(chat.status, on_gap="yield")  # E

with rt.subscribe(chat.status).with_gaps() as items:
    for item in items:
        assert_type(item, Message[Status] | Gap)
    item.data  # E
with rt.subscribe(chat.status, chat.tokens).raw() as raws:
    assert_type(next(raws), RawMessage)
with rt.subscribe(chat.status) as batched:
    for batch in batched.batches(max_size=10, max_wait=0.1):
        assert_type(batch, Sequence[Message[Status]])
    batched.batches(max_size="x")  # E

assert_type(rt.history(chat.status), Sequence[Message[Status]])
assert_type(rt.history(chat, topics=["status"], start=Start.last(3), limit=3), Sequence[Message[Any]])

# ---------------------------------------------------------------- runs


def plain(x: int, y: str) -> list[int]:
    return [x, len(y)]


async def asynchronous() -> None:
    async with rt.subscribe(chat.status) as subscription:  # E
        pass
    async for message in rt.subscribe(chat.status):  # E
        pass
    await rt.ping()  # E


run = rt.run("r", steps=MemoryStepStore())
assert_type(run, BlockingRun)
assert_type(run.id, str)
assert_type(run.step, BlockingSteps)
assert_type(run.step.store, StepStore)
assert_type(run.publish(chat.status, Status(message="a")), Receipt)
assert_type(run.publish_many([chat.status(Status(message="a"))]), Sequence[Receipt])
assert_type(run.step.publish("s", chat.status, Status(message="a")), Status)
assert_type(run.step.publish("s", chat.usage({"input_tokens": 1})), Usage)
assert_type(run.step.run("s", plain, 1, "x"), list[int])
run.step.run("s", plain, "x", 1)  # E
run.step.run("s", plain)  # E
run.step.publish("s", chat.status, Token(token="a"))  # E
run.publish(chat.status, Token(token="a"))  # E
