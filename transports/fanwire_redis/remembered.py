"""What a process remembers of the server and the channels it publishes on, beyond one connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar, final

from fanwire.messages import Receipt

__all__ = ("Remembered",)

_CHANNELS: Final = 65_536
"""Channels that are remembered; beyond them all are forgotten."""

V = TypeVar("V")


@final
class Remembered:
    """Epochs and positions, of which what is not known costs the server a look, nothing else; and a user's rights."""

    __slots__ = ("_positions", "epochs", "transactions")

    def __init__(self) -> None:
        self.transactions: bool = True
        """Whether this user may have transactions, as far as is known. Without history it need not."""
        self.epochs: Final[dict[str, str]] = {}
        """Channel to the epoch of its stream, as the last batch found it."""
        self._positions: dict[str, tuple[str, int]] = {}
        """Channel to where the last message stands whose acceptance is known to whoever published it."""

    def epoch(self, channel: str, epoch: str) -> None:
        """Remember the epoch of a channel's stream."""
        if self.epochs.get(channel) != epoch:
            _put(self.epochs, channel, epoch)

    def positions(self, newest: Iterable[Receipt]) -> None:
        """Remember where the newest messages of a batch stand that was answered as a whole."""
        for receipt in newest:
            if receipt.cursor is not None and not receipt.duplicate:
                _put(self._positions, receipt.channel, (receipt.cursor.epoch, receipt.cursor.offset))

    def place(self, channel: str) -> str:
        """Return the id of an entry behind which everything stands whose acceptance is not known, or ``""``."""
        known = self._positions.get(channel)
        return "" if known is None else f"{known[0]}-{known[1]}"


def _put(known: dict[str, V], channel: str, value: V) -> None:
    if channel not in known and len(known) >= _CHANNELS:
        known.clear()
    known[channel] = value
