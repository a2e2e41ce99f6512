"""The figures of a run, as they are written to JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from .harness import Regime

__all__ = (
    "CaseResult",
    "Cost",
    "Environment",
    "MemoryResult",
    "PublishResult",
    "Report",
    "Row",
    "Spread",
    "Verdict",
    "costs",
    "environment",
    "spread",
)

PACKAGES = ("fanwire", "pydantic", "pydantic-core", "anyio", "broadcaster")


class Frozen(BaseModel):
    """A value."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Spread(Frozen):
    """A median and the quartiles around it."""

    median: float
    p25: float
    p75: float


def spread(values: Iterable[float]) -> Spread:
    """Summarise the rounds of one figure.

    Args:
        values: One per round; at least one.

    Returns:
        Median and quartiles.
    """
    every = list(values)
    p25, median, p75 = statistics.quantiles(every, n=4, method="inclusive") if len(every) > 1 else every * 3
    return Spread(median=median, p25=p25, p75=p75)


class Environment(Frozen):
    """What it ran on; nothing that identifies the machine or its user."""

    python: str
    platform: str
    processor: str
    cpus: int
    packages: dict[str, str]


class Row(Frozen):
    """One contender in one case. Ratios are those of the same round, summarised over the rounds."""

    name: str
    kind: Literal["floor", "peer", "fanwire"]
    wall_rate: Spread
    """Deliveries per second of wall time."""
    cpu_rate: Spread
    """Deliveries per second of processor time."""
    of_floor: Spread
    """This contender over the floor of the regime, by wall time."""
    fanwire_over: Spread
    """fanwire over this contender, by wall time."""
    fanwire_over_cpu: Spread
    """fanwire over this contender, by processor time."""


class CaseResult(Frozen):
    """One number of subscribers in one regime."""

    regime: Regime
    subscribers: int
    burst: int
    bursts: int
    rows: tuple[Row, ...]


class MemoryResult(Frozen):
    """What one idle subscriber holds, its task included, in bytes."""

    name: str
    subscribers: int
    traced: float
    """By `tracemalloc`: memory that Python objects hold."""
    resident: float
    """By the operating system: growth of the resident set."""


class PublishResult(Frozen):
    """`publish` without a subscriber beside validating and dumping the same model by a bare `TypeAdapter`; nanoseconds per call."""

    bare: Spread
    publish: Spread
    ratio: Spread
    ratio_cpu: Spread


class Cost(Frozen):
    """What a contender's time in bursts is made of, by processor time: a share per message, whoever listens, and a share per delivery."""

    name: str
    message: float
    """Microseconds per message: publishing, encoding, decoding. From the case of 10 subscribers, less their deliveries."""
    delivery: float
    """Nanoseconds per further delivery: the slope between 100 and 1,000 subscribers."""


class Verdict(Frozen):
    """A target and what became of it."""

    target: str
    bound: float
    value: float
    passed: bool


class Report(Frozen):
    """Everything that one run found."""

    environment: Environment
    payload_bytes: int
    rounds: int
    seconds: float
    cases: tuple[CaseResult, ...] = ()
    memory: tuple[MemoryResult, ...] = ()
    publish: PublishResult | None = None
    costs: tuple[Cost, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every target that was measured is met."""
        return all(verdict.passed for verdict in self.verdicts)


def costs(cases: Iterable[CaseResult]) -> tuple[Cost, ...]:
    """Split the time of each contender in bursts into a cost per message and one per delivery.

    In lockstep there is no such split: the more tasks are woken at once, the cheaper each is. The quarter of quickest rounds is used, since
    the cases run one after another and carry the drift of the machine between them.

    Args:
        cases: Results. Those of bursts to 10, 100 and 1,000 subscribers are needed.

    Returns:
        One entry per contender, floors left out; none if a case is missing.
    """
    rows = {(row.name, case.subscribers): row for case in cases if case.regime == "burst" for row in case.rows if row.kind != "floor"}
    seconds = {(name, subscribers): subscribers / row.cpu_rate.p75 for (name, subscribers), row in rows.items()}
    found: list[Cost] = []
    for name in {name: None for name, _ in seconds}:
        few, some, many = (seconds.get((name, subscribers)) for subscribers in (10, 100, 1000))
        if few is not None and some is not None and many is not None:
            slope = (many - some) / 900
            found.append(Cost(name=name, message=(few - 10 * slope) * 1e6, delivery=slope * 1e9))
    return tuple(found)


def environment() -> Environment:
    """Describe the interpreter, the machine and the packages."""
    return Environment(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cpus=os.cpu_count() or 1,
        packages={name: _version(name) for name in PACKAGES},
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source tree"


def _processor() -> str:
    """Model of the processor, where the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
