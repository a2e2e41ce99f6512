"""``fanwire check``: whether a broker can be used, step by step, and what is wrong where it cannot.

The steps: the URL and the configuration, the transport, the connection, what the transport declares; then, on a channel of its own that nobody else uses, subscribe, publish,
receive, the latency of several round trips, and history. Whether the credentials allow something is told by doing it, so one message is left behind in the history of that
channel.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, final

import anyio

from ..capabilities import Capabilities
from ..config import Settings
from ..errors import ConfigError, Internal, Timeout
from ..messages import Message, Start
from ..realtime import Realtime
from ..registry import parse_url, redact
from ..subscription import Subscription
from ..topics import TopicRef
from . import connection
from .check_view import JsonScreen, LiveScreen, PlainScreen, Screen
from .connection import Place
from .diagnosis import diagnose
from .errors import OK, report_of
from .output import on_terminal, plural
from .running import run
from .transports import plain_capabilities, source_of, words

__all__ = ("STEPS", "Latency", "Outcome", "Step", "check")

STEPS: Final = ("url", "transport", "connect", "capabilities", "subscribe", "publish", "receive", "latency", "history")
"""In this order."""

_TOPIC: Final = "check"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What became of one step."""

    name: str
    status: Literal["ok", "failed", "skipped"]
    seconds: float | None = None
    detail: str = ""
    """What was found; of a failed step the error, of a skipped one the reason."""

    code: str | None = None
    """Of the error, as in :mod:`fanwire.errors`."""

    diagnosis: str | None = None
    """What it most likely means, as in :mod:`fanwire.cli.diagnosis`."""

    remedy: str | None = None


class Latency(NamedTuple):
    """Round trips to the broker, in milliseconds."""

    trips: int
    min: float
    p50: float
    p99: float


@final
@dataclass(slots=True)
class Outcome:
    """Everything that was found."""

    url: str | None
    """Redacted."""

    steps: list[Step]
    capabilities: Capabilities | None = None
    latency: Latency | None = None

    @property
    def failed(self) -> Sequence[Step]:
        """The steps that failed."""
        return [step for step in self.steps if step.status == "failed"]

    def may(self) -> Mapping[str, bool | None]:
        """Return what the credentials allow; ``None`` where it was not tried, or failed for another reason."""
        found = {step.name: step for step in self.steps}
        return {name: _allowed(found.get(name)) for name in ("subscribe", "publish", "history")}

    def plain(self) -> Mapping[str, object]:
        """Return it as JSON values."""
        names = ("name", "status", "seconds", "detail", "code", "diagnosis", "remedy")
        return {
            "ok": not self.failed,
            "url": self.url,
            "steps": [{name: getattr(step, name) for name in names} for step in self.steps],
            "capabilities": None if self.capabilities is None else plain_capabilities(self.capabilities),
            "latency_ms": None if self.latency is None else self.latency._asdict(),
            "may": self.may(),
        }

    def verdict(self) -> str:
        """Return it in one sentence."""
        if self.failed:
            return f"FAILED: {', '.join(f'{step.name} ({step.diagnosis})' for step in self.failed)}"
        may = [name for name, allowed in self.may().items() if allowed]
        inside = self.capabilities is not None and not self.capabilities.multi_process
        return f"passed: this connection may {_series(may)}{'; it stays inside this process' if inside else ''}"


def _allowed(step: Step | None) -> bool | None:
    if step is None or step.status == "skipped":
        return None
    if step.status == "ok":
        return True
    return False if step.diagnosis in {"permission", "credentials", "token_expired"} else None


def _series(names: Sequence[str]) -> str:
    shown = ["read history" if name == "history" else name for name in names]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def check(place: Place, *, pings: int, json: bool) -> int:
    """Try everything that can be tried, and print what was found.

    Args:
        place: Which broker.
        pings: Round trips to time.
        json: Whether to print one JSON object.

    Returns:
        The exit code: 0 if all that was tried works, else that of the first error.

    Raises:
        ConfigError: an argument is wrong.
        OutputClosed: standard output cannot be written.
    """
    if pings < 1:
        raise ConfigError(f"--pings must be at least 1, got {pings}")
    connection.seconds("--timeout", place.timeout)
    screen: Screen = JsonScreen() if json else LiveScreen() if on_terminal(sys.stdout) else PlainScreen()
    examination = _Examination(place, pings, screen)
    with screen:
        run(examination.run)
    screen.report(examination.outcome)
    return examination.exit_code


class _Skip(Exception):
    """A step that does not apply; its text says why."""


@final
class _Examination:
    """Goes through the steps. Each leaves what the next ones need."""

    def __init__(self, place: Place, pings: int, screen: Screen) -> None:
        self.outcome = Outcome(None, [])
        self.exit_code: int = OK
        self._place = place
        self._pings = pings
        self._screen = screen
        self._stack = AsyncExitStack()
        self._settings: Settings | None = None
        self._realtime: Realtime | None = None
        self._open = False
        self._ref: TopicRef[Any] = TopicRef(f"fanwire-check:{uuid.uuid4().hex[:12]}", _TOPIC)  # Any: made by hand
        self._messages: Subscription[Message[Any]] | None = None
        self._published = False

    async def run(self) -> None:
        """Try every step; those that need a failed one are skipped."""
        actions: Mapping[str, Callable[[], Awaitable[str]]] = {
            "url": self._url,
            "transport": self._transport,
            "connect": self._connect,
            "capabilities": self._capabilities,
            "subscribe": self._subscribe,
            "publish": self._publish,
            "receive": self._receive,
            "latency": self._latency,
            "history": self._history,
        }
        async with self._stack:
            for name in STEPS:
                self._screen.begin(name)
                step = await self._try(name, actions[name])
                self.outcome.steps.append(step)
                self._screen.end(step)

    async def _try(self, name: str, action: Callable[[], Awaitable[str]]) -> Step:
        began = time.perf_counter()
        try:
            detail = await action()
        except _Skip as skip:
            return Step(name=name, status="skipped", detail=str(skip))
        except Exception as error:  # noqa: BLE001 - whatever a transport raises is what is looked for
            report, diagnosis = report_of(error, debug=True), diagnose(error)
            if self.exit_code == OK:
                self.exit_code = report.exit_code
            return Step(
                name=name,
                status="failed",
                seconds=time.perf_counter() - began,
                detail=report.message,
                code=report.code,
                diagnosis=diagnosis.kind,
                remedy=None if diagnosis.kind == "unsupported" else diagnosis.remedy,  # which is to run this command
            )
        return Step(name=name, status="ok", seconds=time.perf_counter() - began, detail=detail)

    # ------------------------------------------------------------------ before there is a connection

    async def _url(self) -> str:
        settings = connection.load(self._place)
        url = settings.url.get_secret_value()
        self.outcome.url = redact(url)
        parse_url(url)
        self._settings = settings
        namespace = "" if settings.namespace is None else f", namespace {settings.namespace}"
        return f"{self.outcome.url}{namespace}"

    async def _transport(self) -> str:
        if self._settings is None:
            raise _Skip("there is no URL")
        self._realtime = connection.open_realtime(self._place)
        source = source_of(parse_url(self._settings.url.get_secret_value()).scheme)
        return f"{self._settings.open_transport().name}{f', of {source}' if source else ''}"

    async def _connect(self) -> str:
        if self._realtime is None:
            raise _Skip("there is no transport")
        await self._stack.enter_async_context(connection.opened(self._realtime))
        self._open = True
        return "connected"

    async def _capabilities(self) -> str:
        if self._realtime is None:
            raise _Skip("there is no transport")
        capabilities = self.outcome.capabilities = self._realtime.capabilities
        found = words(capabilities)
        return ", ".join(f"{name} {found[name]}" for name in ("delivery", "order", "history", "processes"))

    # ------------------------------------------------------------------ with a connection

    def _rt(self) -> Realtime:
        if self._realtime is None or not self._open:
            raise _Skip("there is no connection")
        return self._realtime

    async def _subscribe(self) -> str:
        self._messages = await self._stack.enter_async_context(self._rt().subscribe(self._ref))
        return self._ref.channel

    async def _publish(self) -> str:
        receipt = await self._rt().publish(self._ref, {"check": self._ref.channel})
        self._published = True
        return "accepted" if receipt.cursor is None else f"accepted at {receipt.cursor}"

    async def _receive(self) -> str:
        rt = self._rt()
        if self._messages is None or not self._published:
            raise _Skip("nothing was " + ("subscribed" if self._messages is None else "published"))
        with anyio.move_on_after(rt.timeout):
            message = await anext(self._messages)
            if message.data != {"check": self._ref.channel}:
                raise Internal(f"what was received is not what was published: {message.data!r:.200}")
            return "what was published"
        raise Timeout(f"nothing was received within {rt.timeout:g} s of what the broker accepted")

    async def _latency(self) -> str:
        rt = self._rt()
        found = sorted([await rt.ping() * 1_000 for _ in range(self._pings)])
        latency = self.outcome.latency = Latency(len(found), found[0], found[(len(found) - 1) // 2], found[-(-99 * len(found) // 100) - 1])
        return f"{plural(latency.trips, 'round trip')}: min {latency.min:.3f} ms, p50 {latency.p50:.3f} ms, p99 {latency.p99:.3f} ms"

    async def _history(self) -> str:
        rt = self._rt()
        forms = rt.capabilities.history
        if "earliest" in forms:
            start = Start.EARLIEST
        elif "last_n" in forms:
            start = Start.last(1)
        elif "since_time" in forms:
            start = Start.since(datetime.now(UTC) - timedelta(hours=1))
        else:
            raise _Skip("the transport declares none" if not forms else "it is only read behind a cursor")
        found = await rt.history(self._ref, start=start)
        if self._published and not any(message.data == {"check": self._ref.channel} for message in found):
            raise Internal("the history does not have what was published")
        return f"{plural(len(found), 'message')} read back" if self._published else "may be read"
