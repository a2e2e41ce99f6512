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

if TYPE_CHECKING:
    from . import errors as errors
    from . import runs as runs
    from .blocking import BlockingRealtime as BlockingRealtime
    from .blocking import BlockingSubscription as BlockingSubscription
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
    from .realtime import Realtime as Realtime
    from .runs.run import Run as Run
    from .schemas import Schema as Schema
    from .schemas import static_schema as static_schema
    from .subscription import Subscription as Subscription
    from .topics import Outgoing as Outgoing
    from .topics import Topic as Topic
    from .topics import TopicRef as TopicRef
    from .topics import topic as topic

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
    # Everything is imported when it is first asked for: a module that only declares channels loads no event loop, and pytest, which loads the plugin in every run wherever
    # fanwire is installed, nothing at all.
    _LAZY = {
        "errors": ".errors",
        "runs": ".runs",
        "BlockingRealtime": ".blocking",
        "BlockingSubscription": ".blocking",
        "Capabilities": ".capabilities",
        "Channel": ".channels",
        "StaticChannel": ".channels",
        "channel": ".channels",
        "Cursor": ".messages",
        "Gap": ".messages",
        "GapReason": ".messages",
        "Message": ".messages",
        "RawMessage": ".messages",
        "Receipt": ".messages",
        "Start": ".messages",
        "is_topic": ".messages",
        "Realtime": ".realtime",
        "Run": ".runs.run",
        "Schema": ".schemas",
        "static_schema": ".schemas",
        "Subscription": ".subscription",
        "Outgoing": ".topics",
        "Topic": ".topics",
        "TopicRef": ".topics",
        "topic": ".topics",
    }

    def __getattr__(name: str) -> object:
        where = _LAZY.get(name, f".{name}")
        if where not in _LAZY.values():  # `fanwire.channels` too is there without an import of its own
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(where, __name__)
        # Not kept here: whoever drops modules to import them anew, as pytest's `pytester` does, gets all of them anew.
        return module if where == f".{name}" else getattr(module, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})
