"""From a URL to a transport: entry points, URLs, options, and what errors say and keep to themselves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fanwire import Channel, Realtime, topic
from fanwire.errors import ConfigError, MissingExtra, UnknownTransport
from fanwire.registry import installed, open_transport, parse_url, redact
from fanwire.transport import Transport, TransportOptions
from tests.planting import Planter, planting, said
from tests.toyfan import ToyOptions

SECRET = "hunter2"


@pytest.fixture
def planter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planter]:
    with planting(tmp_path, monkeypatch) as planter:
        yield planter


@pytest.fixture
def toyfan(planter: Planter) -> Planter:
    planter.toyfan()
    return planter


def options_of(transport: Transport) -> dict[str, object]:
    """The options a planted toy was made with, and secrets in the clear."""
    options: object = getattr(transport, "options", None)
    assert isinstance(options, TransportOptions)
    found: dict[str, object] = {}
    for name in type(options).model_fields:
        value: object = getattr(options, name)
        reveal: object = getattr(value, "get_secret_value", None)
        found[name] = reveal() if callable(reveal) else value
    return found


def refusal(url: str, /, **options: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        open_transport(url, **options)
    return caught.value


# ---------------------------------------------------------------- entry points


def test_a_third_partys_transport_is_opened_by_its_url(toyfan: Planter) -> None:
    transport = open_transport("toy://somewhere:7/path?history=5&fast_start=true&namespace=blue", mode="safe")
    assert (type(transport).__module__, type(transport).__name__) == ("toyfan", "ToyTransport")
    options = options_of(transport)
    assert options["url"] == "toy://somewhere:7/path"
    assert (options["history"], options["fast_start"], options["namespace"], options["mode"]) == (5, True, "blue", "safe")


class Greeting(BaseModel):
    text: str


class Room(Channel, name="room:{number}"):
    number: int
    greeting = topic(Greeting)


@pytest.mark.anyio
async def test_a_third_partys_transport_carries_messages(toyfan: Planter) -> None:
    room = Room(number=7)
    async with Realtime.from_url("toy://") as rt, rt.subscribe(room.greeting) as messages:
        await rt.publish(room.greeting, Greeting(text="hello"))
        assert (await anext(messages)).data == Greeting(text="hello")


def test_nothing_is_imported_before_its_url_is_opened(toyfan: Planter) -> None:
    toyfan.module("toytrap", "raise AssertionError('imported')")
    toyfan.metadata("toytrap", {"trap": "toytrap:Trap"})
    assert {"toy", "trap"} <= set(installed())
    assert "toyfan" not in sys.modules
    open_transport("toy://")
    assert "toyfan" in sys.modules
    assert "toytrap" not in sys.modules
    assert "AssertionError: imported" in str(refusal("trap://"))  # the trap works


def test_installed_tells_what_the_metadata_says(planter: Planter) -> None:
    planter.metadata("toyfan", {"toy": "toyfan:ToyTransport [client]"}, version="2.5")
    found = installed()
    assert found["toy"] == ("toy", "toyfan:ToyTransport", "toyfan", "2.5")
    assert list(found) == sorted(found)


def test_schemes_are_case_insensitive(toyfan: Planter) -> None:
    assert options_of(open_transport("TOY://Host"))["url"] == "toy://Host"


def test_a_scheme_that_two_distributions_register_names_both(toyfan: Planter) -> None:
    toyfan.metadata("toy-rival", {"toy": "rival:Transport"})
    with pytest.raises(ConfigError) as listing:
        installed()
    for text in (str(refusal("toy://")), str(listing.value)):
        assert "toyfan (toyfan:ToyTransport)" in text
        assert "toy-rival (rival:Transport)" in text
        assert "uninstall" in text
    toyfan.metadata("bystander", {"other": "toyfan:ToyTransport"})
    assert open_transport("other://").name == "toy", "a quarrel over one scheme is nothing to the others"


def test_an_unknown_scheme_lists_what_there_is(toyfan: Planter) -> None:
    error = refusal("carrier-pigeon://loft")
    assert type(error) is UnknownTransport
    assert "carrier-pigeon://" in str(error)
    assert "toy://" in str(error)
    assert "did you mean" not in str(error)


@pytest.mark.parametrize(("wrong", "right"), [("memroy", "memory"), ("tyo", "toy"), ("reddis", "redis"), ("redis+unx", "redis+unix")])
def test_a_mistyped_scheme_is_recognised(toyfan: Planter, wrong: str, right: str) -> None:
    if "memory" not in installed():  # a checkout that is not installed
        toyfan.metadata("fanwire-stub", {"memory": "fanwire_memory:MemoryTransport"})
    error = refusal(f"{wrong}://localhost")
    assert type(error) is UnknownTransport
    assert f"did you mean {right}://?" in str(error)


def test_without_any_metadata_the_text_says_that_fanwire_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanwire.registry._registered", dict)
    assert "none is installed" in str(refusal("memory://"))


def test_a_scheme_of_ours_that_is_not_registered_is_said_to_be_so(toyfan: Planter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanwire.registry.KNOWN", {"later": "later"})
    error = refusal("later://localhost")
    assert type(error) is UnknownTransport
    assert "does not have" in str(error)
    assert "toy://" in str(error)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+unix", "redis+sentinel", "redis+cluster"])
def test_a_missing_client_prints_the_pip_command(planter: Planter, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    def planted(group: str) -> list[EntryPoint]:
        return [entry for entry in entry_points(group=group) if entry.value.startswith("fanwire_planted")]

    monkeypatch.setattr("fanwire.registry.entry_points", planted)  # whatever fanwire itself has registered
    planter.metadata("fanwire", {scheme: "fanwire_planted:Transport"})
    planter.module("fanwire_planted", "import no_such_client.asyncio")
    error = refusal(f"{scheme}://localhost")
    assert type(error) is MissingExtra
    assert 'pip install "fanwire[redis]"' in str(error)
    assert "'no_such_client'" in str(error)
    assert isinstance(error.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("reference", "remedy"),
    [("toyfan:T", "install what toyfan asks for"), ("toyfan:T [client]", 'pip install "toyfan[client]"')],
)
def test_a_third_partys_missing_client_is_told_as_its_metadata_allow(planter: Planter, reference: str, remedy: str) -> None:
    planter.metadata("toyfan", {"toy": reference})
    planter.module("toyfan", "import no_such_client")
    error = refusal("toy://")
    assert type(error) is MissingExtra
    assert remedy in str(error)
    assert "'no_such_client'" in str(error)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(None, "no such module", id="module-missing"),
        pytest.param("x = (", "SyntaxError", id="syntax"),
        pytest.param("raise RuntimeError('too old a libtoy')", "too old a libtoy", id="raises"),
        pytest.param("from os import no_such_name", "ImportError", id="import"),
        pytest.param("", "AttributeError", id="attribute"),
    ],
)
def test_an_entry_point_that_does_not_load_names_its_distribution(planter: Planter, source: str | None, expected: str) -> None:
    planter.metadata("toyfan", {"toy": "toyfan:T"}, version="3.1")
    if source is not None:
        planter.module("toyfan", source)
    error = refusal("toy://")
    assert type(error) is ConfigError
    assert expected in str(error)
    assert "toyfan 3.1" in str(error)
    assert error.__cause__ is not None


def test_an_entry_point_without_an_attribute_is_told(planter: Planter) -> None:
    planter.metadata("toyfan", {"toy": "toyfan"})
    planter.module("toyfan", "")
    assert "is no class but module" in str(refusal("toy://"))


def test_an_error_a_module_raises_on_purpose_is_not_touched(planter: Planter) -> None:
    planter.metadata("toyfan", {"toy": "toyfan:T"})
    planter.module("toyfan", "from fanwire.errors import MissingExtra\nraise MissingExtra('install libtoy 7')")
    error = refusal("toy://")
    assert type(error) is MissingExtra
    assert str(error) == "install libtoy 7"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param("T = object()", "is no class but object", id="instance"),
        pytest.param("class T: pass", "lacks capabilities, from_options, name, native, options_model, ping, publish, run", id="empty"),
        pytest.param("class T(ToyTransport): ping = None", "lacks ping", id="one-method"),
        pytest.param(
            "class T(Transport):\n name = 'toy'\n options_model = ToyOptions", "lacks capabilities, from_options, native", id="only-inherits"
        ),
        pytest.param("class T(ToyTransport): name = 7", "name is no str", id="name"),
        pytest.param("class T(ToyTransport): options_model = dict", "does not derive from TransportOptions", id="options"),
        pytest.param("class O(ToyOptions, extra='ignore'): pass\nclass T(ToyTransport): options_model = O", "ignores unknown options", id="ignores"),
    ],
)
def test_what_is_registered_but_no_transport_names_its_distribution(toyfan: Planter, body: str, expected: str) -> None:
    toyfan.metadata("brokenfan", {"broken": "brokenfan:T"})
    toyfan.module("brokenfan", f"from toyfan import ToyOptions, ToyTransport\nfrom fanwire.transport import Transport\n{body}\n")
    text = str(refusal("broken://"))
    assert expected in text
    assert "brokenfan 1.0" in text


# ---------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("", "has no '://'"),
        ("toy", "has no '://'"),
        ("toy:/host", "has no '://'"),
        ("://host", "is no scheme"),
        ("1toy://host", "is no scheme"),
        ("to_y://host", "is no scheme"),
        ("t" * 65 + "://host", "is no scheme"),
        ("toy://host#part", "fragment"),
        ("toy:// host", "white space"),
        ("toy://host\r\n", "white space or a control character"),
        ("toy://host\ud800", "white space or a control character"),
        ("toy://host?history=1&history=2", "parameter 'history' is given more than once"),
        ("toy://host?history=1&%68istory=1", "parameter 'history' is given more than once"),
        ("toy://host?=1", "parameter 1 of the query has no name"),
        ("toy://host?history=1&", "parameter 2 of the query has no '='"),
        ("toy://host?history", "parameter 1 of the query has no '='"),
        ("toy://host?mode=%ff", "not as UTF-8"),
        ("toy://user:pa/ss@host", "an '@' stands behind the host"),
        ("toy://user:pa?s=s@host", "an '@' stands behind the host"),
    ],
)
def test_a_url_that_could_be_misread_is_refused(toyfan: Planter, url: str, expected: str) -> None:
    text = str(refusal(url))
    assert text.startswith("the URL: ")
    assert expected in text
    assert url not in text or not url


def test_a_url_that_is_no_string_is_told() -> None:
    with pytest.raises(ConfigError, match="must be a string such as 'memory://', got NoneType"):
        parse_url(None)


def test_an_empty_query_sets_nothing(toyfan: Planter) -> None:
    assert options_of(open_transport("toy://h?")) == options_of(open_transport("toy://h"))


parameters = st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8")))


@given(parameters)
def test_what_urlencode_writes_is_read_back(wanted: dict[str, str]) -> None:
    location = parse_url(f"toy://u:p@h,u2:p2@h2/path?{urlencode(wanted)}")
    assert location == ("toy", "toy://u:p@h,u2:p2@h2/path", wanted)


messy = st.text(st.sampled_from("toy:/?&=#@%+,[] .\x00\u202e\ud800é0a")) | st.text()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # the planted distribution is the same for all examples
@given(st.one_of(messy, messy.map("toy://".__add__), messy.map("toy://h?".__add__), messy.map("toy://h:".__add__), messy.map("toy://[".__add__)))
@example("toy://h:port")
@example("toy://[")
@example("toy://h?history=" + "9" * 5000)
def test_arbitrary_text_opens_or_is_a_config_error(toyfan: Planter, url: str) -> None:
    try:
        found = open_transport(url).name
    except ConfigError as error:
        found = str(error)
    assert found.isprintable()
    assert found != "toy" or url.lower().startswith("toy://")


# ---------------------------------------------------------------- options


def test_an_argument_wins_over_the_url(toyfan: Planter) -> None:
    assert options_of(open_transport("toy://h?history=5&mode=safe", history=7))["history"] == 7
    assert options_of(open_transport("toy://h?history=5&mode=safe", history=7))["mode"] == "safe"


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("toy://h?history=x", {}, "toy://: parameter history in the URL: Input should be a valid integer"),
        ("toy://h", {"history": -1}, "toy://: option history: Input should be greater than or equal to 0"),
        ("toy://h?history=x", {"history": []}, "toy://: option history: Input should be a valid integer"),
        ("toy://h?mode=slow", {}, "toy://: parameter mode in the URL: Input should be 'fast' or 'safe'"),
        ("toy://h?namespace=a.b", {}, "toy://: parameter namespace in the URL: String should match"),
        ("toy://h?histroy=1", {}, "toy://: parameter histroy in the URL: unknown option 'histroy'; did you mean 'history'?"),
        (
            "toy://h",
            {"zzz": 1},
            "toy://: option zzz: unknown option 'zzz'; known: dsn, fast_start, history, mode, namespace, passphrase, password, topics",
        ),
        ("toy://h?%0Ax=1", {}, r"toy://: parameter '\nx' in the URL: unknown option '\nx'"),
        ("toy://h", {"topics": {"a": 5}}, "toy://: option topics.a: Input should be a valid string"),
        ("toy://h?url=toy://i", {}, "toy://: parameter url in the URL: the URL is the first argument, not an option"),
        ("toy://h", {"url": "toy://i"}, "toy://: option url: the URL is the first argument, not an option"),
        ("toy://refused", {}, "the toy transport serves any host but that one"),
        ("toy://h:port", {}, "the URL: the toy transport does not accept this URL with these options (ValueError)"),
    ],
)
def test_a_wrong_option_says_which_and_where_from(toyfan: Planter, url: str, options: dict[str, object], expected: str) -> None:
    assert str(refusal(url, **options)).startswith(expected)


def test_all_wrong_options_are_told_at_once(toyfan: Planter) -> None:
    text = str(refusal("toy://h?history=x", mode="slow"))
    assert "parameter history in the URL: " in text
    assert "; option mode: " in text


def test_a_required_option_says_how_to_give_it(toyfan: Planter) -> None:
    toyfan.metadata("strictfan", {"strict": "strictfan:T"})
    lines = [
        "from pydantic import Field",
        "from toyfan import ToyOptions, ToyTransport",
        "class O(ToyOptions): topic_count: int = Field(alias='topicCount')",
    ]
    toyfan.module("strictfan", "\n".join([*lines, "class T(ToyTransport): options_model = O"]))
    assert str(refusal("strict://h")) == "strict://: option topicCount is required; set it in the URL (?topicCount=...) or as an option"
    assert options_of(open_transport("strict://h?topicCount=4"))["topic_count"] == 4
    assert "did you mean 'topicCount'?" in str(refusal("strict://h?topicCount=4&topcCount=4"))


# ---------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    ("url", "options"),
    [
        pytest.param(f"toy://user:{SECRET}@h?history=x", {}, id="userinfo"),
        pytest.param(f"toy://{SECRET}@h?histroy=1", {}, id="userinfo-token"),
        pytest.param(f"toy://user:{SECRET}@h:port", {}, id="userinfo-and-a-clumsy-driver"),
        pytest.param(f"toy://user:a@{SECRET}:b/@h", {}, id="misread"),
        pytest.param(f"toy://user:a?{SECRET}@h", {}, id="misread-as-a-parameter"),
        pytest.param(f"toy://user:a?{SECRET}=@h", {}, id="misread-as-the-name-of-a-parameter"),
        pytest.param(f"toy:user:{SECRET}@h", {}, id="no-slashes"),
        pytest.param(f"{SECRET}@h://x", {}, id="in-the-place-of-the-scheme"),
        pytest.param(f"{SECRET}", {}, id="pasted-in-the-place-of-the-url"),
        pytest.param(f"toy://h?password={SECRET}&password={SECRET}", {}, id="repeated"),
        pytest.param(f"toy://h?password={SECRET}&history=x", {}, id="beside-an-error"),
        pytest.param(f"toy://h?passphrase={SECRET}+", {}, id="quoted-by-a-validator"),
        pytest.param(f"toy://h?passphrase={SECRET * 9}", {}, id="too-long"),
        pytest.param("toy://h", {"passphrase": [SECRET]}, id="of-a-wrong-type"),
        pytest.param("toy://h", {"dsn": [SECRET]}, id="secret-by-its-type"),
        pytest.param("toy://h", {"password": SECRET, "dsn": f"x{SECRET}"}, id="quoted-by-the-model"),
        pytest.param("toy://h", {"password": "pw", "dsn": SECRET}, id="quoted-by-the-model-and-secret-by-its-type"),
        pytest.param("toy://h", {"apikey": SECRET}, id="unknown"),
    ],
)
def test_a_secret_is_in_no_error(toyfan: Planter, url: str, options: dict[str, object]) -> None:
    error = refusal(url, **options)
    assert SECRET not in said(error).lower()


def test_what_validators_quote_would_be_seen_where_it_is_no_secret(toyfan: Planter) -> None:
    """The control of the test above: it is the registry that keeps the secrets, not the toy."""
    for values in ({"passphrase": f"{SECRET} "}, {"password": SECRET, "dsn": "x"}):
        with pytest.raises(ValueError, match=f"(?i){SECRET}"):
            ToyOptions.model_validate(values)


def test_of_what_is_called_a_key_only_the_path_of_a_file_is_shown(toyfan: Planter) -> None:
    toyfan.metadata("keyfan", {"keyed": "keyfan:T"})
    lines = [
        "from pathlib import Path",
        "from typing import Annotated, Optional",
        "from pydantic import AfterValidator",
        "from toyfan import ToyOptions, ToyTransport",
        "def no(value): raise ValueError(f'there is no {value}')",
        "class O(ToyOptions):",
        " key_file: Optional[Annotated[Path, AfterValidator(no)]] = None",
        " other_key: Annotated[Path, AfterValidator(no)] | None = None",
        " key: Annotated[Path | str, AfterValidator(no)] = ''",
        " keys: Annotated[dict[str, Path], AfterValidator(no)] = {}",
        "class T(ToyTransport): options_model = O",
    ]
    toyfan.module("keyfan", "\n".join(lines))
    for name in ("key_file", "other_key"):
        assert str(refusal("keyed://h", **{name: "/some/where"})).endswith(f"{name}: there is no /some/where")
    assert SECRET not in said(refusal("keyed://h", key=SECRET)).lower()
    assert SECRET not in said(refusal("keyed://h", keys={SECRET: "/some/where"})).lower()


def test_a_secret_is_not_in_the_repr_of_options(toyfan: Planter) -> None:
    options: object = getattr(open_transport(f"toy://u:{SECRET}@h?password={SECRET}"), "options", None)
    assert isinstance(options, TransportOptions)
    assert SECRET in options.url.get_secret_value()
    assert SECRET not in f"{options!r} {options!s}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory://", "memory://"),
        ("redis://localhost:6379/0?history=5", "redis://localhost:6379/0?history=5"),
        ("redis://app:pw@db:6379/0", "redis://app:***@db:6379/0"),
        ("redis://:pw@db", "redis://:***@db"),
        ("nats://token@host", "nats://***@host"),
        ("nats://t1@h1,t2@h2", "nats://***@h2"),
        ("nats://u:p1@h1:4222,u:p2@h2", "nats://u:***@h2"),
        (
            "redis://h?Password=pw&history=5&auth_token=x&client_secret=y&api%6Bey=z",
            "redis://h?Password=***&history=5&auth_token=***&client_secret=***&api%6Bey=***",
        ),
        ("redis://h?history=5;password=pw", "redis://h?history=5;password=***"),
        ("redis://h?pw", "redis://h?***"),
        ("redis://h?a=1&&b=2", "redis://h?a=1&&b=2"),
        ("redis://h#pw", "redis://h#***"),
        ("redis://u:p/w@h", "redis://u:***@h"),
        ("redis://u:p?w=@h", "redis://u:***@h"),
        ("redis://u:p#w@h", "redis://u:***@h"),
        ("redis://u:p@w@h", "redis://u:***@h"),
        ("u:pw@h", "u:***@h"),
        ("u:pw@h://x", "u:***@h://x"),
        ("redis:u:pw@h", "redis:***@h"),
        ("", ""),
    ],
)
def test_redact_keeps_what_may_be_seen(url: str, expected: str) -> None:
    assert redact(url) == expected


noise = st.text(st.sampled_from("ab1:/?&=#@%;,+ "))


@given(st.text())
def test_redact_takes_any_text_and_twice_is_once(url: str) -> None:
    assert redact(redact(url)) == redact(url)


@given(st.sampled_from(["redis://", "x://", ""]), noise, noise, noise)
def test_redact_hides_a_password_however_malformed_the_url(start: str, before: str, after: str, tail: str) -> None:
    assert SECRET not in redact(f"{start}user:{before}{SECRET}{after}@host/{tail}")


@given(st.sampled_from(["password", "API_KEY", "token", "x-auth", "clientSecret"]), noise, st.text(st.characters(codec="utf-8")))
def test_redact_hides_secret_parameters_wherever_they_stand(name: str, before: str, value: str) -> None:
    assert SECRET not in redact(f"redis://host?{before}&{name}={quote(value, safe='')}{SECRET}&z=1")
