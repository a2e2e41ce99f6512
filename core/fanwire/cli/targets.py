"""Which channel a command means: by its name, or by its declaration in the user's own code, so that data is validated.

``shop.channels:AgentChat`` names a declaration: a ``Channel`` class (its params come as ``--param name=value``), a ``StaticChannel`` class, a channel, or what ``channel()``
returned. Everything else is a name, such as ``agent-chat:thread_abc``. Since a name may look like a declaration, so may a typing mistake; what has the form ``module:Name``,
where the last part begins with a capital letter or the module exists, is taken for a declaration and an error if there is none. ``--by-name`` settles it the other way, and
``--as MODULE:Class`` checks a name by the declaration it belongs to.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from pydantic import ValidationError

from ..channels import Channel, ChannelFactory, ChannelLike, DynamicChannel, StaticChannel, declared_topics
from ..errors import ConfigError, FanwireError, InvalidName
from ..names import check_channel_name
from ..params import faults_text
from ..registry import suggest
from ..topics import TopicRef

__all__ = ("Lookup", "Target", "parse_pairs", "resolve")

_DECLARATION = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", re.ASCII)
_BY_NAME: Final = "if it is the name of a channel, add --by-name"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """How channels are to be found."""

    directory: Path = Path()
    """Where modules are looked for first."""

    params: Mapping[str, str]
    """Params of the channel class, as text."""

    declared_by: str | None = None
    """``MODULE:Class`` that declares channels given by name."""

    by_name: bool = False
    """Whether channels are names, whatever they look like."""


@final
@dataclass(frozen=True, slots=True)
class Target:
    """One channel."""

    name: str
    declared: ChannelLike | None
    """Its declaration; ``None`` where only the name is known, and data is any JSON."""

    topics: Mapping[str, TopicRef[Any]]  # Any: topics of different payloads
    """Its declared topics; empty without a declaration."""

    def ref(self, topic: str) -> TopicRef[Any]:  # Any: a payload of any topic
        """Return a topic.

        Raises:
            ConfigError: the declaration has no such topic.
            InvalidName: the name may not exist.
        """
        if self.declared is None:
            return TopicRef(self.name, topic)
        if topic not in self.topics:
            raise ConfigError(f"channel {self.name!r} declares no topic {topic!r}; {suggest(topic, self.topics)}")
        return self.topics[topic]


def parse_pairs(option: str, pairs: Sequence[str]) -> Mapping[str, str]:
    """Read options such as ``--param name=value``.

    Raises:
        ConfigError: one has no ``=`` or no name, or a name is given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} {pair!r}: write NAME=VALUE")
        if name in found:
            raise ConfigError(f"{option} {name}: given more than once")
        found[name] = value
    return found


def resolve(text: str, lookup: Lookup) -> Target:
    """Find out which channel ``text`` means.

    Raises:
        ConfigError: there is no such declaration, or the params do not fit it.
        InvalidName: a name breaks the naming rules, or is not one that the declaration makes.
    """
    if lookup.declared_by is not None:
        if lookup.params or lookup.by_name:
            raise ConfigError(f"--as reads the params from the name: leave out {'--param' if lookup.params else '--by-name'}")
        return _named(text, _load(lookup.declared_by, lookup.directory, "--as "), lookup.declared_by)
    if not lookup.by_name and _is_declaration(text, lookup):
        return _declared(text, _load(text, lookup.directory, ""), lookup.params)
    if lookup.params:
        raise ConfigError(f"--param goes with a declaration, MODULE:Class; {text!r} is {'taken for ' * lookup.by_name}the name of a channel")
    return Target(check_channel_name(text), None, {})


def _is_declaration(text: str, lookup: Lookup) -> bool:
    match = _DECLARATION.fullmatch(text)
    if match is None:
        return False
    package = match["module"].partition(".")[0]
    if package in sys.stdlib_module_names:
        return False  # nobody declares channels there, and queue:jobs is a good name for one
    attribute = match["attribute"].rpartition(".")[2]
    if lookup.params or attribute[0].isupper() or "." in match["module"]:
        return True
    _look_in(lookup.directory)
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


# ---------------------------------------------------------------- importing what is declared


def _look_in(directory: Path) -> None:
    """Let modules be found in ``directory`` first, as if Python had been started there.

    Raises:
        ConfigError: it is no directory.
    """
    if not directory.is_dir():
        raise ConfigError(f"--app-dir {str(directory)!r}: there is no such directory")
    path = str(directory.resolve())
    if path not in sys.path:
        sys.path.insert(0, path)
        importlib.invalidate_caches()


def _load(text: str, directory: Path, option: str) -> object:
    """Import what ``MODULE:Class`` names.

    Raises:
        ConfigError: it cannot be imported, or is not there.
    """
    match = _DECLARATION.fullmatch(text)
    if match is None:
        raise ConfigError(f"{option}{text!r}: write MODULE:Class, such as shop.channels:AgentChat")
    _look_in(directory)
    where, remedy = f"{option}{text!r}", "" if option else f"; {_BY_NAME}"
    name = match["module"]
    try:
        found: object = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{where}: importing {name} fails: {error}; install what it needs into this environment") from error
        raise ConfigError(
            f"{where}: there is no module {error.name!r} in {str(directory.resolve())!r} or on Python's path; --app-dir says where{remedy}"
        ) from error
    except FanwireError as error:
        raise ConfigError(f"{where}: importing {name} fails: {error}") from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        raise ConfigError(f"{where}: importing {name} fails: {type(error).__name__}: {error}; --debug shows where") from error
    for part in match["attribute"].split("."):
        inner: object = getattr(found, part, None)
        if inner is None:
            known = [attribute for attribute, value in vars(found).items() if _is_channel(value)] if hasattr(found, "__dict__") else []
            raise ConfigError(f"{where}: {name} has no {part!r}; {suggest(part, known)}{remedy}")
        found = inner
    return found


def _is_channel(value: object) -> bool:
    if isinstance(value, type):
        return issubclass(value, Channel) and value.template is not None
    return isinstance(value, Channel | DynamicChannel | ChannelFactory)


# ---------------------------------------------------------------- channels


def _declared(text: str, found: object, params: Mapping[str, str]) -> Target:
    """Make the channel that a declaration and params mean."""
    kind = _class(found)
    if kind is not None:
        return _target(_instance(kind, params))
    if isinstance(found, ChannelFactory):
        try:
            return _target(_made(found, params))
        except TypeError as error:
            raise ConfigError(f"{text!r}: {error}; give --param NAME=VALUE for what the name is made of") from error
    target = _target(_channel(text, found))
    if params:
        raise ConfigError(f"{text!r} is one channel, {target.name!r}: it takes no --param")
    return target


def _made(factory: ChannelFactory[...], params: Mapping[str, str]) -> DynamicChannel:
    return factory(**params)


def _instance(kind: type[Channel], params: Mapping[str, str]) -> Channel:
    """Make a channel of params given as text, each of them read as its type."""
    fields = kind.params.model_fields
    if unknown := [name for name in params if name not in fields]:
        raise ConfigError(f"--param {unknown[0]}: {kind.__name__} has no such param; {suggest(unknown[0], fields)}")
    if missing := [name for name, field in fields.items() if field.is_required() and name not in params]:
        raise ConfigError(f"{kind.__name__} needs {' '.join(f'--param {name}=VALUE' for name in missing)}")
    try:
        model = kind.params.model_validate_strings(dict(params))
    except ValidationError as error:
        raise ConfigError(f"--param: {faults_text(error)}") from error
    return kind(**{name: getattr(model, name) for name in fields})


def _named(name: str, found: object, text: str) -> Target:
    """Check a name by the declaration it is said to belong to."""
    kind = _class(found)
    if kind is not None:
        return _target(kind.parse(name))
    if isinstance(found, ChannelFactory):
        channel = DynamicChannel(name, found.topics)  # the callable cannot be asked whether the name is one of its own
        return _target(channel)
    target = _target(_channel(text, found))
    if target.name != name:
        raise InvalidName(f"{name!r} is not the channel that {text} declares: that one is called {target.name!r}")
    return target


def _class(found: object) -> type[Channel] | None:
    """Return what was imported if it is a class whose instances are channels."""
    if isinstance(found, type) and issubclass(found, Channel) and not issubclass(found, StaticChannel) and found.template is not None:
        return found
    return None


def _channel(text: str, found: object) -> ChannelLike:
    """Narrow what was imported to a channel, or say what it is instead."""
    if isinstance(found, Channel | DynamicChannel):
        return found
    if isinstance(found, TopicRef):
        raise ConfigError(f"{text!r} is a topic; name its channel, and the topic as an argument or option of its own")
    if isinstance(found, type) and issubclass(found, StaticChannel) and found.template is not None:
        return found
    if isinstance(found, type) and issubclass(found, Channel):
        raise ConfigError(f"{text!r} is an abstract channel: it has no name=; name a subclass that has one")
    kind = type(found).__name__  # pyright: ignore[reportUnknownArgumentType]  # whatever the user's module holds
    raise ConfigError(f"{text!r} is no channel but a {kind}; name a Channel class, a StaticChannel class, or what channel() returned")


def _target(channel: ChannelLike) -> Target:
    name, topics = declared_topics(channel)
    return Target(name, channel, topics)
