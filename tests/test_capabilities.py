"""What a transport declares, and what may be required of it."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanwire import Capabilities, Realtime
from fanwire.capabilities import HistoryForm
from fanwire.errors import ConfigError, Unsupported
from fanwire_memory import MemoryOptions, MemoryTransport

NOTHING = Capabilities(delivery="at_most_once", ordering="none", multi_process=False, confirmed_publish=False, confirmed_subscribe=False)
EVERYTHING = Capabilities(
    delivery="exactly_once",
    ordering="channel",
    history=frozenset({"earliest", "last_n", "after_cursor", "since_time"}),
    multi_process=True,
    confirmed_publish=True,
    confirmed_subscribe=True,
    idempotent_publish=True,
    links="contiguous",
)
FORMS: list[HistoryForm] = ["earliest", "last_n", "after_cursor", "since_time"]


def test_nothing_declared_has_no_names() -> None:
    assert NOTHING.names() == frozenset()
    assert NOTHING.missing(["history", "links"]) == ["history", "links"]
    assert NOTHING.missing([]) == []


def test_everything_declared_has_all_names() -> None:
    assert EVERYTHING.names() == {
        "history", "history.earliest", "history.last_n", "history.after_cursor", "history.since_time", "ordering.publisher", "ordering.channel",
        "delivery.at_least_once", "delivery.exactly_once", "links", "multi_process", "confirmed_publish", "confirmed_subscribe", "idempotent_publish",
    }  # fmt: skip
    assert EVERYTHING.missing(sorted(EVERYTHING.names())) == []


@pytest.mark.parametrize(
    ("ordering", "names"),
    [("none", set[str]()), ("publisher", {"ordering.publisher"}), ("channel", {"ordering.publisher", "ordering.channel"})],
)
def test_the_order_of_a_channel_implies_that_of_a_publisher(ordering: Literal["channel", "publisher", "none"], names: set[str]) -> None:
    assert dataclasses.replace(NOTHING, ordering=ordering).names() == names


@pytest.mark.parametrize(
    ("delivery", "names"),
    [
        ("at_most_once", set[str]()),
        ("at_least_once", {"delivery.at_least_once"}),
        ("exactly_once", {"delivery.at_least_once", "delivery.exactly_once"}),
    ],
)
def test_exactly_once_implies_at_least_once(delivery: Literal["at_most_once", "at_least_once", "exactly_once"], names: set[str]) -> None:
    assert dataclasses.replace(NOTHING, delivery=delivery).names() == names


@pytest.mark.parametrize("links", ["previous", "contiguous"])
def test_links_of_either_kind_are_links(links: Literal["previous", "contiguous"]) -> None:
    assert dataclasses.replace(NOTHING, links=links).names() == {"links"}


@given(st.frozensets(st.sampled_from(FORMS)))
def test_history_of_any_form_is_history(forms: frozenset[HistoryForm]) -> None:
    declared = dataclasses.replace(NOTHING, history=forms)
    assert ("history" in declared.names()) == bool(forms)
    assert {f"history.{form}" for form in FORMS} - set(declared.missing([f"history.{form}" for form in FORMS])) == {
        f"history.{form}" for form in forms
    }


def test_what_is_missing_keeps_its_order() -> None:
    assert NOTHING.missing(["links", "history", "confirmed_publish"]) == ["links", "history", "confirmed_publish"]
    assert EVERYTHING.missing(["links", "history"]) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("histori", "did you mean 'history'"),
        ("idempotent_publishing", "did you mean 'idempotent_publish'"),
        ("ordering.none", "did you mean 'ordering"),
        ("", "known: confirmed_publish, "),
        ("qqq", "known: .*multi_process"),
        ("delivery.at_most_once", "did you mean 'delivery.at_least_once'"),
    ],
)
def test_an_unknown_name_is_an_error_that_helps(name: str, says: str) -> None:
    for declared in (NOTHING, EVERYTHING):
        with pytest.raises(ConfigError, match=f"unknown capability {name!r}; {says}"):
            declared.missing(["history", name])


def test_capabilities_are_a_value() -> None:
    assert pickle.loads(pickle.dumps(EVERYTHING)) == EVERYTHING
    assert hash(EVERYTHING) == hash(dataclasses.replace(EVERYTHING))
    assert EVERYTHING != NOTHING
    with pytest.raises(dataclasses.FrozenInstanceError):
        NOTHING.links = "previous"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # that is the test


def test_what_is_required_is_there_or_nothing_starts() -> None:
    with_history = MemoryTransport()
    assert Realtime(with_history, require=["history", "links", "ordering.channel"]).capabilities == with_history.capabilities
    without = MemoryTransport("", MemoryOptions(history=0))
    with pytest.raises(Unsupported, match="the memory transport with these options does not declare: history, idempotent_publish"):
        Realtime(without, require=["links", "history", "idempotent_publish"])
    with pytest.raises(ConfigError, match="unknown capability 'histories'; did you mean 'history'"):
        Realtime(without, require=["histories"])


@pytest.mark.parametrize("history", [0, 1000])
def test_what_memory_declares(history: int) -> None:
    declared = MemoryTransport("", MemoryOptions(history=history, max_payload=5000)).capabilities
    assert (declared.ordering, declared.links, declared.max_payload) == ("channel", "contiguous", 5000)
    assert declared.async_backends == {"asyncio", "trio"}
    assert not declared.multi_process
    assert (len(declared.history), declared.delivery, declared.idempotent_publish) == (
        (4, "exactly_once", True) if history else (0, "at_most_once", False)
    )
