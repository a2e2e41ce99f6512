"""The audit finds what it is there for: accounts of small runs, each with one thing wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.reliability.audit import GAP, Id, audit, read

PUBLISHED = [(kind, "c", "p", n) for n in range(1, 6) for kind in ("tries", "accepted")]


def ids(*numbers: int | str, publisher: str = "p") -> list[Id | str]:
    return [number if isinstance(number, str) else Id(publisher, number) for number in numbers]


@pytest.mark.parametrize(
    ("came", "wrong"),
    [
        (ids(1, 2, 3, 4, 5), {"delivered": 5}),
        (ids(1, 2, 4, 5), {"lost": 1}),
        (ids(2, 3, 4, 5), {"lost": 1}),
        (ids(1, 2, 3), {"lost": 2}),
        (ids(), {"lost": 5}),
        (ids(1, 2, GAP, 5), {"announced": 2, "gaps": 1}),
        (ids(GAP, 3, 4, 5), {"announced": 2, "gaps": 1}),
        (ids(1, 2, 3, 4, GAP), {"announced": 1, "gaps": 1}),
        (ids(1, GAP, 2, 4, 5), {"lost": 1, "gaps": 1}),
        (ids(1, 2, 4, GAP, 5), {"lost": 1, "gaps": 1}),
        (ids(GAP, 1, 2, 3, 4, 5), {"gaps": 1}),
        (ids(1, 2, 2, 3, 4, 5), {"duplicates": 1}),
        (ids(1, 3, 2, 4, 5), {"disordered": 1}),
        (ids(1, 2, 3, 4, 5, 6), {"strange": 1}),
        ([*ids(1, 2, 3, 4, 5), Id("q", 1)], {"strange": 1}),
    ],
    ids=str,
)
def test_one_subscription(came: Sequence[Id | str], wrong: dict[str, int]) -> None:
    account = audit(PUBLISHED, {"s": {"c": came}}, {})
    figures = asdict(account)
    expected = {"published": 5, "accepted": 5, "expected": 5, "delivered": sum(isinstance(item, Id) for item in came), **wrong}
    assert {name: value for name, value in figures.items() if value and name != "examples"} == {
        name: value for name, value in expected.items() if value
    }
    assert account.faults == len(account.examples)


def test_an_unknown_outcome_may_be_either() -> None:
    published = [*PUBLISHED, ("tries", "c", "p", 6)]
    for came in (ids(1, 2, 3, 4, 5), ids(1, 2, 3, 4, 5, 6)):
        account = audit(published, {"s": {"c": came}}, {})
        assert (account.unknown, account.faults) == (1, 0)


def test_a_gap_of_one_channel_or_publisher_is_none_of_another() -> None:
    published = [*PUBLISHED, *((kind, "d", "q", n) for n in (1, 2) for kind in ("tries", "accepted"))]
    account = audit(published, {"s": {"c": ids(1, 2, GAP, 4, 5), "d": [Id("q", 2)]}}, {})
    assert (account.announced, account.lost) == (1, 1)


def test_what_the_broker_keeps() -> None:
    whole = [Id("p", n) for n in range(1, 6)]
    assert audit(PUBLISHED, {}, {"c": whole}).faults == 0
    twice = audit(PUBLISHED, {}, {"c": [*whole, Id("p", 3)]})
    assert (twice.stored_twice, twice.faults) == (1, 1)
    missing = audit(PUBLISHED, {}, {"c": whole[:-1]})
    assert (missing.not_stored, missing.faults) == (1, 1)


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "f").write_text('["tries", "c", "p", 1]\n["acc', encoding="utf-8")
    assert list(read(tmp_path / "f")) == [["tries", "c", "p", 1]]
