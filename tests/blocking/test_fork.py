"""Forks: prefork servers make an object in the parent and use it in the children. Real forks, in processes of their own; each child ends as programs do, with a tidy interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fanwire import BlockingRealtime
from fanwire.blocking import exits, lifetime
from fanwire.errors import WrongLoop
from tests.blocking.support import portal_of, portals, room, run_program, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

FORK = """
import gc

def forked(work) -> int:
    \"\"\"Run work in a child, and wait for its end.\"\"\"
    child = os.fork()
    if not child:
        signal.alarm(10)  # hung: the default action ends it
        work()
        gc.collect()
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def round_trip(n: int) -> bool:
    with rt.subscribe(room.a) as messages:
        rt.publish(room.a, n)
        return messages.get(timeout=5).data == n
"""


def test_made_before_the_fork_and_first_used_behind_it(tmp_path: Path) -> None:
    """As in gunicorn and Celery. No thread is there at the fork, so that Python has nothing to warn of."""
    code = """
    import warnings
    warnings.simplefilter("error")
    rt = BlockingRealtime.from_url("memory://")
    say(rt.capabilities.multi_process, threading.active_count())
    say(forked(lambda: say(round_trip(1))))
    say(forked(lambda: say(round_trip(2))))
    say(round_trip(3))
    """
    assert run_program(FORK + code.replace("\n    ", "\n"), tmp_path) == ["False 1", "True", "0", "True", "0", "True"]


def test_in_use_before_the_fork(tmp_path: Path) -> None:
    """The child has a connection of its own; the parent's goes on, although what it consists of was there in the child as well, and was torn down with it."""
    code = """
    def child() -> None:
        say(repr(rt), rt.stats().published, round_trip(1), rt.stats().published)
        try:
            messages.get(timeout=1)
        except errors.WrongLoop as error:
            say("opened before the process forked" in str(error))
        say(forked(lambda: say("grandchild", round_trip(2))))
        rt.close()

    rt = BlockingRealtime.from_url("memory://")
    with rt.subscribe(room.b) as messages:
        for n in range(20):
            rt.publish(room.b, n)
        for n in range(10):
            say(forked(child if n == 0 else lambda: None))
            # Its event loop has to be woken from outside, and to sleep: neither the pipe nor the selector was harmed.
            say(messages.get(timeout=5).data == n, round_trip(n))
        for n in range(10, 20):
            assert messages.get(timeout=5).data == n
        assert len(rt.history(room.a)) == 10
        say(rt.stats().subscriptions, rt.stats().published)
    """
    lines = run_program(FORK + code.replace("\n    ", "\n"), tmp_path, 30)
    assert lines[:6] == ["<BlockingRealtime memory not open> 0 True 1", "True", "grandchild True", "0", "0", "True True"]
    assert lines[6:-1] == ["0", "True True"] * 9
    assert lines[-1] == "1 30"


def test_inside_of_everything_that_is_entered(tmp_path: Path) -> None:
    """The child leaves the same blocks as the parent: without a word, and without touching anything of the parent's."""
    code = """
    rt = BlockingRealtime.from_url("memory://")
    with rt, rt.subscribe(room.a) as messages, rt.events() as events:
        next(events)
        batches = messages.batches()
        child = os.fork()
        if not child:
            signal.alarm(10)
            for use in (lambda: next(events), lambda: next(iter(messages)), lambda: next(batches)):
                try:
                    say(use())
                except (errors.WrongLoop, StopIteration) as error:
                    say(type(error).__name__)
        else:
            status = os.waitpid(child, 0)[1]
            rt.publish(room.a, 1)
            say("parent", status, messages.get(timeout=5).data)
    say("left")
    try:
        rt.publish(room.a, 1)
    except errors.Closed as error:
        say(error)
    """
    end = ["left", "this BlockingRealtime is closed: make another one"]
    assert run_program(code, tmp_path) == ["StopIteration", "WrongLoop", "WrongLoop", *end, "parent 0 1", *end]


def test_a_run_belongs_to_its_process(tmp_path: Path) -> None:
    code = """
    from fanwire.runs import MemoryStepStore
    rt = BlockingRealtime.from_url("memory://")
    run = rt.run("r", steps=MemoryStepStore())

    def child() -> None:
        say(run.id, run.step.run("s", int))  # not begun before: it is the child's

    def late_child() -> None:
        try:
            run.publish(room.a, 1)
        except errors.WrongLoop:
            say("refused")

    say(forked(child))
    say(run.step.publish("p", room.a, 7))
    say(forked(late_child))
    """
    assert run_program(FORK + code.replace("\n    ", "\n"), tmp_path) == ["r 0", "0", "7", "refused", "0"]


@pytest.mark.slow
def test_forks_under_load(tmp_path: Path) -> None:
    """Other threads publish, open and close meanwhile, and hold whatever locks they hold."""
    code = """
    from fanwire import Realtime
    from fanwire_memory import MemoryTransport

    def publish() -> None:
        while not done:
            rt.publish(room.b, 1)
            with BlockingRealtime(transport) as other:
                other.publish(room.b, 2)

    done = False
    transport = MemoryTransport()
    rt = BlockingRealtime(transport)
    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    codes = {forked(lambda: None if round_trip(n) else os._exit(3)) for n in range(40)}
    done = True
    for thread in threads:
        thread.join()
    say(codes)
    """
    assert run_program(FORK + code.replace("\n    ", "\n"), tmp_path, 60) == ["{0}"]


def test_while_another_thread_holds_its_lock(tmp_path: Path) -> None:
    """Nobody in the child will ever release it."""
    code = """
    rt = BlockingRealtime.from_url("memory://")
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with rt._lock:
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    say(forked(lambda: say(round_trip(1))))
    release.set()
    thread.join()
    say(round_trip(2))
    """
    assert run_program(FORK + code.replace("\n    ", "\n"), tmp_path) == ["True", "0", "True"]


def test_nothing_is_imported_in_the_portals_thread(tmp_path: Path) -> None:
    """The child of a fork at such a moment would wait for the end of the import, which no thread of it goes on with."""
    code = """
    import builtins
    found: set[str] = set()
    plain = builtins.__import__

    def watched(name, globals=None, locals=None, fromlist=(), level=0):
        before = set(sys.modules)
        module = plain(name, globals, locals, fromlist, level)
        if threading.current_thread() is not threading.main_thread():
            found.update(set(sys.modules) - before)
        return module

    builtins.__import__ = watched
    rt = BlockingRealtime.from_url("memory://")
    say("anyio._backends._asyncio" in sys.modules)
    with rt.subscribe(room.a) as messages, rt.events() as events:
        rt.publish(room.a, 1)
        rt.publish_many([room.a(2)])
        next(messages), next(events), next(messages.batches())
        rt.history(room.a), rt.ping(), rt.run("r").publish(room.a, 3)
    rt.close()
    say(found)
    """
    assert run_program(code, tmp_path) == ["True", "set()"]


def test_the_broker_that_is_shared_with_a_realtime_is_the_parents(tmp_path: Path) -> None:
    """Two processes have no memory in common: the child's begins empty, and works."""
    code = """
    from fanwire import Realtime
    from fanwire_memory import MemoryTransport
    transport = MemoryTransport()
    rt = Realtime(transport).blocking()
    rt.publish(room.a, 1)

    def child() -> None:
        say(len(rt.history(room.a)), round_trip(2), len(rt.history(room.a)))

    say(forked(child))
    say([message.data for message in rt.history(room.a)])
    """
    assert run_program(FORK + code.replace("\n    ", "\n"), tmp_path) == ["0 True 1", "0", "[1]"]


def test_the_configuration_is_that_of_the_parent(tmp_path: Path) -> None:
    """Daemons change their directory."""
    (tmp_path / "fanwire.toml").write_text('url = "memory://"\ntimeout = 3.5\n', encoding="utf-8")
    code = f"""
    os.chdir({str(tmp_path)!r})
    rt = BlockingRealtime.from_config(linger=0.5)

    def child() -> None:
        os.chdir("/")
        say(rt.timeout, round_trip(1), rt._realtime._linger)

    say(forked(child))
    """
    assert run_program(FORK + code.replace("\n    ", "\n"), tmp_path) == ["3.5 True 0.5", "0"]


# ---------------------------------------------------------------------- the same, seen from inside


def test_what_a_fork_does_to_a_portal() -> None:
    """In this process, without a fork: the parent's portal is kept, refuses, and the next use opens another one."""
    with BlockingRealtime.from_url("memory://") as rt, rt.subscribe(room.a) as messages:
        portal, prepared = portal_of(rt), len(lifetime._inherited)
        portal.abandon()
        rt._forked()
        assert len(lifetime._inherited) == prepared + 1
        with pytest.raises(WrongLoop, match="opened before the process forked"):
            messages.get()
        assert portal.join()
        assert not portal.post(lambda: None)
        rt.publish(room.a, 1)
        assert portal_of(rt) is not portal
        # There was no fork: the thread is here, and is ended.
        portal.forked = False
        portal.stop(0.0)
        assert portal.join(10)
    until(lambda: not portals(), "the threads have ended")


def test_portals_are_handed_to_the_child_to_keep() -> None:
    class Open:
        def __init__(self) -> None:
            self.abandoned = False

        def end_waits(self) -> None: ...

        def stop(self, deadline: float) -> None: ...

        def join(self, timeout: float | None = None) -> bool:
            return True

        def abandon(self) -> None:
            self.abandoned = True

    there = set(exits._open)
    exits._open.clear()
    one = Open()
    exits.opened(one)
    exits.abandon_all()
    assert one.abandoned
    assert one in exits._inherited
    assert not exits._open
    exits._inherited.remove(one)
    exits._open.update(there)
