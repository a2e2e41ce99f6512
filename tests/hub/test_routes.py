"""Routing inside a channel: a frame reaches exactly the logs that want its topic, once each, parsed once per schema."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanwire.errors import Internal
from fanwire.hub.log import Budget, Interest, InterestLog
from fanwire.hub.routes import ANYTHING, RoutingTable, add_route, remove_route
from fanwire.schemas import JsonSchema, Schema

INT, OTHER = JsonSchema(int), JsonSchema(int)
SCHEMAS: dict[str, Schema[Any]] = {"int": INT, "other": OTHER}  # Any: payloads do not matter here


@dataclass(frozen=True)
class Want:
    topics: tuple[tuple[str, str], ...] | None
    """Topic and name of its schema; ``None``: all."""

    raw: bool


wants = st.builds(
    Want,
    st.none() | st.dictionaries(st.sampled_from("abc"), st.sampled_from(sorted(SCHEMAS)), min_size=1).map(lambda topics: tuple(topics.items())),
    st.booleans(),
)


def log_of(want: Want) -> InterestLog:
    topics = None if want.topics is None else {topic: SCHEMAS[name] for topic, name in want.topics}
    return InterestLog(Interest({"c": topics}, raw=want.raw, buffer=1, buffer_bytes=1), Budget(1))


def routed(table: RoutingTable, topic: str) -> list[tuple[Schema[Any] | None, InterestLog]]:  # Any: as above
    """What the hub makes of the table for one topic."""
    routes = table.get(topic)
    if routes is None:
        routes = table.get(None, [])
    return [(route.schema, log) for route in routes for log in route.logs]


def expected(want: Want, topic: str) -> list[Schema[Any] | None]:  # Any: as above
    if want.topics is None:
        return [None if want.raw else ANYTHING]
    return [None if want.raw else SCHEMAS[name] for wanted, name in want.topics if wanted == topic]


@given(st.lists(st.tuples(wants, st.integers(0, 9)), max_size=20), st.lists(st.integers(0, 9), max_size=10))
def test_a_topic_reaches_who_wants_it(coming: list[tuple[Want, int]], going: list[int]) -> None:
    table: RoutingTable = {}
    there: list[tuple[Want, InterestLog]] = []

    def check() -> None:
        for topic in "abcd":
            found = routed(table, topic)
            assert len({id(log) for _, log in found}) == len(found), "a log would get a message twice"
            for want, log in there:
                assert [schema for schema, other in found if other is log] == expected(want, topic)
            assert len(found) == sum(bool(expected(want, topic)) for want, _ in there), "a log that has gone is still served"
            schemas = [route.schema for route in table.get(topic, table.get(None, []))]
            assert len({id(schema) for schema in schemas}) == len(schemas), "one payload would be parsed twice by one schema"

    for want, leave in coming:
        log = log_of(want)
        add_route(table, "c", log)
        there.append((want, log))
        check()
        if leave < 3:
            _, gone = there.pop(leave % len(there))
            remove_route(table, gone)
            check()
    for index in going:
        if there:
            remove_route(table, there.pop(index % len(there))[1])
            check()
    for _, log in there:
        remove_route(table, log)
    assert not table, "nothing is left behind"


def test_logs_of_one_schema_share_a_route() -> None:
    table: RoutingTable = {}
    logs = [log_of(Want((("a", "int"),), raw=False)) for _ in range(3)]
    for log in logs:
        add_route(table, "c", log)
    (route,) = table["a"]
    assert list(route.logs) == logs
    assert route.schema is INT


def test_the_order_of_coming_is_the_order_of_delivery() -> None:
    table: RoutingTable = {}
    everything, named = log_of(Want(None, raw=False)), log_of(Want((("a", "int"),), raw=False))
    add_route(table, "c", everything)
    add_route(table, "c", named)
    assert [log for _, log in routed(table, "a")] == [everything, named]
    assert [log for _, log in routed(table, "z")] == [everything]


def test_removing_a_log_that_is_not_there_changes_nothing() -> None:
    table: RoutingTable = {}
    log = log_of(Want((("a", "int"),), raw=False))
    add_route(table, "c", log)
    remove_route(table, log_of(Want(None, raw=True)))
    assert routed(table, "a") == [(INT, log)]


def test_anything_is_any_json_value_and_nothing_else() -> None:
    assert ANYTHING.load(b'{"a":[1,2.5,null]}') == {"a": [1, 2.5, None]}
    assert ANYTHING.validate(INT) is INT
    for wrong in (b"", b"{", b"NaN", b"1 2", b"\xff"):
        with pytest.raises(ValueError):
            ANYTHING.load(wrong)
    with pytest.raises(Internal):
        ANYTHING.dump(1)
