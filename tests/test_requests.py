"""What subscribe and history are asked for: every form becomes an interest, and what cannot be meant is refused with what to write."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel

from fanwire import Capabilities, Channel, Start, StaticChannel, TopicRef, channel, static_schema, topic
from fanwire.errors import DeclarationError, InvalidName, Unsupported
from fanwire.hub.join import history_starts
from fanwire.hub.log import Interest
from fanwire.messages import Cursor
from fanwire.requests import check_start, interest_of
from fanwire.schemas import PydanticSchema
from fanwire.transport import Earliest, Last

Target = Any  # Any: callers without a type checker


class Status(BaseModel):
    message: str


class Chat(Channel, name="chat:{id}"):
    id: str
    status = topic(Status)
    tokens = topic(str, name="token-stream")
    usage = topic(dict[str, int], validate=False)


class Alerts(StaticChannel, name="alerts"):
    alert = topic(Status)


class Empty(Channel, name="empty:{id}"):
    id: str


X, Y = Chat(id="x"), Chat(id="y")


def wanted(*targets: Target, topics: Target = None) -> dict[str, dict[str, object] | None]:
    interest = interest_of(targets, topics, buffer=5, buffer_bytes=100)
    assert (interest.buffer, interest.buffer_bytes, interest.raw) == (5, 100, False)
    return {name: None if names is None else dict(names) for name, names in interest.topics.items()}


def test_topics_of_one_channel() -> None:
    assert wanted(X.status) == {"chat:x": {"status": X.status.schema}}
    assert wanted(X.status, X.tokens) == {"chat:x": {"status": X.status.schema, "token-stream": X.tokens.schema}}


def test_topics_of_several_channels() -> None:
    assert wanted(X.status, Y.status, Alerts.alert) == {
        "chat:x": {"status": X.status.schema},
        "chat:y": {"status": X.status.schema},
        "alerts": {"alert": Alerts.alert.schema},
    }


def test_a_topic_given_twice_is_wanted_once() -> None:
    assert wanted(X.status, Chat(id="x").status, X.status) == wanted(X.status)


def test_a_topic_given_twice_with_different_schemas_is_refused() -> None:
    with pytest.raises(ValueError, match="is given twice, with different schemas"):
        wanted(X.status, TopicRef("chat:x", "status", PydanticSchema(Status)))
    with pytest.raises(ValueError, match="is given twice"):
        wanted(TopicRef("chat:x", "status"), X.status)


def test_a_channel_is_all_its_topics() -> None:
    assert wanted(X) == {"chat:x": {"status": X.status.schema, "token-stream": X.tokens.schema, "usage": X.usage.schema}}
    assert wanted(Alerts) == {"alerts": {"alert": Alerts.alert.schema}}


def test_a_channel_made_by_the_function_is_one_too() -> None:
    made = channel(name="made", topics={"a": Status, "b": static_schema(int)})
    assert set(wanted(made)["made"] or ()) == {"a", "b"}
    assert set(wanted(made, topics=["b"])["made"] or ()) == {"b"}


def test_topics_of_a_channel_by_name() -> None:
    assert wanted(X, topics=["token-stream"]) == {"chat:x": {"token-stream": X.tokens.schema}}
    assert wanted(X, topics=(name for name in ("status", "usage"))) == {"chat:x": {"status": X.status.schema, "usage": X.usage.schema}}
    assert wanted(X, topics={"status"}) == wanted(X.status)


def test_a_name_is_everything_there_is() -> None:
    assert wanted("chat:x") == {"chat:x": None}
    named = wanted("chat:x", topics=["a", "b"])
    assert set(named["chat:x"] or ()) == {"a", "b"}
    assert named["chat:x"] is not None
    assert named["chat:x"]["a"] is TopicRef("other", "c").schema


@pytest.mark.parametrize(
    ("targets", "topics", "says"),
    [
        ((), None, r"subscribe\(\) needs at least one topic, or a channel"),
        ((Chat,), None, r"Chat"),
        ((Chat.status,), None, r"a channel is wanted, not <Topic 'status' of Chat>: an instance of a Channel class"),
        ((7,), None, "a channel is wanted, not 7"),
        ((None,), None, "a channel is wanted, not None"),
        ((X.status, X), None, r"subscribe\(\) takes a topic of a channel.*is a channel: choose one of its topics"),
        ((X, Y), None, r"is a channel: choose one of its topics"),
        (("a", "b"), None, "got str"),
        ((X.status, "tokens"), None, "got str"),
        ((X.status,), ["tokens"], r"topics= chooses among a channel's topics; it does not go with topics such as TopicRef\('chat:x', 'status'\)"),
        ((X,), "status", r"topics= takes a collection of names: topics=\['status'\]"),
        ((X,), [], r"topics= names no topic"),
        (("chat:x",), [], r"topics= names no topic"),
        ((X,), ["tokens"], r"channel 'chat:x' declares no topic 'tokens'; it has 'status', 'token-stream', 'usage'"),
        ((Empty(id="x"),), None, r"channel 'empty:x' declares no topics; by name, as a string, all topics can be had"),
        ((X.status(Status(message="hi")),), None, "Outgoing"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(targets: tuple[Target, ...], topics: Target, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        wanted(*targets, topics=topics)


@pytest.mark.parametrize("name", ["", " a", "a\n", "a\u202e", "x" * 256, "e\u0301", "\ud800"])
def test_names_given_as_text_are_checked(name: str) -> None:
    with pytest.raises(InvalidName):
        wanted(name)
    with pytest.raises(InvalidName):
        wanted("chat:x", topics=[name])
    with pytest.raises(InvalidName):
        wanted(X, topics=["status", name])


@pytest.mark.parametrize("name", [7, None, b"status"])
def test_a_topic_name_that_is_no_text_is_refused(name: Target) -> None:
    with pytest.raises(InvalidName):
        wanted("chat:x", topics=[name])


@pytest.mark.parametrize(("buffer", "buffer_bytes"), [(0, 1), (1, 0), (-1, 1)])
def test_a_buffer_holds_at_least_one(buffer: int, buffer_bytes: int) -> None:
    with pytest.raises(ValueError, match=rf"subscribe\(\): buffer and buffer_bytes must be at least 1, got {buffer} and {buffer_bytes}"):
        interest_of((X.status,), None, buffer=buffer, buffer_bytes=buffer_bytes)


def test_the_call_that_was_wrong_is_named() -> None:
    with pytest.raises(DeclarationError, match=r"^history\(\) needs at least one topic"):
        interest_of((), None, buffer=1, buffer_bytes=1, where="history()")


def test_equal_requests_share_a_log() -> None:
    def key(*targets: Target) -> object:
        return interest_of(targets, None, buffer=1, buffer_bytes=1).key()

    assert key(X.status, X.tokens) == key(Chat(id="x").tokens, Chat(id="x").status)
    assert key(X) == key(X.status, X.tokens, X.usage)
    assert key(X.status) != key(Y.status)
    assert isinstance(interest_of((X,), None, buffer=1, buffer_bytes=1), Interest)


# ---------------------------------------------------------------- where to begin

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CURSOR = Cursor("e", 1)
DECLARED = Capabilities(
    delivery="at_most_once",
    ordering="channel",
    history=frozenset({"last_n", "earliest"}),
    multi_process=False,
    confirmed_publish=True,
    confirmed_subscribe=True,
)


@pytest.mark.parametrize("start", [Start.LIVE, Start.EARLIEST, Start.last(3)])
def test_a_start_that_is_declared_passes(start: Start) -> None:
    check_start(start, DECLARED, "toy")


@pytest.mark.parametrize(
    ("start", "form"), [(Start.after(CURSOR), "after_cursor"), (Start.since(NOW), "since_time"), (Start.after({"c": CURSOR}), "after_cursor")]
)
def test_a_start_that_is_not_declared_is_refused(start: Start, form: str) -> None:
    with pytest.raises(Unsupported, match=rf"needs history of the form '{form}'; the toy transport with these options has: earliest, last_n"):
        check_start(start, DECLARED, "toy")


def test_without_history_only_live_passes() -> None:
    none = Capabilities(delivery="at_most_once", ordering="channel", multi_process=False, confirmed_publish=True, confirmed_subscribe=True)
    check_start(Start.LIVE, none, "toy")
    for start in (Start.EARLIEST, Start.last(1), Start.after(CURSOR), Start.since(NOW)):
        with pytest.raises(Unsupported, match="has: none"):
            check_start(start, none, "toy")


def test_a_start_becomes_one_per_channel() -> None:
    other = Cursor("e", 2)
    assert history_starts(Start.EARLIEST, ("a", "b")) == {"a": Earliest(), "b": Earliest()}
    assert history_starts(Start.last(4), ("a", "b")) == {"a": Last(4), "b": Last(4)}
    assert history_starts(Start.since(NOW), ("a",)) == {"a": NOW}
    assert history_starts(Start.after(CURSOR), ("a",)) == {"a": CURSOR}
    assert history_starts(Start.after({"a": CURSOR, "b": other}), ("a", "b")) == {"a": CURSOR, "b": other}


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (Start.after(CURSOR), r"one cursor cannot stand for 2 channels: use Start.after\(\{channel.name: cursor"),
        (Start.after({"a": CURSOR}), r"needs one cursor per channel: missing \['b'\], not subscribed \[\]"),
        (Start.after({"a": CURSOR, "b": CURSOR, "c": CURSOR}), r"missing \[\], not subscribed \['c'\]"),
        (Start.after({}), r"missing \['a', 'b'\]"),
    ],
)
def test_cursors_fit_the_channels(start: Start, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        history_starts(start, ("a", "b"))
