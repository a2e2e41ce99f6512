"""The quick way to follow a publisher's numbers finds what the thorough one finds."""

from __future__ import annotations

from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from fanwire.capabilities import Capabilities
from fanwire.hub.continuity import Continuity

IDS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from("abc"), st.integers(1, 6)).map(lambda parts: f"{parts[0]}.{parts[1]}"),
        st.sampled_from(["", "a", "a.", ".1", "a.01", "a.1_0", "a. 2", "a.x", "b.٢", "reset"]),
    ),
    max_size=40,
)


@given(IDS, st.sampled_from(["channel", "none"]))
def test_it_never_changes_what_is_found(ids: list[str], ordering: Literal["channel", "none"]) -> None:
    capabilities = Capabilities(
        delivery="at_most_once", ordering=ordering, history=frozenset(), multi_process=True, confirmed_publish=True, confirmed_subscribe=True,
        idempotent_publish=False, links="none", max_payload=1,
    )  # fmt: skip
    quick, thorough = Continuity(capabilities), Continuity(capabilities)
    for id in ids:
        if id == "reset":
            quick.reset()
            thorough.reset()
            continue
        found = (True, 0) if quick.follows(id) else quick.check(id, None, True)
        assert found == thorough.check(id, None, True), id
    quick._settle()
    assert list(quick._counters.items()) == list(thorough._counters.items())


def test_the_very_next_numbers_are_followed() -> None:
    capabilities = Capabilities(
        delivery="at_most_once", ordering="channel", history=frozenset(), multi_process=True, confirmed_publish=True, confirmed_subscribe=True,
        idempotent_publish=False, links="none", max_payload=1,
    )  # fmt: skip
    continuity = Continuity(capabilities)
    assert not continuity.follows("a.7")
    assert continuity.check("a.7", None, True) == (True, 0)
    assert [continuity.follows(id) for id in ("a.8", "a.9", "a.9", "a.11", "b.1")] == [True, True, False, False, False]
    assert continuity.check("a.11", None, True) == (True, 1)
    assert continuity.follows("a.12")
