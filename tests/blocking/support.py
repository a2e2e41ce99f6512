"""What the tests of the blocking façade share: a channel, threads that are watched, and programs of their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from fanwire import BlockingRealtime, BlockingSubscription, Channel, Message, topic
from fanwire.blocking.portal import Portal

__all__ = ("Room", "finish", "in_thread", "opened", "portal_of", "portals", "program", "room", "run_program", "to_start", "until", "waits")

T = TypeVar("T")

PRELUDE = """
from __future__ import annotations
import os, signal, sys, threading, time
from fanwire import BlockingRealtime, BlockingSubscription, Channel, Start, errors, topic

class Room(Channel, name="room:{number}"):
    number: int
    a = topic(int)
    b = topic(int)

room = Room(number=1)

def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # print() writes a line twice where a signal interrupts it
"""
"""What every program begins with."""


class Room(Channel, name="room:{number}"):
    number: int
    a = topic(int)
    b = topic(int)


room = Room(number=1)


# ---------------------------------------------------------------------- waiting on facts


def until(fact: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Let other threads run until ``fact`` holds."""
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.0005)


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Run ``work`` in a thread of its own. Not an executor's, for that one waits at its end for whoever hangs."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - told to the test
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def finish(future: Future[T], seconds: float = 10.0) -> T:
    """Return what a thread returned; fail if it hangs."""
    return future.result(seconds)


def waits(subscription: BlockingSubscription[Message[int]]) -> Callable[[], bool]:
    """Return what tells whether a thread waits for a message of ``subscription``."""
    return lambda: subscription._reader is not None


# ---------------------------------------------------------------------- portals


def opened(rt: BlockingRealtime) -> bool:
    """Tell whether it has opened anything."""
    return rt._portal is not None


def portal_of(rt: BlockingRealtime) -> Portal:
    """Return its portal, open or closed."""
    portal = rt._portal
    assert portal is not None
    return portal


def portals() -> list[threading.Thread]:
    """Return the threads of portals."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("fanwire <Realtime")]


# ---------------------------------------------------------------------- programs


def to_start(code: str, directory: Path) -> list[str]:
    """Write a program, and return what starts it with warnings as errors."""
    file = directory / "program.py"
    file.write_text(PRELUDE + textwrap.dedent(code), encoding="utf-8")
    # Python >= 3.12 warns of forks that are tested here.
    return [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", str(file)]


def run_program(code: str, directory: Path, seconds: float = 20.0, *, errors: str = "") -> list[str]:
    """Run a program to its end, which must come in time, and return the lines it has printed. It must end well, and print nothing but ``errors`` to stderr."""
    result = subprocess.run(to_start(code, directory), capture_output=True, text=True, timeout=seconds, check=False)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    assert result.stderr.strip() == errors
    return result.stdout.splitlines()


@contextmanager
def program(code: str, directory: Path) -> Generator[subprocess.Popen[str]]:
    """Run a program beside the test."""
    process = subprocess.Popen(to_start(code, directory), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
