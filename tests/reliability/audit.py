"""What was delivered, held against what was published, by what both have written down. Knows nothing of fanwire.

Publishers write an id before they publish it, and again when it was accepted; subscribers write each id that came and each gap that was told, in their order. A message is lost in silence
if it was accepted, and its place in a subscription is neither taken nor within a gap.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, final

__all__ = ("GAP", "Account", "Id", "audit", "read")

GAP: Final = "gap"
"""Stands among the ids of a subscription's channel for a gap."""


class Id(NamedTuple):
    """Which message of which publisher; each counts its messages of each channel, from 1."""

    publisher: str
    n: int


@final
@dataclass
class Account:
    """The figures. ``lost`` and what follows has to be 0."""

    published: int = 0
    accepted: int = 0
    unknown: int = 0
    """Published with an unknown outcome, or refused: they may be there or not."""

    expected: int = 0
    """Accepted messages times the subscriptions that want them."""

    delivered: int = 0
    gaps: int = 0
    """Gaps that were told."""

    announced: int = 0
    """Accepted messages that did not come, within such a gap."""

    lost: int = 0
    duplicates: int = 0
    disordered: int = 0
    strange: int = 0
    """Delivered though nobody has published them."""

    stored_twice: int = 0
    not_stored: int = 0
    examples: list[str] = field(default_factory=list[str])

    @property
    def faults(self) -> int:
        """What must not be."""
        return self.lost + self.duplicates + self.disordered + self.strange + self.stored_twice + self.not_stored

    def blame(self, what: str) -> None:
        """Keep an example."""
        if len(self.examples) < 10:
            self.examples.append(what)

    def __str__(self) -> str:
        return json.dumps(asdict(self))


def read(path: Path) -> Iterator[list[Any]]:  # Any: JSON
    """Yield the lines of a file; the last may have been cut short with its process."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def audit(
    published: Iterable[Sequence[Any]],
    subscriptions: Mapping[str, Mapping[str, Sequence[Id | str]]],
    stored: Mapping[str, Sequence[Id]],  # Any: JSON
) -> Account:
    """Compare.

    Args:
        published: ``("tries" | "accepted" | "failed", channel, publisher, n, ...)`` of all publishers.
        subscriptions: Of each subscription, by channel: ids and gaps as they came.
        stored: Ids by channel as the broker keeps them, where it keeps all.
    """
    account = Account()
    tried: dict[str, set[Id]] = defaultdict(set)
    accepted: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for kind, channel, publisher, n, *_ in published:
        if kind == "tries":
            account.published += 1
            tried[channel].add(Id(publisher, n))
        elif kind == "accepted":
            account.accepted += 1
            accepted[channel][publisher].append(n)
    account.unknown = account.published - account.accepted
    for by_publisher in accepted.values():
        for numbers in by_publisher.values():
            numbers.sort()
    for name, channels in subscriptions.items():
        for channel, items in channels.items():
            _subscription(account, f"{name} of {channel}", items, tried[channel], accepted[channel])
    for channel, ids in stored.items():
        counted = Counter(ids)
        for id, count in counted.items():
            if count > 1:
                account.stored_twice += 1
                account.blame(f"{channel}: {id} is stored {count} times")
        for publisher, numbers in accepted[channel].items():
            for n in numbers:
                if Id(publisher, n) not in counted:
                    account.not_stored += 1
                    account.blame(f"{channel}: {publisher} {n} was accepted and is not stored")
    return account


def _subscription(account: Account, where: str, items: Sequence[Id | str], tried: set[Id], accepted: Mapping[str, Sequence[int]]) -> None:
    gaps = [index for index, item in enumerate(items) if item == GAP]
    account.gaps += len(gaps)
    places: dict[str, dict[int, int]] = defaultdict(dict)
    newest: Counter[str] = Counter()
    for index, item in enumerate(items):
        if not isinstance(item, Id):
            continue
        account.delivered += 1
        publisher, n = item
        if item not in tried:
            account.strange += 1
            account.blame(f"{where}: {item} was never published")
        elif n in places[publisher]:
            account.duplicates += 1
            account.blame(f"{where}: {item} came twice")
        elif n < newest[publisher]:
            account.disordered += 1
            account.blame(f"{where}: {item} came behind {newest[publisher]}")
        places[publisher].setdefault(n, index)
        newest[publisher] = max(newest[publisher], n)
    for publisher, numbers in accepted.items():
        account.expected += len(numbers)
        at = places[publisher]
        seen = sorted(at)
        for n in numbers:
            if n in at:
                continue
            after = bisect_left(seen, n)
            begin = at[seen[after - 1]] if after else -1
            end = at[seen[after]] if after < len(seen) else len(items)
            if bisect_left(gaps, begin) < bisect_left(gaps, end):
                account.announced += 1
            else:
                account.lost += 1
                account.blame(f"{where}: {publisher} {n} was accepted, did not come, and no gap was told there")
