"""Planted bugs: defects a transport or the core might have, made on purpose, to show that the kit finds them.

Every fault check and the model are run against those of these that they have to find. A kit that stays green on a broken transport proves nothing::

    with plant("forget a resubscribe", MyHarness) as broken:
        async with broken(namespace) as harness:
            await check(harness)  # has to raise

Some wrap the transport; others switch a mechanism of the core off for as long as the context lasts, in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final, NamedTuple, cast, final

from ..transport import Transport
from ._bugs_of_core import SWITCHED_OFF
from ._bugs_of_promises import BROKEN_PROMISES, UNGUARDED
from ._bugs_of_transports import BROKEN
from .harness import Harness
from .through import Through

__all__ = ("BUGS", "Bug", "plant")


@final
class Bug(NamedTuple):
    """A planted bug."""

    what: str
    wrap: type[Through] | None
    patch: Callable[[], AbstractContextManager[None]] | None


def _told(of: object) -> str:
    return (of.__doc__ or "").partition("\n")[0]


BUGS: Final[Mapping[str, Bug]] = {
    **{name: Bug(_told(broken), broken, None) for name, broken in {**BROKEN, **BROKEN_PROMISES}.items()},
    **{name: Bug(_told(switch), None, switch) for name, switch in {**SWITCHED_OFF, **UNGUARDED}.items()},
}
"""By name."""

_MAKERS: Final = ("transport", "absent", "bounded", "fading", "plain", "unauthorised")
"""Methods of a harness that return a transport."""


@contextmanager
def plant(name: str, harness: type[Harness]) -> Generator[type[Harness]]:
    """Return a harness like ``harness``, of which each transport has the bug; for as long as the context lasts.

    Args:
        name: One of :data:`BUGS`.
        harness: Makes sound transports.
    """
    bug = BUGS[name]
    methods = {maker: _wrapped(getattr(harness, maker), bug) for maker in _MAKERS if maker == "transport" or harness.can(maker)}
    with nullcontext() if bug.patch is None else bug.patch():
        # A class made at run time: no checker can follow that.
        yield cast("type[Harness]", type(harness.__name__, (harness,), methods))


def _wrapped(make: Callable[..., Transport], bug: Bug) -> Callable[..., Transport]:
    def wrapped(self: Harness, *arguments: object, **options: object) -> Transport:
        sound = make(self, *arguments, **options)
        return sound if bug.wrap is None or isinstance(sound, bug.wrap) else bug.wrap(sound)

    return wrapped
