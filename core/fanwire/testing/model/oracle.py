"""The oracle: what a run must have shown, judged from what was sent and what was seen.

Of each reader, channel by channel:

* nothing comes that was not sent, nothing twice, nothing that its start leaves out;
* the order is the one declared; with ``ordering="channel"`` all readers see one;
* what was accepted, and is not seen, is announced by a gap at its place, which may count more but not fewer;
* there is no gap where history held everything; without history none but for a break of the connection, or for what did not come.

A publish of unknown outcome may appear or not. What the broker accepted and then lost, nobody has to see. Holes that only publishers' numbers show are demanded where
these show them: inside of what is seen of one publisher, while the connection stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, final

from ...messages import Cursor, Gap, GapReason
from .account import Account, Sent, Visit

__all__ = ("faults",)

_SHOWN = 8
"""Faults of one subscription that a failure lists."""


class _Seen(NamedTuple):
    """A message that a visit saw."""

    place: int
    """Its index among the visit's items."""

    tick: int
    sent: Sent


def faults(account: Account) -> list[str]:
    """Return what is wrong with a run, each with who saw it and what was seen; empty if all is well."""
    oracle = _Oracle(account)
    found = list(account.troubles)
    for visit in account.visits:
        texts = list(dict.fromkeys(oracle.visit(visit)))
        if texts:
            more = [f"    ... and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
            found.append("\n".join([f"{visit}:", *(f"    {text}" for text in texts[:_SHOWN]), *more, f"    what it saw: {visit.shown()}"]))
    return found + oracle.disagreements()


@final
class _Oracle:
    def __init__(self, account: Account) -> None:
        self.account = account
        self.capabilities = account.capabilities
        self.ordering = account.capabilities.ordering
        self.sent: dict[str, list[Sent]] = {}
        for sent in account.sent.values():
            self.sent.setdefault(sent.channel, []).append(sent)

    def before(self, one: Sent, other: Sent) -> bool:
        """Tell whether every reader of both has to see ``one`` first."""
        if self.ordering == "none":
            return False
        if one.realtime == other.realtime:
            return one.number < other.number
        if self.ordering == "publisher":
            return False
        if one.outcome == other.outcome == "accepted" and self.capabilities.idempotent_publish:
            if one.era != other.era:
                return one.era < other.era
            if one.cursor is not None and other.cursor is not None and one.cursor.epoch == other.cursor.epoch:
                return one.cursor.offset < other.cursor.offset
        return one.outcome == "accepted" and one.ended < other.begun

    # ------------------------------------------------------------------ one visit

    def visit(self, visit: Visit) -> Iterator[str]:
        """Yield what is wrong with what a visit saw."""
        yield from self._foreign(visit)
        if visit.expired is not None:
            yield from self._expired(visit, visit.expired)
        for channel in visit.interests:
            seen = [
                _Seen(index, tick, self.account.sent[item.data])
                for index, (tick, item) in enumerate(visit.items)
                if not isinstance(item, Gap) and item.channel == channel and item.data in self.account.sent
            ]
            yield from self._twice(visit, channel, seen)
            yield from self._order(seen)
            yield from self._too_early(visit, seen)
            missing = self._missing(visit, channel, seen)
            yield from self._unannounced(visit, channel, seen, missing)
            yield from self._uncalled_for(visit, channel, seen)

    def _foreign(self, visit: Visit) -> Iterator[str]:
        """Messages that are not what was sent, or were not asked for."""
        for _, item in visit.items:
            if isinstance(item, Gap):
                if item.channel is not None and item.channel not in visit.interests:
                    yield f"a gap of another channel: {item}"
                continue
            sent = self.account.sent.get(item.data)
            if sent is None or (item.channel, item.topic) != (sent.channel, sent.topic):
                yield f"{item} was never sent"
            elif not visit.wants(sent):
                yield f"{sent} was not asked for"
            elif sent.outcome == "suppressed":
                yield f"{sent} came, though its receipt says that it was suppressed"
            elif sent.id is not None and sent.id != item.id:
                yield f"{sent} came under the id {item.id!r}, its receipt has {sent.id!r}"
            elif sent.cursor is not None and item.cursor is not None and not self._is_there(sent.cursor, item.cursor):
                yield f"{sent} came at {item.cursor}, its receipt has {sent.cursor}"

    def _is_there(self, receipt: Cursor, found: Cursor) -> bool:
        """Tell whether a message may be found at a place. One that was tried again may be stored twice: then the receipt has one place, and a reader finds the other."""
        return found[:2] == receipt[:2] or (not self.capabilities.idempotent_publish and found.epoch == receipt.epoch)

    def _expired(self, visit: Visit, tick: int) -> Iterator[str]:
        """A refusal to start behind a message that history has."""
        if not any(sent.gone <= tick or sent.channel in self.account.touched for sent in visit.behind.values()):
            yield "was told that its cursor has expired, though history holds everything"

    def _twice(self, visit: Visit, channel: str, seen: Sequence[_Seen]) -> Iterator[str]:
        """Repeats, by id and by key, where they have to be suppressed."""
        first: dict[int, _Seen] = {}
        for one in seen:
            earlier = first.setdefault(one.sent.number, one)
            if earlier is not one and not self._may_repeat(visit, channel, earlier, one):
                yield f"{one.sent} came twice"
            same = None if one.sent.repeats is None else first.get(one.sent.repeats)
            if same is not None and self._by_key(visit, channel):
                yield f"{one.sent} came, though {same.sent.number} had come under the same key"

    def _by_key(self, visit: Visit, channel: str) -> bool:
        """Tell whether repeats under a key have to be suppressed: by the broker, unless it forgot, else by the hub, which does not know what a reader found in history."""
        return channel not in self.account.touched if self.capabilities.idempotent_publish else visit.start == "live"

    def _may_repeat(self, visit: Visit, channel: str, one: _Seen, other: _Seen) -> bool:
        """Tell whether a message may come twice: retried, where ids alone show a repeat, across a break that made the reader forget them."""
        if self.capabilities.delivery == "exactly_once":
            return channel in self.account.touched and one.sent.outcome != "accepted"
        # It may have arrived long before the reader took it.
        broken = any(one.sent.begun < tick < other.tick for tick in self.account.breaks.get(visit.realtime, ()))
        return self.capabilities.links == "none" and self.ordering != "none" and broken

    def _again(self, sent: Sent) -> bool:
        """Tell whether the broker may have stored a message twice: it was not answered before the connection broke, and was sent again."""
        if self.capabilities.idempotent_publish or self.capabilities.links != "none":
            return False
        end = sent.ended if sent.outcome == "accepted" else math.inf
        return any(sent.begun < tick < end for tick in self.account.breaks.get(sent.realtime, ()))

    def _order(self, seen: Sequence[_Seen]) -> Iterator[str]:
        """Messages behind one that has to come later. Of a message that comes again only the first counts: whether it may is another question."""
        if self.ordering == "none":
            return
        first: dict[int, _Seen] = {}
        for one in seen:
            first.setdefault(one.sent.number, one)
        seen = list(first.values())
        for index, one in enumerate(seen):
            if self._again(one.sent):
                continue  # it may have begun behind the first of two, and the second is as good
            late = next((other for other in seen[:index] if other.sent is not one.sent and self.before(one.sent, other.sent)), None)
            if late is not None:
                yield f"{one.sent} came behind {late.sent}"

    # ------------------------------------------------------------------ where it starts

    def _too_early(self, visit: Visit, seen: Sequence[_Seen]) -> Iterator[str]:
        """Messages from before the place it was to start at."""
        for _, _, sent in seen:
            behind = visit.behind.get(sent.channel)
            if behind is not None:
                if sent is behind or self.before(sent, behind):
                    yield f"{sent} came, though it starts behind {behind}"
            elif visit.start == "last":
                newer = [other for other in self.sent[sent.channel] if self._accepted_by(other, visit.begun) and self.before(sent, other)]
                if len(newer) >= visit.join.back:
                    yield f"{sent} came, though {len(newer)} newer ones were there when it began"
            elif visit.start == "live" and sent.outcome == "accepted" and sent.ended < visit.begun and self._was_over(visit, sent):
                yield f"{sent} came, though it was over before the reader began"

    def _accepted_by(self, sent: Sent, tick: float) -> bool:
        return sent.outcome == "accepted" and sent.ended < tick and not sent.revoked and sent.gone > tick

    def _was_over(self, visit: Visit, sent: Sent) -> bool:
        """Tell whether the reader's connection could not bring an earlier message any more: it had never had the channel, or had brought a later message."""
        others = [
            other
            for other in self.account.visits
            if other.realtime == visit.realtime and other.begun < visit.begun and sent.channel in other.interests
        ]
        if not others:
            return self.ordering == "channel" and self.capabilities.confirmed_subscribe
        return any(
            tick < visit.begun and not isinstance(item, Gap) and item.channel == sent.channel and self._later(sent, item.data)
            for other in others
            if other.start == "live"
            for tick, item in other.items
        )

    def _later(self, sent: Sent, number: object) -> bool:
        other = self.account.sent.get(number) if isinstance(number, int) else None
        return other is not None and self.before(sent, other)

    # ------------------------------------------------------------------ what is missing

    def _missing(self, visit: Visit, channel: str, seen: Sequence[_Seen]) -> list[Sent]:
        """Return what had to come, and did not."""
        if visit.ready == math.inf:
            return []
        come = {one.sent.number for one in seen}
        return [sent for sent in self.sent.get(channel, ()) if sent.number not in come and visit.wants(sent) and self._due(visit, sent, seen)]

    def _due(self, visit: Visit, sent: Sent, seen: Sequence[_Seen]) -> bool:
        if sent.outcome != "accepted" or sent.repeats is not None or sent.revoked:
            return False
        if not self.capabilities.confirmed_publish and any(self.account.breaks.values()):
            return False
        if sent.begun > visit.ready and self.capabilities.confirmed_subscribe:
            return True
        start, kept = visit.start, sent.gone > visit.ready
        if start in {"earliest", "beginning"} and kept:
            return True
        if start == "since" and kept and sent.begun > visit.since:
            return True
        if start == "last" and kept and self._among_newest(visit, sent):
            return True
        behind = visit.behind.get(sent.channel)
        if behind is not None and self.before(behind, sent):
            return True
        return any(self.before(one.sent, sent) for one in seen)

    def _among_newest(self, visit: Visit, sent: Sent) -> bool:
        """Tell whether it is among the newest that ``Start.last`` has to show, whatever was under way at that moment."""
        rivals = [other for other in self.sent[sent.channel] if other is not sent and other.begun < visit.ready and other.outcome != "suppressed"]
        return sum(not self.before(other, sent) for other in rivals) < visit.join.back

    def _window(self, visit: Visit, sent: Sent, seen: Sequence[_Seen]) -> tuple[int, int]:
        """Return behind which item and before which item a message would have had to come."""
        lower = max((one.place for one in seen if self.before(one.sent, sent)), default=-1)
        upper = min((one.place for one in seen if self.before(sent, one.sent)), default=len(visit.items))
        return lower, upper

    def _unannounced(self, visit: Visit, channel: str, seen: Sequence[_Seen], missing: Sequence[Sent]) -> Iterator[str]:
        """Messages that are missing without a gap at their place, or with too small a one."""
        gaps = {
            index: item for index, (_, item) in enumerate(visit.items) if isinstance(item, Gap) and (item.channel is None or item.channel == channel)
        }
        slots: dict[tuple[int, int], list[Sent]] = {}
        for sent in missing:
            lower, upper = self._window(visit, sent, seen)
            if upper == len(visit.items) and not (visit.stuck or (visit.drained and self.ordering == "none")):
                continue  # it had not read so far; or what came last was lost, and nothing came behind it
            if self.account.lossy and self.capabilities.links == "none":
                shown = self._shown_between(visit, sent, seen)
                if shown is None:
                    continue
                # Messages of other publishers may stand before the one that tells.
                lower, upper = shown
            if not any(lower < index < upper for index in gaps):
                yield f"{sent} is neither delivered nor announced{_place(visit, lower, upper)}"
            elif not any(lower < one.place < upper for one in seen):
                slots.setdefault((lower, upper), []).append(sent)
        for (lower, upper), lost in slots.items():
            here = [gap.lost for index, gap in gaps.items() if lower < index < upper]
            announced = sum(count for count in here if count is not None)
            # Where a tail was lost and its successors discarded, positions count fewer than there were.
            regrown = any(sent.revoked for sent in self.sent.get(channel, ()))
            if None not in here and announced < len(lost) and not regrown:
                yield f"{len(lost)} are missing{_place(visit, lower, upper)} ({_numbers(lost)}), {announced} were announced"

    def _shown_between(self, visit: Visit, sent: Sent, seen: Sequence[_Seen]) -> tuple[int, int] | None:
        """Return between which items the publisher's numbers tell of a loss: its own messages before and behind the one that is missing; ``None`` if they cannot."""
        if self.ordering == "none" or sent.id is None:
            return None
        publisher, number = _parts(sent.id)
        same = {
            _parts(one.sent.id)[1]: one
            for one in reversed(seen)
            if one.sent.id and _parts(one.sent.id)[0] == publisher and one.sent.begun > visit.ready
        }
        older = max((n for n in same if n < number), default=None)
        newer = min((n for n in same if n > number), default=None)
        if older is None or newer is None:
            return None
        before, behind = same[older], same[newer]
        breaks = self.account.breaks.get(visit.realtime, ())
        # What a repair brings is not held against the numbers: behind a break it is not known from which message on they are.
        if any(tick < behind.tick and (before.tick < tick or "after_cursor" in self.capabilities.history) for tick in breaks):
            return None
        return before.place, behind.place

    # ------------------------------------------------------------------ gaps without a reason

    def _uncalled_for(self, visit: Visit, channel: str, seen: Sequence[_Seen]) -> Iterator[str]:
        """Gaps where nothing can be missing."""
        if channel in self.account.touched:
            return
        for index, (tick, item) in enumerate(visit.items):
            if not isinstance(item, Gap) or item.channel != channel:
                continue
            if item.reason is GapReason.LAGGED:
                if not self._lagged(visit):
                    yield f"{item}, though its buffer has room for all there was"
                continue
            broken = any(when < tick for when in self.account.breaks.get(visit.realtime, ()))
            if self.capabilities.links == "none":
                if not self.account.lossy and ("after_cursor" in self.capabilities.history or not broken):
                    yield f"{item}, though nothing can be missing"
            elif "after_cursor" in self.capabilities.history:
                yield f"{item}, though history held everything"
            elif not broken and not self._explained(visit, channel, index, seen):
                yield f"{item}, though everything came"

    def _lagged(self, visit: Visit) -> bool:
        wanted = sum(visit.wants(sent) for sent in self.account.sent.values())
        told = sum(isinstance(item, Gap) for _, item in visit.items)
        return wanted + told > visit.join.buffer

    def _explained(self, visit: Visit, channel: str, index: int, seen: Sequence[_Seen]) -> bool:
        """Tell whether anything that did not come may be behind a gap."""
        come = {one.sent.number for one in seen}
        for sent in self.sent.get(channel, ()):
            if sent.number not in come:
                lower, upper = self._window(visit, sent, seen)
                if lower < index < upper:
                    return True
        return False

    # ------------------------------------------------------------------ all visits

    def disagreements(self) -> list[str]:
        """Return where two readers saw the messages of one channel in different orders, though there is to be one."""
        if self.ordering != "channel":
            return []
        found: list[str] = []
        again: set[object] = {number for number, sent in self.account.sent.items() if self._again(sent)}
        for channel in self.sent:
            orders = [(visit, _numbers_of(visit, channel)) for visit in self.account.visits]
            for position, (one, first) in enumerate(orders):
                for other, second in orders[:position]:
                    common = (set(first) & set(second)) - again
                    if [number for number in first if number in common] != [number for number in second if number in common]:
                        found.append(f"{one}\n  and {other}\n  saw {channel} in different orders: {first}\n  and {second}")
        return found


def _numbers_of(visit: Visit, channel: str) -> list[object]:
    """Return what a visit saw of a channel, each once."""
    return list(dict.fromkeys(item.data for _, item in visit.items if not isinstance(item, Gap) and item.channel == channel))


def _parts(id: str) -> tuple[str, int]:
    publisher, _, number = id.rpartition(".")
    return publisher, int(number)


def _place(visit: Visit, lower: int, upper: int) -> str:
    begin = f" behind {visit.items[lower][1].data}" if lower >= 0 and not isinstance(visit.items[lower][1], Gap) else " at the beginning"  # type: ignore[union-attr]
    end = f" and before {visit.items[upper][1].data}" if upper < len(visit.items) and not isinstance(visit.items[upper][1], Gap) else ""  # type: ignore[union-attr]
    return begin + end


def _numbers(sent: Sequence[Sent]) -> str:
    return ", ".join(str(one.number) for one in sent)
