"""The end of the interpreter: prompt, in order and without a word, whatever is open and whoever waits. Each program is a process of its own, and would be found hanging."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fanwire import BlockingRealtime
from fanwire.blocking import exits
from fanwire.errors import Closed
from tests.blocking.support import finish, in_thread, portal_of, portals, room, run_program, until, waits

OPEN = 'rt = BlockingRealtime.from_url("memory://")\n'

WAITING = """
inside = threading.Event()

def follow() -> None:
    with rt.subscribe(room.a) as messages:
        rt.publish(room.a, 1)
        for message in messages:
            say(message.data)
            inside.set()
    say("ended")
"""


def test_an_open_one_that_nobody_closed(tmp_path: Path) -> None:
    assert run_program(OPEN + "say(rt.publish(room.a, 1).topic)", tmp_path) == ["a"]


def test_an_open_subscription(tmp_path: Path) -> None:
    assert run_program(OPEN + "messages = rt.subscribe(room.a).__enter__(); rt.publish(room.a, 1); say(messages.get().data)", tmp_path) == ["1"]


@pytest.mark.parametrize("daemon", [True, False])
def test_a_thread_inside_an_iteration(tmp_path: Path, daemon: bool) -> None:
    """It is told before threads are joined; a daemon has no time to say anything."""
    lines = run_program(OPEN + WAITING + f"threading.Thread(target=follow, daemon={daemon}).start(); inside.wait()", tmp_path)
    assert lines[0] == "1"
    assert daemon or lines == ["1", "ended"]


def test_a_thread_of_an_executor_inside_an_iteration(tmp_path: Path) -> None:
    """Its threads are joined by a hook that runs at the same time as ours."""
    code = "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor()\n" + OPEN + WAITING + "pool.submit(follow); inside.wait()"
    assert run_program(code, tmp_path) == ["1", "ended"]


@pytest.mark.slow
def test_without_the_hook_such_a_thread_would_hang(tmp_path: Path) -> None:
    """Shows that the tests above would notice."""
    code = OPEN + WAITING + "from fanwire.blocking import exits; exits.ended(rt._opened()); threading.Thread(target=follow).start(); inside.wait()"
    with pytest.raises(Exception, match="timed out after 3"):
        run_program(code, tmp_path, seconds=3)


def test_a_thread_that_waits_with_a_timeout_is_told(tmp_path: Path) -> None:
    code = """
    def follow() -> None:
        with rt.subscribe(room.a) as messages:
            inside.set()
            try:
                while True:
                    try:
                        messages.get(timeout=0.05)
                    except errors.Timeout:
                        pass
            except errors.Closed as error:
                say(error)

    inside = threading.Event()
    rt = BlockingRealtime.from_url("memory://")
    threading.Thread(target=follow).start()
    inside.wait()
    """
    assert run_program(code, tmp_path) == ["this subscription is closed, and all its messages were taken"]


def test_what_is_queued_is_still_read(tmp_path: Path) -> None:
    """By iteration and by batches, and a view of events ends as well."""
    code = """
    def follow() -> None:
        main.join()
        say([message.data for message in messages])
        say([[message.data for message in batch] for batch in batches.batches(max_size=2)])

    def watch() -> None:
        with rt.events() as events:
            say(next(events).state)
            watching.set()
            say([event.state for event in events])

    main, watching = threading.current_thread(), threading.Event()
    rt = BlockingRealtime.from_url("memory://")
    messages, batches = rt.subscribe(room.a).__enter__(), rt.subscribe(room.a).__enter__()
    for n in range(3):
        rt.publish(room.a, n)
    threading.Thread(target=watch).start()
    watching.wait()
    threading.Thread(target=follow).start()
    """
    lines = run_program(code, tmp_path)
    assert sorted(lines) == sorted(["connected", "[]", "[0, 1, 2]", "[[0, 1], [2]]"])


def test_a_thread_may_publish_until_it_ends(tmp_path: Path) -> None:
    """As threads may go on with anything while the main thread has ended."""
    code = """
    def work() -> None:
        main.join()
        for n in range(100):
            rt.publish(room.a, n)
        say(rt.stats().published)

    main = threading.current_thread()
    rt = BlockingRealtime.from_url("memory://")
    rt.ping()
    threading.Thread(target=work).start()
    """
    assert run_program(code, tmp_path) == ["100"]


def test_an_atexit_handler_may_publish(tmp_path: Path) -> None:
    """One that was registered after fanwire was imported; a portal cannot be opened any more from Python 3.12 on, and says so."""
    code = """
    import atexit

    def late() -> None:
        say(rt.publish(room.a, 1).topic)
        try:
            say(other.publish(room.a, 1).topic)
        except errors.Closed as error:
            say("no thread could be started" in str(error))

    rt, other = BlockingRealtime.from_url("memory://"), BlockingRealtime.from_url("memory://")
    rt.ping()
    atexit.register(late)
    """
    lines = run_program(code, tmp_path)
    assert lines[0] == "a"
    assert lines[1] in {"a", "True"}


def test_closing_takes_part_in_the_exit(tmp_path: Path) -> None:
    """The connection is closed, not dropped: whoever watches it is told."""
    code = """
    import atexit
    rt = BlockingRealtime.from_url("memory://")
    rt.ping()
    atexit._run_exitfuncs()
    say(rt)
    try:
        rt.publish(room.a, 1)
    except errors.Closed as error:
        say(error)
    """
    assert run_program(code, tmp_path) == ["<BlockingRealtime memory closed>", "this BlockingRealtime is closed"]


def test_a_connection_that_is_being_made(tmp_path: Path) -> None:
    """It is given up."""
    code = """
    import logging
    from fanwire_memory import MemoryTransport
    logging.disable()
    transport = MemoryTransport()
    transport.faults.disconnect(refuse=10**9)
    rt = BlockingRealtime(transport, connect_timeout=60)

    def ping() -> None:
        try:
            rt.ping()
        except errors.Closed:
            pass  # it may see that, or nothing any more

    threading.Thread(target=ping, daemon=True).start()
    while rt.stats().state.value != "disconnected":
        time.sleep(0.001)
    say("trying")
    """
    assert run_program(code, tmp_path) == ["trying"]


def test_system_exit_and_an_error_of_the_main_thread(tmp_path: Path) -> None:
    assert run_program(OPEN + WAITING + "threading.Thread(target=follow).start(); inside.wait(); sys.exit(0)", tmp_path) == ["1", "ended"]


# ---------------------------------------------------------------------- the same, seen from inside


def test_waits_end_while_publishing_goes_on() -> None:
    with BlockingRealtime.from_url("memory://") as rt, rt.subscribe(room.a) as messages, rt.subscribe(room.b) as others:
        iteration = in_thread(lambda: [message.data for message in messages])
        getting = in_thread(others.get)
        until(waits(messages), "the iteration waits")
        until(waits(others), "the other one waits")
        exits._end_waits()
        assert finish(iteration) == []
        with pytest.raises(Closed, match="this subscription is closed"):
            finish(getting)
        rt.publish(room.a, 1)
        rt.publish(room.b, 2)
        assert [message.data for message in messages] == [1]
        assert [[message.data for message in batch] for batch in others.batches()] == [[2]]


def test_all_are_closed_at_once_and_none_is_forgotten() -> None:
    several = [BlockingRealtime.from_url("memory://") for _ in range(3)]
    for rt in several:
        rt.ping()
    assert len(portals()) == 3
    exits._close_all()
    until(lambda: not portals(), "the threads have ended")
    assert not exits._open
    for rt in several:
        with pytest.raises(Closed, match="this BlockingRealtime is closed"):
            rt.ping()
        rt.close()


def test_one_that_is_stuck_does_not_hold_up_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "CLOSE_WITHIN", 0.01)
    release = threading.Event()
    with BlockingRealtime.from_url("memory://") as rt:
        portal = portal_of(rt)
        assert portal.post(lambda: release.wait(10))
        finish(in_thread(exits._close_all), 5)
        assert not portal._ended.is_set()
        release.set()
    until(lambda: not portals(), "its thread has ended")
