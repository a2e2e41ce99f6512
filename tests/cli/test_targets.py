"""Which channel is meant by a name or by MODULE:CLASS, and where --from begins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fanwire import Cursor, Start
from fanwire.cli.starts import parse_start
from fanwire.cli.targets import Lookup, Target, parse_pairs, resolve
from fanwire.errors import ConfigError, FanwireError, InvalidName

CHANNELS = """
from __future__ import annotations

from enum import Enum
from uuid import UUID

from pydantic import BaseModel

from fanwire import Channel, StaticChannel, channel, topic


class Status(BaseModel):
    message: str


class Color(Enum):
    RED = 1


class Base(Channel):
    status = topic(Status)


class AgentChat(Base, name="agent-chat:{thread_id}"):
    thread_id: int


class Many(Channel, name="many:{color}:{flag}:{id}:{size}"):
    color: Color
    flag: bool
    id: UUID
    size: int = 3
    x = topic(int)


class Plain(Channel, name="plain"):
    x = topic(int)


class Alerts(StaticChannel, name="system:alerts"):
    alert = topic(Status)


class Holder:
    Inner = Alerts


one = AgentChat(thread_id=1)
alerts = channel(name="dynamic", topics={"x": int})
chats = channel(name=lambda thread: f"chat:{thread}", topics={"x": int})
number = 3
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with a module of declarations, as a user's project has one."""
    package = tmp_path / "shopfan"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "channels.py").write_text(CHANNELS, encoding="utf-8")
    (tmp_path / "flatfan.py").write_text(CHANNELS, encoding="utf-8")
    (tmp_path / "brokenfan.py").write_text("raise SystemExit('usage: brokenfan')\n", encoding="utf-8")
    (tmp_path / "syntaxfan.py").write_text("def\n", encoding="utf-8")
    (tmp_path / "needyfan.py").write_text("import a_package_nobody_has\n", encoding="utf-8")
    (tmp_path / "wrongfan.py").write_text("from fanwire import Channel\nclass A(Channel, name='a:{x}'): ...\n", encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in {"shopfan", "flatfan", "needyfan", "wrongfan"}]:
        del sys.modules[name]


def find(text: str, directory: Path, params: dict[str, str] | None = None, *, declared_by: str | None = None, by_name: bool = False) -> Target:
    return resolve(text, Lookup(directory=directory, params=params or {}, declared_by=declared_by, by_name=by_name))


# ---------------------------------------------------------------- names and declarations


@pytest.mark.parametrize(
    ("text", "params", "name"),
    [
        ("shopfan.channels:AgentChat", {"thread_id": "7"}, "agent-chat:7"),
        ("shopfan.channels:AgentChat", {"thread_id": "007"}, "agent-chat:7"),
        (
            "shopfan.channels:Many",
            {"color": "1", "flag": "yes", "id": "12345678123456781234567812345678"},
            "many:1:true:12345678-1234-5678-1234-567812345678:3",
        ),
        ("shopfan.channels:Plain", {}, "plain"),
        ("shopfan.channels:Alerts", {}, "system:alerts"),
        ("shopfan.channels:Holder.Inner", {}, "system:alerts"),
        ("shopfan.channels:one", {}, "agent-chat:1"),
        ("shopfan.channels:alerts", {}, "dynamic"),
        ("shopfan.channels:chats", {"thread": "a b"}, "chat:a b"),
        ("flatfan:alerts", {}, "dynamic"),
        ("flatfan:Plain", {}, "plain"),
    ],
)
def test_a_declaration(directory: Path, text: str, params: dict[str, str], name: str) -> None:
    target = find(text, directory, params)
    assert target.name == name
    assert target.declared is not None
    assert list(target.topics) == [next(iter(target.topics))]
    ref = target.ref(next(iter(target.topics)))
    assert (ref.channel, ref.schema.load(b"3" if ref.topic == "x" else b'{"message":"x"}') is not None) == (name, True)


@pytest.mark.parametrize(
    "text", ["agent-chat:x", "chat", "chat:alice", "queue:Jobs", "a:b:c", "chat:7", "x y", "flat-fan:Plain", "caf\u00e9:Table", "nofan:lower"]
)
def test_a_name(directory: Path, text: str) -> None:
    target = find(text, directory)
    assert (target.name, target.declared, dict(target.topics)) == (text, None, {})
    assert target.ref("any topic").topic == "any topic"


def test_what_looks_like_a_declaration_can_be_a_name(directory: Path) -> None:
    for text in ("room:A", "flatfan:alerts", "shopfan.channels:AgentChat"):
        assert find(text, directory, by_name=True).declared is None


@pytest.mark.parametrize(
    ("text", "params", "complaint"),
    [
        ("nofan:AgentChat", {}, "there is no module 'nofan' in"),
        ("nofan.deep:agent", {}, "there is no module 'nofan' in"),
        ("shopfan.absent:AgentChat", {}, "there is no module 'shopfan.absent' in"),
        (
            "shopfan.channels:AgentCat",
            {"thread_id": "7"},
            "has no 'AgentCat'; did you mean 'AgentChat'?; if it is the name of a channel, add --by-name",
        ),
        ("flatfan:Holder.absent", {}, "has no 'absent'"),
        ("flatfan:AgentChat", {}, "AgentChat needs --param thread_id=VALUE"),
        ("flatfan:AgentChat", {"thread": "7"}, "--param thread: AgentChat has no such param; did you mean 'thread_id'?"),
        ("flatfan:AgentChat", {"thread_id": "seven"}, "--param: thread_id: Input should be a valid integer"),
        ("flatfan:Alerts", {"x": "1"}, "is one channel, 'system:alerts': it takes no --param"),
        ("flatfan:chats", {}, "missing 1 required positional argument: 'thread'; give --param NAME=VALUE"),
        ("flatfan:chats", {"thread": "x", "other": "y"}, "unexpected keyword argument 'other'"),
        ("flatfan:Base", {}, "is an abstract channel"),
        ("flatfan:Status", {}, "is no channel but a ModelMetaclass"),
        ("flatfan:number", {}, "is no channel but a int"),
        ("flatfan:Alerts.alert", {}, "is a topic; name its channel"),
        ("needyfan:Chat", {}, "importing needyfan fails: No module named 'a_package_nobody_has'; install what it needs"),
        ("brokenfan:Chat", {}, "importing brokenfan fails: SystemExit: usage: brokenfan"),
        ("syntaxfan:Chat", {}, "importing syntaxfan fails: SyntaxError"),
        ("wrongfan:A", {}, "importing wrongfan fails: A: {x} of the template is no param"),
        ("chat", {"x": "1"}, "--param goes with a declaration, MODULE:Class; 'chat' is the name of a channel"),
    ],
)
def test_what_cannot_be(directory: Path, text: str, params: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find(text, directory, params)
    assert complaint in str(caught.value)


def test_a_name_that_breaks_the_rules(directory: Path) -> None:
    for text in ("", " x", "a\nb", "x" * 256):
        with pytest.raises(InvalidName):
            find(text, directory)
    with pytest.raises(InvalidName):
        find("flatfan:chats", directory, {"thread": "a\u202eb"})


def test_where_modules_are_looked_for(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="there is no such directory"):
        find("flatfan:Plain", directory / "absent")
    monkeypatch.chdir(directory)
    assert find("flatfan:Plain", Path()).name == "plain"
    assert sys.path.count(str(directory)) == 1


# ---------------------------------------------------------------- a name and its declaration


def test_a_name_is_checked_by_its_declaration(directory: Path) -> None:
    target = find("agent-chat:7", directory, declared_by="flatfan:AgentChat")
    assert (target.name, list(target.topics)) == ("agent-chat:7", ["status"])
    assert find("system:alerts", directory, declared_by="flatfan:Alerts").declared is not None
    assert find("dynamic", directory, declared_by="flatfan:alerts").ref("x").topic == "x"
    assert find("anything", directory, declared_by="flatfan:chats").ref("x").channel == "anything"
    assert find("agent-chat:1", directory, declared_by="flatfan:one").declared is not None


@pytest.mark.parametrize(
    ("text", "declared_by", "more", "complaint"),
    [
        ("agent-chat:x", "flatfan:AgentChat", {}, "'agent-chat:x' is not the name of a AgentChat"),
        ("agent-chat:007", "flatfan:AgentChat", {}, "is called 'agent-chat:7'"),
        ("system:alert", "flatfan:Alerts", {}, "that one is called 'system:alerts'"),
        ("x", "AgentChat", {}, "--as 'AgentChat': write MODULE:Class"),
        ("x", "flatfan:Absent", {}, "--as 'flatfan:Absent': flatfan has no 'Absent'"),
        ("x", "nofan:Absent", {}, "--as 'nofan:Absent': there is no module 'nofan'"),
        ("x", "flatfan:AgentChat", {"thread_id": "1"}, "leave out --param"),
    ],
)
def test_a_name_that_its_declaration_does_not_make(directory: Path, text: str, declared_by: str, more: dict[str, str], complaint: str) -> None:
    with pytest.raises(FanwireError) as caught:
        find(text, directory, more, declared_by=declared_by)
    assert complaint in str(caught.value)
    assert "--by-name" not in str(caught.value)


def test_two_ways_to_read_a_name_contradict(directory: Path) -> None:
    with pytest.raises(ConfigError, match="leave out --by-name"):
        find("x", directory, declared_by="flatfan:AgentChat", by_name=True)


def test_a_topic_that_is_not_declared(directory: Path) -> None:
    with pytest.raises(ConfigError, match="channel 'agent-chat:1' declares no topic 'stats'; did you mean 'status'"):
        find("flatfan:one", directory).ref("stats")
    with pytest.raises(InvalidName):
        find("chat", directory).ref("")


def test_pairs() -> None:
    assert parse_pairs("--param", ["a=1", "b=", "c=x=y"]) == {"a": "1", "b": "", "c": "x=y"}
    for pairs, complaint in ((["a"], "write NAME=VALUE"), (["=1"], "write NAME=VALUE"), (["a=1", "a=2"], "given more than once")):
        with pytest.raises(ConfigError, match=complaint):
            parse_pairs("--param", pairs)


# ---------------------------------------------------------------- --from


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("live", Start.LIVE),
        ("Earliest", Start.EARLIEST),
        ("10", Start.last(10)),
        ("last:3", Start.last(3)),
        ("90s", Start.since(NOW - timedelta(seconds=90))),
        ("1.5s", Start.since(NOW - timedelta(seconds=1.5))),
        ("5m", Start.since(NOW - timedelta(minutes=5))),
        ("2h30m", Start.since(NOW - timedelta(hours=2, minutes=30))),
        ("1d", Start.since(NOW - timedelta(days=1))),
        ("2026-02-01T10:00:00Z", Start.since(datetime(2026, 2, 1, 10, tzinfo=UTC))),
        ("2026-02-01T10:00+02:00", Start.since(datetime(2026, 2, 1, 8, tzinfo=UTC))),
        ("2026-02-01", Start.since(datetime(2026, 2, 1).astimezone())),
        ("0a1b:17:-", Start.after(Cursor("0a1b", 17))),
        (" a:b:17:0123abcd ", Start.after(Cursor("a:b", 17, "0123abcd"))),
    ],
)
def test_a_start(text: str, start: Start) -> None:
    assert parse_start(text, now=NOW) == start


@pytest.mark.parametrize(
    "text", ["", "yesterday", "0", "last:0", "last:x", "-5m", "5 minutes", "m", "10:00", "a:b:c", "2026-13-01", "9" * 30 + "d", "1:2:3", "\u0665m"]
)
def test_no_start(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^--from "):
        parse_start(text)


def test_an_age_is_counted_from_now() -> None:
    begin = parse_start("5m").value
    assert isinstance(begin, datetime)
    assert timedelta(minutes=5) <= datetime.now(UTC) - begin < timedelta(minutes=6)
