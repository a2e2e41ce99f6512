"""What positions, links and ids say about a stream, as tables: every branch, and the tails that were lost and have regrown."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanwire.hub.continuity import Continuity, Fault, Verdict, caught_up, judge, missing, verify
from fanwire.messages import Cursor, GapReason
from fanwire.transport import HistoryEntry, HistoryPage
from tests.hub.support import BEST_EFFORT, COUNTED, LINKED, LOGGED, ORDERED

Links = Literal["none", "previous", "contiguous"]
ALL: list[Links] = ["none", "previous", "contiguous"]
LINKING: list[Links] = ["previous", "contiguous"]

NEXT, DUPLICATE, HOLE, RESET = Verdict.NEXT, Verdict.DUPLICATE, Verdict.HOLE, Verdict.RESET


def c(offset: int, mark: str | None = None, epoch: str = "e") -> Cursor:
    return Cursor(epoch, offset, mark)


# ---------------------------------------------------------------- judge


@pytest.mark.parametrize("links", ALL)
@pytest.mark.parametrize(
    ("last", "position", "prev", "verdict"),
    [
        (None, c(7), None, NEXT),
        (None, c(7), c(3), NEXT),
        (c(5, "aaaaaaaa"), c(6, "bbbbbbbb"), c(5, "aaaaaaaa"), NEXT),
        (c(5), c(6), c(5, "aaaaaaaa"), NEXT),
        (c(5, "aaaaaaaa"), c(6), c(5), NEXT),
        (c(0), c(1), c(0), NEXT),
        (c(5), c(5), c(4), DUPLICATE),
        (c(5, "aaaaaaaa"), c(5, "aaaaaaaa"), c(4), DUPLICATE),
        (c(5, "aaaaaaaa"), c(5), None, DUPLICATE),
        (c(5), c(5, "aaaaaaaa"), None, DUPLICATE),
        (c(5), c(2), c(1), DUPLICATE),
        (c(5), c(1, epoch="f"), c(0, epoch="f"), RESET),
        (c(5), c(6, epoch="f"), c(5, epoch="f"), RESET),
        (c(5, "aaaaaaaa"), c(5, "bbbbbbbb"), c(4), RESET),
    ],
    ids=str,
)
def test_judged_the_same_with_any_links(links: Links, last: Cursor | None, position: Cursor, prev: Cursor | None, verdict: Verdict) -> None:
    assert judge(last, position, prev, links) is verdict


@pytest.mark.parametrize("links", LINKING)
@pytest.mark.parametrize(
    ("last", "position", "prev", "verdict"),
    [
        (c(5), c(9), c(8), HOLE),
        (c(5, "aaaaaaaa"), c(9), c(6, "aaaaaaaa"), HOLE),
        (c(5), c(9), c(3), RESET),
        (c(5), c(6), c(4), RESET),
        (c(5, "aaaaaaaa"), c(6), c(5, "bbbbbbbb"), RESET),
        (c(5), c(9), c(5), NEXT),
    ],
    ids=str,
)
def test_a_predecessor_tells_a_hole_from_a_lost_tail(
    links: Links, last: Cursor | None, position: Cursor, prev: Cursor | None, verdict: Verdict
) -> None:
    assert judge(last, position, prev, links) is verdict
    assert judge(last, position, prev, "none") is NEXT, "without links nothing is concluded from it"


def test_without_a_predecessor_at_hand() -> None:
    assert judge(c(5), c(6), None, "contiguous") is NEXT
    assert judge(c(5), c(8), None, "contiguous") is HOLE
    assert judge(c(5), c(6), None, "previous") is HOLE, "offsets that need not be contiguous say nothing"
    assert judge(c(5), c(900), None, "none") is NEXT


@given(st.integers(0, 50), st.integers(1, 60), st.sampled_from(ALL))
def test_a_stream_without_faults_is_never_suspected(start: int, count: int, links: Links) -> None:
    last = c(start, f"{start:08x}")
    for offset in range(start + 1, start + count):
        position = c(offset, f"{offset:08x}")
        assert judge(last, position, last, links) is NEXT
        assert judge(position, last, None, links) is DUPLICATE
        last = position


@pytest.mark.parametrize(
    ("last", "position", "links", "count"),
    [
        (c(5), c(9), "contiguous", 3),
        (c(5), c(6), "contiguous", 0),
        (c(5), c(2), "contiguous", 0),
        (c(5), c(9, epoch="f"), "contiguous", None),
        (c(5), c(9), "previous", None),
        (c(5), c(9), "none", None),
    ],
)
def test_only_contiguous_offsets_count_what_is_missing(last: Cursor, position: Cursor, links: Links, count: int | None) -> None:
    assert missing(last, position, links) == count


@pytest.mark.parametrize(
    ("position", "target", "is_it"),
    [
        (None, c(1), True),
        (c(1), None, True),
        (None, None, True),
        (c(1), c(1), True),
        (c(2), c(1), True),
        (c(0), c(1), False),
        (c(0), c(1, epoch="f"), True),
    ],
)
def test_caught_up(position: Cursor | None, target: Cursor | None, is_it: bool) -> None:
    assert caught_up(position, target) is is_it


# ---------------------------------------------------------------- verify


def mark(n: int, branch: str = "a") -> str:
    return branch * 4 + f"{n:04x}"


def e(n: int, *, branch: str = "a", epoch: str = "e", linked: bool = True) -> HistoryEntry:
    """Entry ``n``; those of branch ``b`` have taken the place of others."""
    return HistoryEntry(b"%d" % n, Cursor(epoch, n, mark(n, branch)), Cursor(epoch, n - 1, mark(n - 1, branch)) if linked else None)


def page(*entries: HistoryEntry, head: Cursor | int | None = -1, complete: bool = False) -> HistoryPage:
    """A page; by default its last entry is the head."""
    if head == -1:
        head = entries[-1].position if entries else None
    return HistoryPage(entries, c(head, mark(head)) if isinstance(head, int) else head, complete)


def at(n: int, branch: str | None = "a") -> Cursor:
    return c(n, None if branch is None else mark(n, branch))


Case = tuple[Cursor, Cursor | None, HistoryPage, Fault | Literal["stale"] | None, list[int]]
trimmed = GapReason.TRIMMED

CASES: dict[str, Case] = {
    # the entry at the cursor is there: nothing behind it was discarded
    "nothing new": (at(5), None, page(e(5)), None, []),
    "three new": (at(5), None, page(e(5), e(6), e(7), e(8)), None, [6, 7, 8]),
    "a cursor without mark": (at(5, None), None, page(e(5), e(6)), None, [6]),
    "the head unknown": (at(5), None, page(e(5), e(6), head=None), None, [6]),
    "known up to the head": (at(5), at(6), page(e(5), e(6)), None, [6]),
    "known in another epoch": (at(5), c(99, epoch="old"), page(e(5), e(6)), None, [6]),
    # a tail that was lost and has regrown, shorter, as long, longer: epoch and offset alone would not show the last two
    "fork, regrown shorter": (at(9), at(9), page(e(5, branch="b"), head=c(5, mark(5, "b"))), "stale", [5]),
    "fork, regrown as long": (at(9), at(9), page(e(9, branch="b")), Fault(GapReason.RESET, None), [9]),
    "fork, regrown longer": (at(9), at(9), page(*(e(n, branch="b") for n in range(9, 25))), Fault(GapReason.RESET, None), list(range(9, 25))),
    "fork, regrown, cursor trimmed": (at(9), None, page(*(e(n, branch="b") for n in range(10, 12))), Fault(GapReason.RESET, None), [10, 11]),
    "fork, regrown, further trimmed": (at(9), None, page(*(e(n, branch="b") for n in range(12, 14))), Fault(trimmed, 2), [12, 13]),
    # another epoch
    "a new epoch": (at(5), None, page(e(1, epoch="f"), e(2, epoch="f")), Fault(GapReason.RESET, None), [1, 2]),
    "a new epoch, empty": (at(5), None, page(head=c(0, epoch="f")), Fault(GapReason.RESET, None), []),
    "a new epoch, head unknown": (at(5), None, page(e(1, epoch="f"), head=None), Fault(GapReason.RESET, None), [1]),
    "a new epoch, head behind": (at(5), at(5), page(e(3, epoch="f")), Fault(GapReason.RESET, None), [3]),
    # a replica that lags
    "head behind the cursor": (at(5), None, page(e(3), e(4)), "stale", [3, 4]),
    "head behind what is known": (at(5), at(8), page(e(5), e(6)), "stale", [5, 6]),
    "empty, head behind": (at(5), None, page(head=4), "stale", []),
    # the entry at the cursor is gone
    "trimmed by two": (at(5), None, page(e(8), e(9)), Fault(trimmed, 2), [8, 9]),
    "trimmed to the successor, linked": (at(5), None, page(e(6), e(7)), None, [6, 7]),
    "trimmed to the successor, unlinked": (at(5), None, page(e(6, linked=False)), Fault(trimmed, None), [6]),
    "trimmed, no mark, vouched for": (at(5, None), None, page(e(9), complete=True), None, [9]),
    "trimmed, a mark, vouched for": (at(5), None, page(e(9), complete=True), Fault(trimmed, 3), [9]),
    "trimmed, no mark, not vouched for": (at(5, None), None, page(e(9)), Fault(trimmed, 3), [9]),
    "successor of a cursor without mark": (at(5, None), None, page(e(6)), None, [6]),
    "from the very beginning": (at(0, None), None, page(e(1), e(2)), None, [1, 2]),
    "from the very beginning, trimmed": (at(0, None), None, page(e(3), e(4)), Fault(trimmed, 2), [3, 4]),
    # nothing is stored
    "empty and unchanged": (at(5), None, page(head=5), None, []),
    "empty, head of no mark": (at(5), None, page(head=c(5)), None, []),
    "empty, another message at the cursor": (at(5), None, page(head=c(5, mark(5, "b"))), Fault(GapReason.RESET, None), []),
    "empty, moved on": (at(5), None, page(head=9), Fault(trimmed, 4), []),
    "empty, moved on, vouched for": (at(5, None), None, page(head=9, complete=True), None, []),
    "empty, moved on, a mark": (at(5), None, page(head=9, complete=True), Fault(trimmed, 4), []),
    "empty, head unknown": (at(5), None, page(head=None), Fault(GapReason.EXPIRED, None), []),
    "empty, head unknown, vouched for": (at(5, None), None, page(head=None, complete=True), Fault(GapReason.EXPIRED, None), []),
}


@pytest.mark.parametrize(("cursor", "known", "given", "verdict", "offsets"), CASES.values(), ids=CASES)
def test_a_page_is_judged(
    cursor: Cursor, known: Cursor | None, given: HistoryPage, verdict: Fault | Literal["stale"] | None, offsets: list[int]
) -> None:
    links: Links = "none" if any(entry.prev is None for entry in given.entries) else "contiguous"
    judged, entries = verify(cursor, known, given, links)
    assert judged == verdict
    assert [entry.position.offset for entry in entries] == offsets


@pytest.mark.parametrize(("cursor", "known", "given", "verdict", "offsets"), CASES.values(), ids=CASES)
def test_only_contiguous_offsets_count_what_was_trimmed(
    cursor: Cursor, known: Cursor | None, given: HistoryPage, verdict: Fault | Literal["stale"] | None, offsets: list[int]
) -> None:
    judged, entries = verify(cursor, known, given, "previous")
    assert judged == (Fault(verdict.reason, None) if isinstance(verdict, Fault) else verdict)
    assert [entry.position.offset for entry in entries] == offsets


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20), st.booleans(), st.booleans())
def test_nothing_is_missed_in_silence(seen: int, more: int, discarded: int, forked: bool, marked: bool) -> None:
    """Whatever was trimmed or replaced behind a cursor: either the page goes on exactly behind it, or a fault is told."""
    branch = "b" if forked else "a"
    stored = [e(n, branch=branch if n >= seen else "a") for n in range(1, seen + more + 1)]
    # The first of the new branch still links to the old one.
    stored = [entry._replace(prev=stored[i - 1].position) if i else entry for i, entry in enumerate(stored)][discarded:]
    head = e(seen + more, branch=branch).position
    visible = [entry for entry in stored if entry.position.offset >= seen]
    verdict, entries = verify(at(seen) if marked else at(seen, None), None, HistoryPage(visible, head, complete=not discarded), "contiguous")
    unbroken = [entry.position.offset for entry in entries] == list(range(seen + 1, seen + more + 1))
    if verdict is None:
        assert unbroken
        assert not forked or not marked, "an entry took the place of the one that was seen"
    else:
        assert isinstance(verdict, Fault)
        assert forked or discarded >= seen, "nothing was wrong"


# ---------------------------------------------------------------- ids and keys


def test_only_transports_that_tell_all_by_themselves_are_not_followed() -> None:
    assert not Continuity.needed(LINKED)
    assert not Continuity.needed(COUNTED)
    assert Continuity.needed(ORDERED)
    assert Continuity.needed(BEST_EFFORT)
    assert Continuity.needed(LOGGED)
    assert Continuity.needed(replace(LINKED, idempotent_publish=False))
    assert Continuity.needed(replace(LOGGED, idempotent_publish=True))


Check = tuple[str, str | None, tuple[bool, int]]

ORDERED_CHECKS: dict[str, list[Check]] = {
    "first sight is a baseline": [("p.7", None, (True, 0)), ("p.8", None, (True, 0))],
    "a jump is a hole": [("p.1", None, (True, 0)), ("p.5", None, (True, 3)), ("p.6", None, (True, 0))],
    "a step back is a repeat": [("p.5", None, (True, 0)), ("p.5", None, (False, 0)), ("p.2", None, (False, 0)), ("p.6", None, (True, 0))],
    "publishers are apart": [("p.1", None, (True, 0)), ("q.9", None, (True, 0)), ("p.2", None, (True, 0)), ("q.11", None, (True, 1))],
    "without id nothing is concluded": [("", None, (True, 0)), ("", None, (True, 0))],
    "a key is taken once": [("p.1", "k", (True, 0)), ("p.2", "k", (False, 0)), ("p.3", None, (True, 0)), ("q.1", "k", (False, 0))],
    "a hole before a repeated key": [("p.1", "k", (True, 0)), ("p.4", "k", (False, 2)), ("p.5", None, (True, 0))],
    "a key without id": [("", "k", (True, 0)), ("", "k", (False, 0)), ("", "l", (True, 0))],
    "an id of another form is taken once": [("uuid", None, (True, 0)), ("uuid", None, (False, 0)), (".5", None, (True, 0)), (".5", None, (False, 0))],
    "no number": [("p.x", None, (True, 0)), ("p.x", None, (False, 0)), ("p.-1", None, (True, 0)), ("p.", None, (True, 0))],
    "digits of another script": [("p.\u0667", None, (True, 0)), ("p.8", None, (True, 0))],
    "a publisher with dots": [("a.b.1", None, (True, 0)), ("a.b.3", None, (True, 1)), ("a.1", None, (True, 0))],
    "an absurd number": [("p." + "9" * 400, None, (True, 0)), ("p." + "9" * 400, None, (False, 0))],
}


@pytest.mark.parametrize("checks", ORDERED_CHECKS.values(), ids=ORDERED_CHECKS)
def test_an_ordered_stream_is_followed_by_counters(checks: list[Check]) -> None:
    followed = Continuity(ORDERED)
    assert [followed.check(id, key, True) for id, key, _ in checks] == [verdict for _, _, verdict in checks]


def test_what_is_not_live_is_not_judged_by_id_but_by_key() -> None:
    followed = Continuity(ORDERED)
    assert followed.check("p.5", None, False) == (True, 0)
    assert followed.check("p.3", "k", False) == (True, 0)
    assert followed.check("p.3", "k", False) == (False, 0)
    assert followed.check("p.9", None, True) == (True, 0), "history has left no baseline"


def test_a_loss_that_was_told_is_not_told_again() -> None:
    followed = Continuity(ORDERED)
    assert followed.check("p.1", "k", True) == (True, 0)
    followed.reset()
    assert followed.check("p.9", None, True) == (True, 0)
    assert followed.check("p.10", "k", True) == (False, 0), "keys are remembered: their repeats may come across a reconnect"


def test_a_broker_that_suppresses_keys_is_trusted() -> None:
    followed = Continuity(replace(LOGGED, idempotent_publish=True))
    assert followed.check("p.1", "k", True) == (True, 0)
    assert followed.check("p.2", "k", True) == (True, 0)


def test_an_unordered_stream_has_no_holes() -> None:
    followed = Continuity(BEST_EFFORT)
    assert [followed.check(id, None, True) for id in ("p.1", "p.9", "p.5", "p.9", "p.2", "p.1")] == [
        (True, 0), (True, 0), (True, 0), (False, 0), (True, 0), (False, 0),
    ]  # fmt: skip


def test_windows_are_bounded_and_forget_the_oldest() -> None:
    followed = Continuity(BEST_EFFORT)
    for n in range(5000):
        assert followed.check(f"p.{n}", f"k{n}", True) == (True, 0)
    assert len(followed._ids) <= 1024
    assert len(followed._keys) <= 1024
    assert followed.check("p.4999", None, True) == (False, 0)
    assert followed.check("q.1", "k4500", True) == (False, 0)
    assert followed.check("p.1", "k1", True) == (True, 0)


def test_publishers_are_bounded_and_the_one_evicted_starts_anew() -> None:
    followed = Continuity(ORDERED)
    assert followed.check("old.1", None, True) == (True, 0)
    for n in range(64):
        assert followed.check(f"p{n}.1", None, True) == (True, 0)
        assert followed.check("busy.1" if not n else f"busy.{n + 1}", None, True) == (True, 0)
    assert len(followed._counters) <= 64
    assert followed.check("old.9", None, True) == (True, 0), "a new baseline: neither a hole nor a repeat"
    assert followed.check("busy.66", None, True) == (True, 1), "one that is heard of is kept"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 12)), max_size=60))
def test_each_number_is_new_once_and_holes_add_up(seen: list[tuple[str, int]]) -> None:
    """Against the plain definition: of each publisher, the highest number so far."""
    followed, highest = Continuity(ORDERED), dict[str, int]()
    for publisher, n in seen:
        last = highest.get(publisher)
        expected = (True, 0) if last is None else (n > last, max(0, n - last - 1))
        assert followed.check(f"{publisher}.{n}", None, True) == expected
        highest[publisher] = max(n, last or 0)
