"""The hub: receives frames from the transport, keeps each channel's place in its stream, and fans out to interest logs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, final

from ..capabilities import Capabilities
from ..clock import Clock
from ..codec import Codec, Decoded, InvalidFrame
from ..errors import FanwireError
from ..events import InvalidMessage
from ..messages import Cursor, Gap, GapReason, MutableMessage, make_message
from ..schemas import Schema, field_errors
from ..transport import HistoryEntry
from .continuity import Continuity, Links, Verdict, judge, missing
from .decoding import parse_time, raw_message
from .log import Budget, Entry, Interest, InterestLog, Item
from .records import traced
from .routes import ANYTHING, Route, add_route, remove_route
from .states import ChannelRecord, Event, Phase, PlainTopic

__all__ = ("TAIL_LOST", "Hub")

_logger = logging.getLogger("fanwire.hub")

TAIL_LOST: frozenset[GapReason] = frozenset({GapReason.RESET, GapReason.EXPIRED})
"""Of the newest messages, not of old ones."""

_TOPICS = 128
"""Topics per channel whose frames are recognised."""

_LIVE = Phase.LIVE

OnInvalid = Callable[[InvalidMessage], None]


@final
class Hub:
    """The sink of a transport and the home of all channel records and logs. Synchronous throughout: no method awaits, so none can be interrupted half way."""

    def __init__(
        self,
        *,
        capabilities: Capabilities,
        codec: Codec,
        clock: Clock,
        budget: int,
        hold_bytes: int,
        linger: float,
        on_invalid: OnInvalid,
    ) -> None:
        self.capabilities = capabilities
        self.channels: dict[str, ChannelRecord] = {}
        self.wanted: dict[str, ChannelRecord] = {}
        """Channels the broker is to be asked for."""
        self.lingering: dict[str, ChannelRecord] = {}
        self.logs: dict[object, InterestLog] = {}
        self.wake_reconciler: Callable[[], None] = lambda: None
        self.start_repair: Callable[[ChannelRecord], None] = lambda _: None
        self.received: int = 0
        self.duplicates: int = 0
        self.invalid: int = 0
        self.gaps: int = 0
        self._codec = codec
        self._clock = clock
        self._scan = codec.scan
        self._stamp = b""
        self._when = datetime.fromtimestamp(0, UTC)
        """``_stamp`` parsed: messages of one burst have the same."""
        self._links: Links = capabilities.links
        self._repairs = "after_cursor" in capabilities.history
        self._follow = Continuity.needed(capabilities)
        self._follow_ids = capabilities.links == "none"
        """Whether plain frames, which have no key, need following too."""
        self._hold_bytes = hold_bytes
        self._linger = linger
        self._on_invalid = on_invalid
        self.budget: Budget = Budget(budget)
        self.budget.shrink = self._shrink

    # ------------------------------------------------------------------ subscriptions

    def attach(self, interest: Interest) -> InterestLog:
        """Return the log of ``interest``, wanting its channels once more."""
        key = interest.key()
        log = self.logs.get(key)
        if log is None:
            log = self.logs[key] = InterestLog(interest, self.budget, self._refused)
            log.records = tuple(self._record(name) for name in log.channels)
            for record in log.records:
                record.logs[log] = None
                add_route(record.routes, record.name, log)
                record.plain = record.plains = None
        for record in log.records:
            if not record.refs and record.phase is not Phase.WANTED:
                record.on(Event.WANT)
                self.lingering.pop(record.name, None)
            record.refs += 1
        log.attached += 1
        if self.wanted:
            self.wake_reconciler()
        return log

    def _record(self, name: str) -> ChannelRecord:
        record = self.channels.get(name)
        if record is None:
            record = self.channels[name] = self.wanted[name] = ChannelRecord(name)
        return record

    def detach(self, log: InterestLog) -> None:
        """Undo one ``attach``; the log goes with the last."""
        log.attached -= 1
        if not log.attached:
            self._drop(log)
            log.discard()
        for record in log.records:
            if not log.attached:
                record.logs.pop(log, None)
                remove_route(record.routes, log)
                record.plain = record.plains = None
            record.refs -= 1
            if not record.refs and record.phase is not Phase.GONE:
                self._release(record)

    def _drop(self, log: InterestLog) -> None:
        """Let nobody else share this log."""
        key = log.interest.key()
        if self.logs.get(key) is log:
            del self.logs[key]

    def refuse(self, record: ChannelRecord, error: FanwireError) -> None:
        """End, with ``error``, everything that wants a channel which the broker refuses."""
        record.on(Event.REFUSE)
        for log in list(record.logs):
            self._drop(log)
            log.finish(error)
            for other in log.records:
                other.logs.pop(log, None)
                remove_route(other.routes, log)
                other.plain = other.plains = None
        self.forget(record)

    def _release(self, record: ChannelRecord) -> None:
        if record.phase is Phase.REPAIRING:
            # Nobody is left to miss anything: the place in the stream is where live delivery stands.
            record.position = record.held[-1].position if record.held else record.target
            record.loss = None
        record.on(Event.RELEASE)
        if record.phase is Phase.GONE:
            self.forget(record)
        elif record.phase is Phase.LINGERING:
            if record.continuity is not None:
                record.continuity.reset()  # nobody follows the publishers' counters while it lingers
            record.linger_until = self._clock.monotonic() + self._linger
            self.lingering[record.name] = record
            self.wake_reconciler()

    def forget(self, record: ChannelRecord) -> None:
        """Drop a record that is GONE."""
        for home in (self.channels, self.wanted, self.lingering):
            if home.get(record.name) is record:
                del home[record.name]
        record.wake()

    # ------------------------------------------------------------------ the sink

    def subscribed(self, channel: str, generation: int, position: Cursor | None, /) -> None:
        """See :class:`fanwire.transport.Sink`."""
        record = self.channels.get(channel)
        if record is None or record.generation != generation or record.phase is not Phase.ASKED:
            return
        if record.loss is None:
            record.position = position
            if record.overflowed:
                record.loss = (GapReason.HOLE, None)
        elif position is not None and position.mark is not None and position == record.position:
            record.loss = None  # the same message is still the newest: nothing was missed
        if not record.refs:
            record.loss, record.position = None, position  # nobody is there to miss anything
        if record.loss is not None and self._repairs and record.position is not None:
            record.target = position
            record.on(Event.CONFIRM_BEHIND)
            self.start_repair(record)
        else:
            if record.loss is not None:
                self._announce_loss(record, position)
            self.go_live(record, Event.CONFIRM)

    def deliver(self, channel: str, generation: int, frame: bytes, position: Cursor | None, prev: Cursor | None, /) -> None:
        """See :class:`fanwire.transport.Sink`.

        Written out for the common case, the next message of a live channel on the topic that came last; everything else goes through :meth:`_receive`.
        """
        record = self.channels.get(channel)
        if record is None or record.generation != generation:
            return
        self.received += 1
        plain = record.plain
        last = record.position
        if plain is None or record.phase is not _LIVE or not (prev is last or prev == last):
            self._receive(record, frame, position, prev)
            return
        signature, topic, routes = plain
        scanned = self._scan(frame, signature)
        if scanned is None or (scanned[1] != self._stamp and not self._note_time(scanned[1])):
            self._receive(record, frame, position, prev)
            return
        id, stamp, data = scanned
        if self._follow_ids and (position is not None or (followed := record.continuity) is None or not followed.follows(id)):
            self._receive(record, frame, position, prev)
            return
        record.position = position
        for route in routes:
            schema = route.schema
            if schema is None:
                decoded = Decoded(id, topic, None, "data", channel, stamp.decode(), None, None, data)
                item: Entry | None = self._item(None, channel, decoded, self._when, position, frame)
            else:
                # A Message to be: the log parses the payload when somebody takes it.
                item = MutableMessage(id, channel, topic, (schema, data, frame), "data", self._when, position, None, None, None)
            if item is None:
                for log in route.logs:
                    log.invalid += 1
            else:
                for log in route.logs:
                    log.push(item, len(frame))

    def _note_time(self, stamp: bytes) -> bool:
        """Parse the time stamp of a plain frame; those of one burst are the same."""
        try:
            self._when = parse_time(stamp.decode())
        except (InvalidFrame, UnicodeDecodeError):
            return False
        self._stamp = stamp
        return True

    def _receive(self, record: ChannelRecord, frame: bytes, position: Cursor | None, prev: Cursor | None) -> None:
        """Take a frame in whatever phase the channel is."""
        phase = record.phase
        if phase is Phase.LIVE:
            if position is None:
                self._dispatch(record, frame, None, True)
            else:
                self._judge_live(record, HistoryEntry(frame, position, prev))
        elif phase is Phase.LINGERING:
            record.position = position
        elif position is None:
            record.hold(HistoryEntry(frame, _NOWHERE, None), self._hold_bytes)
        else:
            self._hold(record, HistoryEntry(frame, position, prev))

    def lost(self, channels: Collection[str] | None, reason: GapReason, lost: int | None, /) -> None:
        """See :class:`fanwire.transport.Sink`."""
        for name in list(self.channels) if channels is None else channels:
            record = self.channels.get(name)
            if record is None:
                continue
            if record.phase in (Phase.LIVE, Phase.REPAIRING) and record.loss is None:
                record.loss = (reason, lost)
            record.generation = 0
            record.left = None
            record.on(Event.LOST)
            if record.continuity is not None:
                record.continuity.reset()
            if record.phase is Phase.WANTED and not record.refs:
                record.on(Event.RELEASE)
            if record.phase is Phase.GONE:
                self.forget(record)
            elif record.phase is Phase.WANTED:
                self.wanted[name] = record
        self.wake_reconciler()

    # ------------------------------------------------------------------ continuity

    def go_live(self, record: ChannelRecord, event: Event) -> None:
        """Enter LIVE, hand on what was held, and tell who waits."""
        held = record.held
        record.on(event)
        for entry in held or ():
            if record.phase is Phase.REPAIRING:
                self._hold(record, entry)
            elif entry.position is _NOWHERE:
                self._dispatch(record, entry.frame, None, True)
            else:
                self._judge_live(record, entry)
        if not record.refs and record.phase in (Phase.LIVE, Phase.REPAIRING):
            self._release(record)
        record.wake()

    def _judge_live(self, record: ChannelRecord, entry: HistoryEntry) -> None:
        last, position = record.position, entry.position
        verdict = Verdict.NEXT if entry.prev is not None and entry.prev == last else judge(last, position, entry.prev, self._links)
        if verdict is Verdict.DUPLICATE or (verdict is Verdict.RESET and record.left is not None and position.epoch in record.left):
            self.duplicates += 1
            return
        anew = verdict is Verdict.RESET and last is not None and position.epoch != last.epoch
        if self._repairs and (anew or verdict is Verdict.HOLE):
            # Of another epoch, only history tells whether it is the next one, or one that was skipped and is late.
            record.loss = (GapReason.RESET, None) if last is None or anew else (GapReason.HOLE, missing(last, position, self._links))
            record.target = position
            record.on(Event.CONFIRM_BEHIND)
            self._hold(record, entry)
            self.start_repair(record)
            return
        if last is not None and verdict is Verdict.HOLE:
            self.announce(record, GapReason.HOLE, missing(last, position, self._links))
        elif verdict is Verdict.RESET:
            self._reset(record, position)
        record.position = position
        self._dispatch(record, entry.frame, position, True)

    def _reset(self, record: ChannelRecord, position: Cursor) -> None:
        """Announce that the channel's history is another one now."""
        if record.position is not None and record.position.epoch != position.epoch:
            record.leave(record.position.epoch)
        self.announce(record, GapReason.RESET, None)

    def _hold(self, record: ChannelRecord, entry: HistoryEntry) -> None:
        """Keep a live frame until history has been read up to it. Without room, history has to be read past it instead."""
        if not record.hold(entry, self._hold_bytes):
            record.target = entry.position

    def replay(self, record: ChannelRecord, entry: HistoryEntry) -> None:
        """Hand on one entry that was read from history to close a hole; what is missing even there is announced."""
        last = record.position
        verdict = judge(last, entry.position, entry.prev, self._links)
        if verdict is Verdict.DUPLICATE:
            return
        if verdict is Verdict.RESET:
            self._reset(record, entry.position)
        elif verdict is Verdict.HOLE and last is not None:
            self.announce(record, GapReason.HOLE, missing(last, entry.position, self._links))
        record.position = entry.position
        self._dispatch(record, entry.frame, entry.position, False)

    def _announce_loss(self, record: ChannelRecord, position: Cursor | None) -> None:
        """Announce, once, what a lost connection cost where history cannot tell."""
        assert record.loss is not None
        reason, lost = record.loss
        last = record.position
        if lost is None and last is not None and position is not None and position.epoch == last.epoch and self._links == "contiguous":
            lost = max(0, position.offset - last.offset) or None
        elif last is not None and position is not None and position.epoch != last.epoch:
            reason = GapReason.RESET
        self.announce(record, reason, lost)
        record.position = position

    def announce(self, record: ChannelRecord, reason: GapReason, lost: int | None) -> None:
        """Put a gap at this position of every log of the channel."""
        record.loss = None
        if reason in TAIL_LOST:
            record.tails_lost += 1
        self.gaps += 1
        gap = Gap(record.name, reason, lost)
        for log in record.logs:
            log.push_gap(gap)

    # ------------------------------------------------------------------ fan-out

    def _dispatch(self, record: ChannelRecord, frame: bytes, position: Cursor | None, live: bool) -> None:
        """Decode any frame and append it to the logs that want it; remember how it looks, so that :meth:`deliver` recognises the next one."""
        try:
            decoded = self._codec.decode(frame)
            if decoded.channel != record.name and (decoded.channel or decoded.kind == "data"):
                raise InvalidFrame(f"the frame says it is of channel {decoded.channel[:80]!r}")
            created_at = self._time_of(decoded)
        except Exception as error:  # noqa: BLE001 - a codec may raise anything, and one bad frame must not stop the stream
            self._report_all(record, error, frame)
            return
        if self._follow and not self._is_new(record, decoded.id, decoded.key, live):
            return
        routes = record.routes.get(decoded.topic)
        if routes is None:
            routes = record.routes.get(None, [])
        if decoded.kind == "data" and decoded.key is None:
            self._remember(record, decoded.topic, routes)
        size = len(frame)
        for route in routes:
            item = self._item(route.schema, record.name, decoded, created_at, position, frame)
            if item is None:
                for log in route.logs:
                    log.invalid += 1
            elif item is not _IGNORED:
                for log in route.logs:
                    log.push(item, size)

    def _remember(self, record: ChannelRecord, topic: str, routes: Sequence[Route]) -> None:
        """Keep how frames of ``topic`` look, to recognise the next one without parsing it."""
        plains = record.plains
        if plains is None or len(plains) > _TOPICS:
            plains = record.plains = {}
        plain = plains.get(topic)
        if plain is None:
            signature = self._codec.signature(record.name, topic)
            if signature is None:
                return
            plain = plains[topic] = PlainTopic(signature, topic, routes)
        record.plain = plain

    def _item(
        self,
        schema: Schema[Any] | None,  # Any: any payload
        channel: str,
        decoded: Decoded,
        created_at: datetime,
        position: Cursor | None,
        frame: bytes,
    ) -> Item | None:
        """Parse a payload; ``None`` if that fails, which is reported."""
        try:
            if schema is None:
                return raw_message(decoded, created_at, position, frame)
            if decoded.kind != "data":
                return _IGNORED
            data = schema.load(decoded.data)
        except Exception as error:  # noqa: BLE001 - a schema may raise anything, and one bad message must not stop the stream
            self._refused(channel, decoded.topic, error, frame)
            return None
        return make_message(decoded.id, channel, decoded.topic, data, "data", created_at, position, decoded.run_id, decoded.key, decoded.headers)

    def read(self, interest: Interest, channel: str, entry: HistoryEntry) -> Item | None:
        """Decode an entry of history for one subscription; ``None`` if it is not wanted or not valid."""
        topics = interest.topics[channel]
        try:
            decoded = self._codec.decode(entry.frame)
            if decoded.channel != channel:
                raise InvalidFrame(f"the frame says it is of channel {decoded.channel[:80]!r}")
            created_at = self._time_of(decoded)
        except InvalidFrame as error:
            self._report(channel, None, str(error), entry.frame)
            return None
        if topics is not None and decoded.topic not in topics:
            return None
        schema = None if interest.raw else ANYTHING if topics is None else topics[decoded.topic]
        item = self._item(schema, channel, decoded, created_at, entry.position, entry.frame)
        return None if item is _IGNORED else item

    def _is_new(self, record: ChannelRecord, id: str, key: str | None, live: bool) -> bool:
        """Drop repeats and announce holes that only ids show; return whether the message is to be handed on."""
        if record.continuity is None:
            record.continuity = Continuity(self.capabilities)
        new, missed = record.continuity.check(id, key, self._follow_ids)
        if missed and live:  # what is missing in history was announced by whoever read it
            self.announce(record, GapReason.HOLE, missed)
        if not new:
            self.duplicates += 1
        return new

    def _time_of(self, decoded: Decoded) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC) if decoded.created_at is None else parse_time(decoded.created_at)

    def _refused(self, channel: str, topic: str, error: Exception, frame: bytes) -> None:
        """Report a payload that its schema refuses."""
        self._report(channel, topic, "; ".join(f"{e.location}: {e.message}" if e.location else e.message for e in field_errors(error)), frame)

    def _report_all(self, record: ChannelRecord, error: Exception, frame: bytes) -> None:
        """Report a frame that does not tell whom it is for."""
        for log in record.logs:
            log.invalid += 1
        self._report(record.name, None, str(error), frame)

    def _report(self, channel: str, topic: str | None, reason: str, frame: bytes) -> None:
        self.invalid += 1
        try:
            self._on_invalid(InvalidMessage(channel, topic, reason, frame))
        except Exception as error:
            _logger.error("the on_invalid hook failed on channel %r", channel, exc_info=traced(error))

    def _shrink(self) -> None:
        """Let the largest logs give up their older halves until all fit."""
        while self.budget.used > self.budget.limit:
            largest = max(self.logs.values(), key=lambda log: log.bytes, default=None)
            if largest is None or not largest.bytes:
                return
            largest.shrink()

    def end(self, error: FanwireError | None) -> None:
        """End every iterator behind the items already queued, with ``error`` if there is one."""
        for log in self.logs.values():
            log.finish(error)
        for record in self.channels.values():
            record.wake()


_NOWHERE = Cursor("", 0)
"""Stands for "no position" while a frame of a transport without positions is held."""


_IGNORED = Gap(None, GapReason.HOLE, 0)
"""Stands for a frame that is neither wanted nor wrong."""
