"""The life of a subscribed channel is one table: what it allows, what it refuses, and that its picture shows all of it."""

from __future__ import annotations

from itertools import product

import pytest

from fanwire.errors import Internal
from fanwire.hub import states
from fanwire.hub.states import TRANSITIONS, ChannelRecord, Event, Phase
from fanwire.messages import Cursor
from fanwire.transport import HistoryEntry

ALL = list(product(Phase, Event))


def record(phase: Phase) -> ChannelRecord:
    made = ChannelRecord("chat:x")
    made.phase = phase
    return made


def entry(n: int, size: int = 10) -> HistoryEntry:
    return HistoryEntry(b"x" * size, Cursor("e", n), None)


@pytest.mark.parametrize(("phase", "event"), [step for step in ALL if step in TRANSITIONS])
def test_a_step_of_the_table_is_walked(phase: Phase, event: Event) -> None:
    walked = record(phase)
    walked.on(event)
    assert walked.phase is TRANSITIONS[phase, event]


@pytest.mark.parametrize(("phase", "event"), [step for step in ALL if step not in TRANSITIONS])
def test_any_other_step_is_a_defect_and_changes_nothing(phase: Phase, event: Event) -> None:
    walked = record(phase)
    with pytest.raises(Internal, match=f"chat:x.*{event.name} cannot happen while {phase.name}"):
        walked.on(event)
    assert walked.phase is phase


def test_most_steps_are_refused() -> None:
    assert len(TRANSITIONS) < len(ALL) / 2


def test_every_phase_can_be_reached_and_left() -> None:
    reached, edge = {Phase.WANTED}, [Phase.WANTED]
    while edge:
        here = edge.pop()
        for (phase, _), to in TRANSITIONS.items():
            if phase is here and to not in reached:
                reached.add(to)
                edge.append(to)
    assert reached == set(Phase)
    left = {phase for (phase, _), to in TRANSITIONS.items() if to is not phase}
    assert left == set(Phase) - {Phase.GONE}


def test_every_event_leads_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(Event)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.GONE])
def test_a_lost_connection_may_come_in_every_phase(phase: Phase) -> None:
    assert (phase, Event.LOST) in TRANSITIONS


@pytest.mark.parametrize("phase", [Phase.ASKED, Phase.REPAIRING, Phase.LINGERING, Phase.LEAVING])
def test_somebody_may_come_whenever_nobody_may_be_there(phase: Phase) -> None:
    # A record without subscriptions can be in each of these: ASKED and REPAIRING after the last one left meanwhile.
    assert (phase, Event.WANT) in TRANSITIONS


def test_a_channel_nobody_wants_can_always_go() -> None:
    """From every phase a path of events leads to GONE."""
    going = {Phase.GONE}
    while more := {phase for (phase, _), to in TRANSITIONS.items() if to in going} - going:
        going |= more
    assert going == set(Phase)


def test_the_picture_shows_every_phase_and_event() -> None:
    picture = (states.__doc__ or "").partition("::")[2].partition("A channel is")[0]
    assert [phase.name for phase in Phase if phase.name not in picture and phase is not Phase.WANTED] == []
    words = set(picture.replace("►", " ").replace("◄", " ").replace("─", " ").split())
    assert [event.name.lower() for event in Event if event.name.lower() not in words] == []


# ---------------------------------------------------------------- the record


def test_a_record_says_what_it_is() -> None:
    made = record(Phase.LIVE)
    made.refs, made.generation, made.position = 2, 7, Cursor("e", 5)
    assert repr(made) == "<channel 'chat:x' live refs=2 generation=7 position=e:5:->"


def test_held_frames_stay_over_a_repair_and_nowhere_else() -> None:
    made = record(Phase.ASKED)
    assert made.hold(entry(1), 100)
    made.on(Event.CONFIRM_BEHIND)
    assert made.held == [entry(1)]
    made.on(Event.REPAIRED)
    assert made.held is None
    assert made.held_bytes == 0


@pytest.mark.parametrize("phase", [Phase.ASKED, Phase.REPAIRING])
def test_held_frames_do_not_survive_a_lost_connection(phase: Phase) -> None:
    made = record(phase)
    made.hold(entry(1), 5)
    made.on(Event.LOST)
    assert (made.held, made.held_bytes, made.overflowed) == (None, 0, False)


def test_frames_are_held_within_their_bound() -> None:
    made = record(Phase.REPAIRING)
    assert made.hold(entry(1), 25)
    assert made.hold(entry(2), 25)
    assert made.held_bytes == 20
    assert not made.hold(entry(3), 25), "the third does not fit: all are given up, for history has them"
    assert (made.held, made.held_bytes, made.overflowed) == ([], 0, True)
    assert not made.hold(entry(4, size=1), 25), "held alone it would be handed on before those that were given up"
    assert made.held == []


def test_waking_wakes_each_waiter_once() -> None:
    class Signal:
        def __init__(self) -> None:
            self.calls = 0

        def done(self) -> bool:
            return self.calls > 0

        def set_result(self, result: None, /) -> None:
            self.calls += 1

        def __await__(self):  # type: ignore[no-untyped-def]  # never awaited
            raise NotImplementedError

    made = record(Phase.WANTED)
    made.wake()
    signals = [Signal(), Signal()]
    signals[1].set_result(None)
    made.waiters = [*signals]
    made.wake()
    made.wake()
    assert [signal.calls for signal in signals] == [1, 1]
    assert made.waiters is None
