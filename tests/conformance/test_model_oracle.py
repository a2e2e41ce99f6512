"""What the oracle demands where only publishers' numbers tell of a loss, and where a broker may have a message twice: no more than anybody could know, and no less."""

from __future__ import annotations

from datetime import UTC, datetime

from fanwire import Gap, GapReason, Message
from fanwire.testing.model.account import Account, Item, Sent, Visit
from fanwire.testing.model.oracle import faults
from fanwire.testing.model.steps import Interest, Join
from tests.hub.support import LINKED, LOGGED

C = "room:0"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)
HOLE = Gap(C, GapReason.HOLE, 1)


def account(*ids: str, seen: tuple[int | Gap, ...], unknown: bool = False, lossy: bool = True, breaks: dict[int, list[int]] | None = None) -> Account:
    """Of messages 1, 2, ... with these ids, published one after the other, a reader of realtime 9 saw some; those of publisher ``p`` are of realtime 1."""
    sent = {
        number: Sent(
            number,
            1 if id[0] == "p" else 2,
            C,
            "a",
            100 * number,
            None,
            100 * number + 50,
            "unknown" if unknown else "accepted",
            None if unknown else id,
        )
        for number, id in enumerate(ids, 1)
    }
    items: list[tuple[int, Item]] = [
        (1000 + index, one if isinstance(one, Gap) else Message(ids[one - 1], C, "a", one, "data", WHEN, None, None, None))
        for index, one in enumerate(seen)
    ]
    visit = Visit(
        "a reader", Join(0, 0, (Interest(0, "a"),), "live", 1, 1024, "anext", None), 9, {C: frozenset("a")}, 0, "live", ready=1, items=items
    )
    return Account(LOGGED, sent, [visit], lossy=lossy, breaks=breaks or {})


def test_a_loss_is_told_by_the_next_message_of_its_publisher_and_others_may_come_before_it() -> None:
    assert faults(account("p.1", "p.2", "q.1", "p.3", seen=(1, 3, HOLE, 4))) == []
    assert faults(account("p.1", "p.2", "q.1", "p.3", seen=(1, HOLE, 3, 4))) == []


def test_a_loss_is_told_no_later_than_that() -> None:
    for seen in ((1, 3, 4), (1, 3, 4, HOLE), (HOLE, 1, 3, 4)):
        (text,) = faults(account("p.1", "p.2", "q.1", "p.3", seen=seen))
        assert "neither delivered nor announced behind 1 and before 4" in text
    (text,) = faults(account("p.1", "p.2", "p.3", "p.4", seen=(1, HOLE, 4)))
    assert "2 are missing" in text
    (text,) = faults(account("p.1", "p.2", "q.1", "p.3", seen=(1, 3, HOLE, 4), lossy=False))
    assert "neither delivered nor announced behind 1 and before 3" in text, "nothing was lost but by a transport that has no order"


def test_what_only_the_last_or_the_first_messages_of_a_publisher_would_tell_is_not_demanded() -> None:
    assert faults(account("p.1", "p.2", "q.1", seen=(1, 3))) == []
    assert faults(account("q.1", "p.1", "p.2", seen=(1, 3))) == []


def test_where_a_message_may_be_stored_twice_either_place_is_right() -> None:
    """Its publisher's connection broke before it was answered, so it was sent again; the reader began behind the first of the two."""
    twice = {1: [500]}
    assert faults(account("p.1", "p.2", "p.3", seen=(3, 1, 2), unknown=True, breaks=twice)) == []
    (text,) = faults(account("p.1", "p.2", "p.3", seen=(3, 1, 2), unknown=True))
    assert "came behind 3" in text, "it was sent once"
    (text,) = faults(account("p.1", "p.2", "p.3", seen=(3, 1, 2), breaks=twice))
    assert "came behind 3" in text, "it had been answered when the connection broke"
    strict = account("p.1", "p.2", "p.3", seen=(3, 1, 2), unknown=True, breaks=twice)
    strict.capabilities = LINKED
    (text,) = faults(strict)
    assert "came behind 3" in text, "the broker suppresses the second"


def test_repeats_that_may_come_are_not_out_of_order() -> None:
    """The reader's connection broke meanwhile, so that it has forgotten the numbers."""
    assert faults(account("p.1", "p.2", "p.3", seen=(1, 2, 3, 1, 2), breaks={9: [1002]})) == []
    assert faults(account("p.1", "p.2", "p.3", seen=(1, 2, 3, 1, 2), breaks={9: [500]})) == [], "it took them all later"
    (text,) = faults(account("p.1", "p.2", "p.3", seen=(1, 2, 3, 1, 2), breaks={9: [50, 1010]}))
    assert text.count("came twice") == 2, "before they were sent, or behind all"
    (text,) = faults(account("p.1", "p.2", "p.3", seen=(1, 2, 3, 1, 2)))
    assert text.count("came twice") == 2
    assert "came behind" not in text
    (text,) = faults(account("p.1", "p.2", "p.3", seen=(2, 1, 3, 1, 2), breaks={9: [1002]}))
    assert "came behind 2" in text, "the first time already"
