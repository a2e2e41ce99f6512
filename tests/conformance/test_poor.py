"""A transport that can do next to nothing passes what it claims, is refused what it does not claim, and is found out if it claims more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from fanwire import Capabilities, Cursor, Realtime, Start
from fanwire.errors import Unsupported
from fanwire.testing.bugs import plant
from fanwire.testing.check import gate
from fanwire.testing.checks import CHECKS
from fanwire.testing.harness import Harness
from fanwire.testing.suite import TransportSuite
from fanwire.testing.tools import Room
from fanwire.transport import TransportOptions
from tests.conformance.poor import LARGEST, PoorHarness, PoorTransport

ROOM = Room(number=1)


class TestPoor(TransportSuite):
    harness = PoorHarness


BY_ROW = {check.row: check for check in CHECKS}


def test_it_claims_nothing_that_has_a_name() -> None:
    assert PoorHarness("n").transport().capabilities.names() == set()


def test_only_what_needs_nothing_applies() -> None:
    applying = {outcome.check.row for outcome in TestPoor.report() if outcome.state == "applies"}
    assert applying == {check.row for check in CHECKS if not check.needs and all(map(PoorHarness.can, check.uses))}
    assert {"B4", "B5", "C1", "C2", "C6", "D2", "D6", "D12", "H4", "I1", "I1b", "I7"} <= applying
    assert not {"A2", "B1", "B2b", "C2c", "D7", "H4b", "I8"} & applying


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "name", ["history", "history.last_n", "ordering.publisher", "confirmed_publish", "confirmed_subscribe", "links", "multi_process"]
)
def test_what_it_does_not_claim_cannot_be_required(name: str) -> None:
    with pytest.raises(Unsupported, match=f"poor .*{name}"):
        Realtime(PoorHarness("n").transport(), require={name})


def test_it_has_no_past() -> None:
    async def main() -> None:
        async with Realtime(PoorHarness("n").transport()) as rt:
            for start in (Start.EARLIEST, Start.last(1), Start.after(Cursor("e", 1))):
                with pytest.raises(Unsupported, match="has: none"):
                    rt.subscribe(ROOM.a, start=start)
                with pytest.raises(Unsupported, match="has: none"):
                    await rt.history(ROOM.a, start=start)

    anyio.run(main)


def test_it_does_not_run_on_trio() -> None:
    async def main() -> None:
        with pytest.raises(Unsupported, match="under trio, only under asyncio"):
            async with Realtime(PoorHarness("n").transport()):
                pytest.fail("it does")

    anyio.run(main, backend="trio")


def test_it_does_lose_and_swap() -> None:
    """Or there would be nothing poor about it."""

    async def main() -> None:
        async with Realtime(PoorHarness("lossy").transport()) as rt, rt.subscribe(ROOM.a) as messages:
            found: list[int] = []
            number = 0
            while len(found) < 100:
                await rt.publish(ROOM.a, number)
                number += 1
                with anyio.move_on_after(0.0):
                    found.append((await anext(messages)).data)
                found += [message.data for message in messages.take_now(100)]
            assert number > len(found)
            assert found != sorted(found)

    anyio.run(main)


# ---------------------------------------------------------------------- found out


def boasting(**claims: Any) -> type[Harness]:  # Any: fields of Capabilities
    """Return a harness whose transport claims what it cannot do."""

    class Boaster(PoorTransport):
        @property
        def capabilities(self) -> Capabilities:
            return replace(super().capabilities, **claims)

    class Boasting(PoorHarness):
        patience = 0.5

        def transport(self, **options: object) -> PoorTransport:
            return Boaster(TransportOptions.model_validate({"namespace": self.namespace, **options}))

    return Boasting


def run(row: str, harness: type[Harness]) -> None:
    check = BY_ROW[row]
    assert gate(check, harness.capabilities(), harness) is None

    async def main() -> None:
        async with harness("boaster") as entered:
            await check(entered)

    anyio.run(main)


BOASTS: dict[str, tuple[str, dict[str, Any]]] = {
    "an order": ("B1", {"ordering": "publisher"}),
    "an order of calls": ("B1b", {"ordering": "publisher"}),
    "one order for all": ("B2b", {"ordering": "channel"}),
    "subscriptions that are ready": ("A2", {"confirmed_subscribe": True, "ordering": "publisher"}),
    "to flush": ("D7", {"confirmed_publish": True, "ordering": "publisher"}),
    "to know keys": ("H4b", {"idempotent_publish": True}),
    "to carry more": ("C4", {"max_payload": 2 * LARGEST}),
    "to keep the past": ("I1", {"history": frozenset({"earliest"})}),
    "long names": ("I1", {"max_channel_bytes": 300}),
}


@pytest.mark.parametrize("boast", BOASTS)
def test_who_claims_more_is_found_out(boast: str) -> None:
    row, claims = BOASTS[boast]
    with pytest.raises((AssertionError, TimeoutError, ExceptionGroup)):
        run(row, boasting(**claims))


def test_who_claims_no_more_is_not() -> None:
    """The boasts are what is found above, not the one who comes between."""
    for row in sorted({row for row, _ in BOASTS.values()} - {"A2", "B1", "B1b", "B2b", "D7", "H4b"}):
        run(row, boasting())


@pytest.mark.parametrize(
    ("bug", "row"), [("start anywhere", "I1b"), ("fold case", "C2"), ("mangle text", "C1"), ("carry less", "C4"), ("never let go", "D2")]
)
def test_bugs_are_found_where_messages_get_lost_too(bug: str, row: str) -> None:
    class Hasty(PoorHarness):
        patience = 0.5

    with plant(bug, Hasty) as broken, pytest.raises((AssertionError, TimeoutError, ExceptionGroup)):
        run(row, broken)


def test_it_is_no_relative_of_ours() -> None:
    """It has the shape of a transport, and inherits nothing."""
    assert PoorTransport.__mro__ == (PoorTransport, object)
