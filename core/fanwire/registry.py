"""From a URL to a transport: the entry-point group ``fanwire.transports`` maps URL schemes to classes.

A distribution registers its transport in its own metadata, ours and a third party's alike::

    [project.entry-points."fanwire.transports"]
    toy = "toyfan:ToyTransport"

Nothing is imported until a URL of that scheme is opened, and then only that one module. A scheme that two distributions register is an error naming both: which of
them would win depends on the order of ``sys.path``. A transport that needs a client which is not installed imports it at the top of its module, so that opening the URL
can say which command installs it: the extra of fanwire, or of a third party the extra in its entry point (``toy = "toyfan:ToyTransport [client]"``).

URLs: ``scheme://rest?name=value&name=value``. The query sets the transport's options, percent-encoded as by :func:`urllib.parse.urlencode` (``+`` is a space). What could be
misread is refused rather than guessed at: a repeated or nameless parameter, one without ``=``, a ``#``, white space and control characters, an ``@`` behind the host. In a
password, percent-encode ``/ ? # @ % &``, a space, and ``+`` in a query.

Messages name options and where they came from, never a value of an option that looks secret, nor anything between ``://`` and ``@``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Annotated, NamedTuple, TypeGuard, get_args, get_origin
from urllib.parse import unquote, unquote_plus

from pydantic import SecretBytes, SecretStr, ValidationError
from typing_extensions import get_protocol_members

from .errors import ConfigError, FanwireError, MissingExtra, UnknownTransport
from .transport import Transport, TransportOptions

__all__ = (
    "GROUP",
    "KNOWN",
    "Location",
    "Option",
    "Registered",
    "installed",
    "load_class",
    "open_transport",
    "open_with",
    "parse_url",
    "redact",
    "suggest",
)

GROUP = "fanwire.transports"
"""The entry-point group."""

KNOWN: Mapping[str, str] = {
    "inngest": "inngest",
    "kafka": "kafka",
    "nats": "nats",
    "redis": "redis",
    "redis+cluster": "redis",
    "redis+sentinel": "redis",
    "redis+unix": "redis",
    "rediss": "redis",
}
"""Schemes of our own transports that need an extra, known also where they are not registered."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]{0,63}")
_SECRET = re.compile(r"pass|pwd|token|key|secret|auth|cred|jwt", re.IGNORECASE)
_USER = re.compile(r"[^:/?#@,]*:")
_HIDDEN = "***"


class Registered(NamedTuple):
    """What the metadata says about one transport; nothing of it is imported."""

    scheme: str
    reference: str
    """Where its class is, as ``module:attribute``."""

    distribution: str
    version: str


class Location(NamedTuple):
    """A URL taken apart."""

    scheme: str
    """In lower case."""

    base: str
    """The URL without its query."""

    parameters: Mapping[str, str]
    """The query, decoded."""


class Option(NamedTuple):
    """The value of one option, and what is known about where it came from."""

    value: object
    origin: str
    """What messages call it."""

    yields: bool = False
    """Whether a parameter of the same name in the URL wins over it."""


def open_transport(url: str, /, **options: object) -> Transport:
    """Make the transport that a URL names; no I/O but the import of its module.

    Args:
        url: Its scheme chooses the transport, its query sets the transport's options.
        **options: More options; each wins over the URL's parameter of the same name.

    Raises:
        UnknownTransport: no installed distribution registers the scheme; the text lists those there are.
        MissingExtra: a package the transport needs is not installed; the text has the pip command.
        ConfigError: the URL or an option is wrong, the scheme is registered twice, or what is registered is no transport.

    Example::

        transport = open_transport("memory://jobs?history=50", ttl=60)
    """
    return open_with(url, {name: Option(value, f"option {_plain(name)}") for name, value in options.items()})


def open_with(url: str, options: Mapping[str, Option], /, *, where: str = "the URL") -> Transport:
    """Make a transport as :func:`open_transport` does, from options that know where they came from.

    Args:
        url: As for :func:`open_transport`.
        options: Values with the words that messages use for them.
        where: What messages call the URL.

    Raises:
        ConfigError: as :func:`open_transport` does.
    """
    location = parse_url(url, where=where)
    kind = load_class(location.scheme)
    source = "the URL" if where == "the URL" else f"the URL ({where})"
    given = {name: Option(value, f"parameter {_plain(name)} in {source}") for name, value in location.parameters.items()}
    given |= {name: option for name, option in options.items() if not (option.yields and name in given)}
    validated = _validate(kind.options_model, location, given)
    try:
        return kind.from_options(validated)
    except FanwireError:
        raise
    except ValueError as error:
        reason = type(error).__name__
    # Outside of the handler: neither text nor context may quote the URL.
    raise ConfigError(f"{where}: the {kind.name} transport does not accept this URL with these options ({reason})")


def installed() -> Mapping[str, Registered]:
    """Return the transports that are registered, by scheme, in alphabetical order. Imports none of them.

    Raises:
        ConfigError: two distributions register one scheme.
    """
    found = _registered()
    return MappingProxyType({scheme: _describe(_single(scheme, found[scheme])) for scheme in sorted(found)})


def redact(url: str) -> str:
    """Return ``url`` fit for logs: passwords and the values of parameters that look secret replaced by ``***``.

    It never raises. Where a URL is malformed, rather more than less is replaced: everything up to the last ``@`` counts as credentials, and so does a user without a
    password, for it may be a token.

    Example::

        redact("redis://app:hunter2@db:6379/0?token=abc")  # 'redis://app:***@db:6379/0?token=***'
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        scheme, separator, rest = "", "", url
    credentials, at, tail = rest.rpartition("@")
    if at:
        user = _USER.match(credentials)
        credentials = f"{user[0] if user else ''}{_HIDDEN}"
    tail, hash_, _ = tail.partition("#")
    # Both separators in use, so that neither hides a name behind a value; and from the start, for a stray '@' may have taken the '?' away.
    first, *others = re.split("([?&;])", tail)
    shown = [_redact_parameter(first, bare=first), *(part if part in {"?", "&", ";"} else _redact_parameter(part) for part in others)]
    return f"{scheme}{separator}{credentials}{at}{''.join(shown)}{f'#{_HIDDEN}' if hash_ else ''}"


def _redact_parameter(parameter: str, bare: str = _HIDDEN) -> str:
    """Hide the value behind a name that looks secret; and a word without a name, which may as well be the value."""
    name, equals, _ = parameter.partition("=")
    if not equals:
        return bare if parameter else ""
    return f"{name}={_HIDDEN}" if _SECRET.search(unquote(name)) else parameter


def suggest(name: str, known: Collection[str], /) -> str:
    """Return the end of a message about an unknown name: the nearest known one, or all of them."""
    close = difflib.get_close_matches(name, known, n=1) if len(name) <= 64 else []
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


# ---------------------------------------------------------------- URLs


def parse_url(url: object, /, *, where: str = "the URL") -> Location:
    """Take a URL apart, refusing what could be read in two ways.

    Args:
        url: ``scheme://rest?query``.
        where: What messages call the URL.

    Raises:
        ConfigError: it is none; the text says why without quoting it.
    """
    if not isinstance(url, str):
        raise ConfigError(f"{where}: must be a string such as 'memory://', got {type(url).__name__}")
    if not url.isprintable() or " " in url:
        raise ConfigError(f"{where}: contains white space or a control character; percent-encode it")
    if "#" in url:
        raise ConfigError(f"{where}: no transport takes a fragment; write '#' as %23 where it belongs to a name or a password")
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f"{where}: has no '://'; write for example 'memory://' or 'redis://localhost:6379'")
    if not _SCHEME.fullmatch(scheme):
        raise ConfigError(f"{where}: what stands before '://' is no scheme: a letter, then letters, digits, '+', '-' or '.', 64 at most")
    body, _, query = rest.partition("?")
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        # A password with a bare '/' or '?' looks like this, and would name another host.
        raise ConfigError(f"{where}: an '@' stands behind the host; write it as %40, and '/' and '?' in a password as %2F and %3F")
    return Location(scheme.lower(), f"{scheme.lower()}://{body}", MappingProxyType(_parse_query(query, where)))


def _parse_query(query: str, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, parameter in enumerate(query.split("&") if query else (), 1):
        raw_name, equals, raw_value = parameter.partition("=")
        if not equals:
            raise ConfigError(f"{where}: parameter {number} of the query has no '='; write name=value")
        name, value = _decode(raw_name), _decode(raw_value)
        if name is None or value is None:
            raise ConfigError(f"{where}: parameter {number} of the query is percent-encoded, but not as UTF-8")
        if not name:
            raise ConfigError(f"{where}: parameter {number} of the query has no name; write name=value")
        if name in found:
            raise ConfigError(f"{where}: parameter {_shown(name)} is given more than once")
        found[name] = value
    return found


def _decode(raw: str) -> str | None:
    try:
        return unquote_plus(raw, errors="strict")
    except UnicodeDecodeError:
        return None


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 64 else f"{text[:64]!r}..."


def _plain(name: str) -> str:
    """Return a name without quotes where it is an ordinary one, for a decoded name may hold line breaks."""
    return name if name.isidentifier() and len(name) <= 64 else _shown(name)


# ---------------------------------------------------------------- entry points


def _registered() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=GROUP):
        found.setdefault(entry.name.lower(), []).append(entry)
    return found


def _describe(entry: EntryPoint) -> Registered:
    known = dict.fromkeys(("Name", "Version"), "unknown")
    if entry.dist is not None:
        known |= {key: entry.dist.metadata[key] for key in known if key in entry.dist.metadata}
    return Registered(entry.name.lower(), entry.value.partition("[")[0].strip(), known["Name"], known["Version"])


def _single(scheme: str, entries: list[EntryPoint]) -> EntryPoint:
    if len(entries) == 1:
        return entries[0]
    places = [f"{found.distribution} ({found.reference})" for found in map(_describe, entries)]
    raise ConfigError(f"{scheme}:// is registered {len(entries)} times: by {' and by '.join(sorted(places))}; uninstall all but one")


def load_class(scheme: str) -> type[Transport]:
    """Import and return the class that is registered for a scheme.

    Raises:
        UnknownTransport: none is.
        MissingExtra: its client is not installed.
        ConfigError: it cannot be imported, is registered twice, or is no transport.
    """
    registered = _registered()
    if scheme not in registered:
        raise _unknown(scheme, registered)
    entry = _single(scheme, registered[scheme])
    found = _describe(entry)
    by = f"{scheme}:// is registered by {found.distribution} {found.version} as {found.reference}"
    try:
        loaded: object = entry.load()
    except FanwireError:
        raise
    except ModuleNotFoundError as error:
        raise _missing(error, entry, found, by) from error
    except Exception as error:  # a third party's module may raise anything while it is imported
        raise ConfigError(f"{by}, which fails to load: {type(error).__name__}: {error}; repair or upgrade the installation") from error
    if not _is_transport(loaded):
        raise ConfigError(f"{by}, which is no transport: {', '.join(_faults(loaded))}")
    return loaded


def _unknown(scheme: str, registered: Mapping[str, object]) -> UnknownTransport:
    names = ", ".join(f"{name}://" for name in sorted(registered))
    there = f"installed: {names}" if names else "none is installed; install fanwire itself with pip, also where it runs from a checkout"
    if scheme in KNOWN:
        return UnknownTransport(f"{scheme}:// is a transport of fanwire that the installed version does not have; {there}")
    close = difflib.get_close_matches(scheme, {*registered, *KNOWN}, n=1)
    hint = f"did you mean {close[0]}://? " if close else ""
    return UnknownTransport(f"no transport is registered for {scheme}://; {hint}{there}")


def _missing(error: ModuleNotFoundError, entry: EntryPoint, found: Registered, by: str) -> ConfigError:
    """Tell a client that is not installed from an installation that is broken."""
    missing = (error.name or "").partition(".")[0]
    if not missing or missing == entry.value.partition(":")[0].strip().partition(".")[0]:
        return ConfigError(f"{by}, but there is no such module: {error}; install {found.distribution} anew")
    if found.distribution == "fanwire" and found.scheme in KNOWN:
        remedy = f'pip install "fanwire[{KNOWN[found.scheme]}]"'
    elif entry.extras:
        remedy = f'pip install "{found.distribution}[{",".join(entry.extras)}]"'
    else:
        remedy = f"install what {found.distribution} asks for in its documentation"
    return MissingExtra(f"{found.scheme}:// needs the package {missing!r}, which is not installed: {remedy}")


def _faults(loaded: object) -> Iterator[str]:
    """Yield what keeps an object from being a transport class."""
    if not isinstance(loaded, type):
        yield f"it is no class but {type(loaded).__name__}"
        return
    lacking = sorted(name for name in get_protocol_members(Transport) if _unmade(loaded, name))
    if lacking:
        yield f"it lacks {', '.join(lacking)}"
    if "name" not in lacking and not isinstance(getattr(loaded, "name", None), str):
        yield "its name is no str"
    model: object = getattr(loaded, "options_model", None)
    if "options_model" in lacking:
        return
    if not (isinstance(model, type) and issubclass(model, TransportOptions)):
        yield "its options_model does not derive from TransportOptions"
    elif model.model_config.get("extra") not in {"forbid", "allow"}:
        yield 'its options_model ignores unknown options; leave extra="forbid"'


def _unmade(kind: type, name: str) -> bool:
    """Whether a member is absent, or inherited from the protocol, where it has no body."""
    found, abstract = (getattr(getattr(owner, name, None), "__func__", getattr(owner, name, None)) for owner in (kind, Transport))
    return found is None or found is abstract


def _is_transport(loaded: object) -> TypeGuard[type[Transport]]:
    return not any(_faults(loaded))


# ---------------------------------------------------------------- options


def _validate(model: type[TransportOptions], location: Location, given: Mapping[str, Option]) -> TransportOptions:
    scheme = f"{location.scheme}://"
    if "url" in given:
        raise ConfigError(f"{scheme}: {given['url'].origin}: the URL is the first argument, not an option")
    known = {_accepted(name, model) for name in model.model_fields if name != "url"}
    values = {name: option.value for name, option in given.items()}
    try:
        return model.model_validate({**values, "url": SecretStr(location.base)})
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
    # Outside of the handler: pydantic's own error quotes values, and a traceback would show it as the context.
    raise ConfigError(f"{scheme}: {'; '.join(_fault(model, given, known, fault['type'], fault['loc'], fault['msg']) for fault in faults)}")


def _fault(
    model: type[TransportOptions], given: Mapping[str, Option], known: Collection[str], kind: str, loc: tuple[int | str, ...], text: str
) -> str:
    """Say what is wrong with one option."""
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ")  # pydantic's, before what a validator said itself
    name = str(loc[0]) if loc else ""
    if not loc:
        return f"options {', '.join(sorted(given)) or 'by default'}: {_scrub(text, model, given)}"
    if kind == "extra_forbidden" and len(loc) == 1:
        return f"{_label(given, name)}: unknown option {_shown(name)}; {suggest(name, known)}"
    if kind == "missing" and name not in given:
        return f"option {name} is required; set it in the URL (?{name}=...) or as an option"
    where = ".".join([_label(given, name), *(_plain(str(part)) for part in loc[1:])])
    if not any(_is_secret(str(part), model) for part in loc):
        return f"{where}: {_scrub(text, model, given)}"
    custom = kind in {"value_error", "assertion_error"}
    return f"{where}: {'is not accepted' if custom else _scrub(text, model, given)}"


def _label(given: Mapping[str, Option], name: str) -> str:
    return given[name].origin if name in given else f"option {_plain(name)}"


def _scrub(text: str, model: type[TransportOptions], given: Mapping[str, Option]) -> str:
    """Take the values of secret options out of what a validator said."""
    for name, option in given.items():
        if not _is_secret(name, model):
            continue
        value = option.value.get_secret_value() if isinstance(option.value, SecretStr | SecretBytes) else option.value
        for form in sorted({str(value), repr(value)[1:-1]} - {""}, key=len, reverse=True):
            text = text.replace(form, _HIDDEN)
    return text


def _accepted(name: str, model: type[TransportOptions]) -> str:
    field = model.model_fields[name]
    return next((alias for alias in (field.validation_alias, field.alias) if isinstance(alias, str)), name)


def _is_secret(name: str, model: type[TransportOptions]) -> bool:
    kinds = [
        leaf for field in model.model_fields if name in {field, _accepted(field, model)} for leaf in _leaves(model.model_fields[field].annotation)
    ]
    if any(issubclass(kind, SecretStr | SecretBytes) for kind in kinds):
        return True
    is_path = bool(kinds) and all(issubclass(kind, Path | NoneType) for kind in kinds)  # where a key is kept is no secret
    return _SECRET.search(name) is not None and not is_path


def _leaves(annotation: object) -> Iterator[type]:
    """Yield the classes that a type consists of; of what is none, ``object``."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if arguments := get_args(annotation):
        for argument in arguments:
            yield from _leaves(argument)
    else:
        yield annotation if isinstance(annotation, type) else object
