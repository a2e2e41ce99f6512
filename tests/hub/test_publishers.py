"""Ids of outgoing messages: never one twice, and no hole that nobody is to take for a loss."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from fanwire.hub.publishers import Publishers, TimeStamps

calls = st.lists(st.tuples(st.sampled_from(["take", "take", "take", "renew"]), st.sampled_from("abcdefgh")), max_size=200)


@given(calls, st.integers(1, 10))
def test_no_id_is_ever_given_twice_and_each_publisher_counts_from_one(made: list[tuple[str, str]], limit: int) -> None:
    publishers = Publishers(limit)
    taken: dict[str, list[str]] = {}
    for what, channel in made:
        if what == "renew":
            publishers.renew(channel)
        else:
            taken.setdefault(channel, []).append(publishers.take(channel))
        assert len(publishers.table) <= limit, "the table is said to be bounded"
    for ids in taken.values():
        assert len(set(ids)) == len(ids), "an id came twice on one channel"
        numbers: dict[str, list[int]] = {}
        for id in ids:
            publisher, _, n = id.rpartition(".")
            numbers.setdefault(publisher, []).append(int(n))
        for counted in numbers.values():
            assert counted == list(range(1, len(counted) + 1)), "subscribers would take this for a loss"


def test_ids_are_the_publisher_and_a_number() -> None:
    publishers = Publishers()
    publisher, _, n = publishers.take("c").partition(".")
    assert n == "1"
    assert len(publisher) == 10
    assert publisher.isascii()
    assert publisher.isalnum()
    assert publishers.take("c") == f"{publisher}.2"
    assert publishers.take("d") == f"{publisher}.1", "numbers count per channel"


def test_two_realtimes_are_two_publishers() -> None:
    assert len({Publishers().take("c") for _ in range(1000)}) == 1000


def test_after_a_failure_a_channel_goes_on_under_a_fresh_publisher() -> None:
    publishers = Publishers()
    before, other = publishers.take("c").split("."), publishers.take("d").split(".")
    publishers.renew("c")
    after = publishers.take("c").split(".")
    assert (after[0] != before[0], after[1]) == (True, "1")
    assert publishers.take("d") == f"{other[0]}.2", "other channels are not concerned"


def test_an_evicted_channel_comes_back_under_a_publisher_nobody_has_seen() -> None:
    publishers = Publishers(limit=4)
    first = {channel: publishers.take(channel).split(".")[0] for channel in "abcd"}
    assert len(set(first.values())) == 1
    publishers.take("e")  # evicts the older half: a and b
    assert publishers.take("d") == f"{first['d']}.2", "those that were kept go on"
    for channel in "ab":
        publisher, n = publishers.take(channel).split(".")
        assert publisher not in first.values()
        assert n == "1"


def test_the_counter_in_use_is_the_one_in_the_table() -> None:
    publishers = Publishers()
    counter = publishers.counter("c")
    counter.n += 1
    assert publishers.take("c") == f"{counter.prefix}2"
    assert publishers.counter("c") is counter is publishers.table["c"]


# ---------------------------------------------------------------- time stamps


@given(st.lists(st.floats(0, 4_000_000_000), min_size=1, max_size=20))
def test_a_time_stamp_is_rfc_3339_to_the_millisecond(times: list[float]) -> None:
    now = 0.0
    stamp = TimeStamps(lambda: now)
    for time in times:
        now = time
        text = stamp()
        assert len(text) == 24
        assert text.endswith("Z")
        parsed = datetime.fromisoformat(text)
        assert parsed.tzinfo == UTC
        assert abs(parsed.timestamp() - time) < 0.0011
        assert parsed.timestamp() <= time + 0.00011, "never in the future"


def test_time_stamps_do_not_go_back_while_time_does_not() -> None:
    now = 1_767_225_600.0
    stamp = TimeStamps(lambda: now)
    texts: list[str] = []
    for _ in range(5000):
        now += 0.00037
        texts.append(stamp())
    assert texts == sorted(texts)
    assert len(set(texts)) == 1850 or len(set(texts)) == 1851


def test_a_clock_that_is_set_back_is_believed() -> None:
    now = 1_767_225_600.5
    stamp = TimeStamps(lambda: now)
    assert stamp() == "2026-01-01T00:00:00.500Z"
    now -= 1
    assert stamp() == "2025-12-31T23:59:59.500Z"
