"""Typed realtime channels for Python, over the message broker you already run.

Map of the package, from what users write down to what talks to a broker:

* declare: ``channels`` (also an import path of its own, without I/O), ``dynamic``, ``topics``, ``schemas``, ``names``
* values: ``messages``, ``events``, ``capabilities``, ``errors``
* use: ``realtime`` on top of ``session``, ``subscription``, ``batches``; ``publishing``; ``outgoing`` and ``requests`` check what comes in
* retry: ``runs``, durable publish and the stores of its steps
* use without an event loop: ``blocking``, generated from the classes above
* deliver: ``hub``
* carry: ``transport`` (the contract), ``codec`` (the wire format), ``registry`` and ``config`` (which transport)
* command line: ``cli``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import errors as errors
from .capabilities import Capabilities as Capabilities
from .channels import Channel as Channel
from .channels import StaticChannel as StaticChannel
from .channels import channel as channel
from .messages import Cursor as Cursor
from .messages import Gap as Gap
from .messages import GapReason as GapReason
from .messages import Message as Message
from .messages import RawMessage as RawMessage
from .messages import Receipt as Receipt
from .messages import Start as Start
from .messages import is_topic as is_topic
from .schemas import Schema as Schema
from .schemas import static_schema as static_schema
from .topics import Outgoing as Outgoing
from .topics import Topic as Topic
from .topics import TopicRef as TopicRef
from .topics import topic as topic

if TYPE_CHECKING:
    from . import runs as runs
    from .blocking import BlockingRealtime as BlockingRealtime
    from .blocking import BlockingSubscription as BlockingSubscription
    from .realtime import Realtime as Realtime
    from .runs.run import Run as Run
    from .subscription import Subscription as Subscription

__version__ = "0.1.0"

__all__ = (
    "BlockingRealtime",
    "BlockingSubscription",
    "Capabilities",
    "Channel",
    "Cursor",
    "Gap",
    "GapReason",
    "Message",
    "Outgoing",
    "RawMessage",
    "Realtime",
    "Receipt",
    "Run",
    "Schema",
    "Start",
    "StaticChannel",
    "Subscription",
    "Topic",
    "TopicRef",
    "__version__",
    "channel",
    "errors",
    "is_topic",
    "runs",
    "static_schema",
    "topic",
)

if not TYPE_CHECKING:  # a checker that saw __getattr__ would take any name to exist
    # What does I/O is imported when it is first asked for: a module that only declares channels loads no event loop.
    _LAZY = {
        "BlockingRealtime": ".blocking",
        "BlockingSubscription": ".blocking",
        "Realtime": ".realtime",
        "Run": ".runs.run",
        "Subscription": ".subscription",
        "runs": ".runs",
    }

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(_LAZY[name], __name__)
        value = globals()[name] = getattr(module, name, module)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})
