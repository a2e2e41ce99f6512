"""Checks: what they are, where they are kept, and which of them apply to a transport."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, final

from ..capabilities import Capabilities
from .harness import ABILITIES, Harness

__all__ = ("Check", "Outcome", "check", "gate", "registered", "report")

Body: TypeAlias = Callable[[Harness], Awaitable[None]]


@final
@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table: an assertion about every transport that claims what it needs."""

    row: str
    """Its place in the table, such as ``A2``."""

    name: str
    purpose: str
    """One sentence."""

    needs: frozenset[str]
    """Capabilities it is about, by the names of :meth:`Capabilities.names`."""

    uses: frozenset[str]
    """What the harness has to be able to do, by the names of its methods."""

    finds: frozenset[str]
    """Planted bugs (:mod:`fanwire.testing.bugs`), each of which makes it fail: its negative controls."""

    alone: bool
    """It looks at the whole process, in which nobody else may do anything meanwhile."""

    body: Body

    def __str__(self) -> str:
        return f"{self.row}-{self.name}"

    async def __call__(self, harness: Harness, /) -> None:
        """Run it in an entered harness. Raises ``AssertionError``, or whatever went wrong."""
        await self.body(harness)


_checks: Final[dict[str, Check]] = {}


def check(
    row: str, *, needs: Collection[str] = (), uses: Collection[str] = (), finds: Collection[str] = (), alone: bool = False
) -> Callable[[Body], Check]:
    """Register an async function of a harness as a check; its name and the first line of its docstring are the check's. For the rest see :class:`Check`."""
    unknown = set(uses) - ABILITIES
    if unknown:
        raise ValueError(f"a harness has no {sorted(unknown)}")

    def register(body: Body) -> Check:
        purpose = (inspect.getdoc(body) or "").partition("\n")[0]
        made = Check(row, getattr(body, "__name__", row), purpose, frozenset(needs), frozenset(uses), frozenset(finds), alone, body)
        if row in _checks or not purpose:
            raise ValueError(f"row {row} is there already, or has no docstring")
        _checks[row] = made
        return made

    return register


def registered() -> tuple[Check, ...]:
    """Return all checks whose modules have been imported, by row."""
    return tuple(sorted(_checks.values(), key=lambda made: (made.row[0], int(made.row[1:].rstrip("abcdefgh")), made.row)))


def gate(made: Check, capabilities: Capabilities, harness: type[Harness]) -> str | None:
    """Return why a check does not apply, or ``None`` if it does."""
    if unclaimed := sorted(made.needs - capabilities.names()):
        return f"not claimed: {', '.join(unclaimed)}"
    if unable := sorted(ability for ability in made.uses if not harness.can(ability)):
        return f"the harness cannot: {', '.join(unable)}"
    return None


class Outcome(NamedTuple):
    """What became of a check, for the report."""

    check: Check
    state: Literal["applies", "not claimed", "harness cannot"]
    reason: str


def report(checks: Iterable[Check], capabilities: Capabilities, harness: type[Harness]) -> list[Outcome]:
    """Return for each check whether it applies, and why not."""
    found: list[Outcome] = []
    for made in checks:
        reason = gate(made, capabilities, harness)
        state: Literal["applies", "not claimed", "harness cannot"] = (
            "applies" if reason is None else "not claimed" if reason.startswith("not claimed") else "harness cannot"
        )
        found.append(Outcome(made, state, reason or ""))
    return found
