"""The job: a document streamed to three subscribers arrives whole, or the account says what is missing."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import anyio
import pytest

from fanwire import Realtime, TopicRef
from fanwire.cli import document as documents
from fanwire.cli.demo import Conversation, DemoResult, Row, Status, Token, run_demo
from fanwire.cli.document import load_document, make_document, split_tokens
from fanwire.errors import ConfigError, PermissionDenied
from fanwire.events import InvalidMessage
from fanwire_memory import MemoryTransport
from tests.cli.support import SHA256, TEXT, TOKENS, Notes


def by_name(result: DemoResult) -> dict[str, Row]:
    return {row.subscriber: row for row in result.rows}


# ---------------------------------------------------------------- the job


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TEXT, id="readme-like"),
        pytest.param("x", id="one-character"),
        pytest.param("\ufeffa\r\nb\rc\x00d\u2028e\n", id="line-ends-and-controls"),
        pytest.param(" \n" * 500, id="white-space"),
        pytest.param("x" * 5_000, id="one-word"),
        pytest.param("e\u0301\u202e\U0001f469\u200d\U0001f4bb " * 300, id="combining"),
    ],
)
async def test_every_subscriber_receives_what_was_published(text: str) -> None:
    view = Notes()
    async with Realtime(MemoryTransport()) as rt:
        result = await run_demo(make_document("text", text.encode()), rt, view)
    tokens = len(split_tokens(text))
    assert result.verdict == "passed"
    assert (result.bytes, result.tokens) == (len(text.encode()), tokens)
    assert [(row.subscriber, row.published, row.delivered, row.lost, row.announced, row.problems) for row in result.rows] == [
        ("status", 3, 3, 0, 0, ()),
        ("tokens", tokens, tokens, 0, 0, ()),
        ("both", tokens + 3, tokens + 3, 0, 0, ()),
    ]
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert [row.sha256 for row in result.rows] == [None, sha256, sha256]
    for row in result.rows:
        assert row.p50_ms is not None
        assert row.p99_ms is not None
        assert 0 < row.p50_ms <= row.p99_ms < 10_000
    told = [text for name, text in view.notes if name == "status"]
    assert told == ["Thinking...", "Answering...", f"Done: {tokens:,} tokens, SHA-256 {sha256}"]


@pytest.mark.anyio
async def test_a_rate_paces_the_tokens() -> None:
    document = make_document("text", b"one two three four five six seven eight nine ten eleven")
    async with Realtime(MemoryTransport()) as rt:
        result = await run_demo(document, rt, Notes(), rate=2_000)
    assert result.verdict == "passed"
    assert result.seconds >= 210 / 2_000  # as long as 200 tokens take it thinks, and between eleven tokens are ten pauses


@pytest.mark.anyio
async def test_a_message_lost_for_good_is_announced_and_fails_the_job() -> None:
    transport, view = MemoryTransport(), Notes()
    transport.faults.drop(1, skip=2 + 17, stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(make_document("text", TEXT.encode()), rt, view, timeout=5)
    assert result.verdict == "failed"
    rows = by_name(result)
    for name, published in (("tokens", TOKENS), ("both", TOKENS + 3)):
        row = rows[name]
        assert (row.published, row.delivered, row.lost, row.announced) == (published, published - 1, 1, 1)
        assert row.sha256 != SHA256
        assert row.problems == (
            "1 message of topic 'tokens' lost, the first is number 17",
            f"SHA-256 of the tokens received is {row.sha256}, of the document {SHA256}",
        )
        assert any(reader == name and re.match(r"1 message lost on channel", text) for reader, text in view.notes)
    assert rows["status"].problems == ()  # it was told of the gap, and has all that is its own
    assert (rows["status"].lost, rows["status"].announced) == (0, 1)


@pytest.mark.anyio
async def test_a_lost_status_fails_those_who_take_it() -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=1, stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(make_document("text", TEXT.encode()), rt, Notes())
    rows = by_name(result)
    assert [bool(row.problems) for row in rows.values()] == [True, False, True]
    assert rows["status"].problems == ("1 message of topic 'status' lost, the first is number 1",)
    assert rows["both"].sha256 == SHA256


@pytest.mark.anyio
async def test_a_lost_message_that_the_history_has_is_repaired() -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=2 + 17)  # as above, where it is lost for good
    transport.faults.duplicate(3, skip=2 + 40)
    async with Realtime(transport) as rt:
        result = await run_demo(make_document("text", TEXT.encode()), rt, Notes())
        assert rt.stats().duplicates >= 3
    assert result.verdict == "passed"
    assert [row.announced for row in result.rows] == [0, 0, 0]


@pytest.mark.anyio
@pytest.mark.parametrize("lost", ["last token", "last status"])
async def test_a_lost_last_message_ends_in_a_report(lost: str) -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=2 + TOKENS - (lost == "last token"), stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(make_document("text", TEXT.encode()), rt, Notes(), timeout=0.1)
    assert result.verdict == "failed"
    rows = by_name(result)
    if lost == "last token":
        assert rows["tokens"].problems[0] == f"1 message of topic 'tokens' lost, the first is number {TOKENS - 1}"
        assert rows["tokens"].announced == 1  # the status behind it showed the hole
    else:
        # Nothing follows, so nothing can show that it is missing; the account does.
        assert rows["status"].problems == ("1 message of topic 'status' lost, the first is number 2", "of 1 message lost, gaps announced 0")


@pytest.mark.anyio
async def test_a_refused_publish_is_raised_as_it_is() -> None:
    transport = MemoryTransport()
    error = PermissionDenied("the broker does not allow this")
    transport.faults.refuse(error, skip=5)
    async with Realtime(transport) as rt:
        with pytest.raises(PermissionDenied, match="does not allow this") as caught:
            await run_demo(make_document("text", TEXT.encode()), rt, Notes())
    assert not isinstance(caught.value, ExceptionGroup)


@pytest.mark.anyio
async def test_repeats_late_foreign_and_invalid_messages_are_accounted_for() -> None:
    invalid: list[InvalidMessage] = []
    conversation = Conversation(make_document("text", b"a b c d"), Notes())
    chat, reader = conversation.chat, conversation.readers[1]
    async with (
        Realtime(MemoryTransport(), on_invalid=invalid.append) as rt,
        rt.subscribe(chat.tokens).with_gaps() as messages,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(reader.read, messages)
        conversation.sent["tokens"] += [0, 0, 0, 0]
        await rt.publish(TopicRef(chat.name, "tokens"), {"number": "none"})
        for number, text in ((0, "a"), (2, " c"), (1, " b"), (1, " b"), (99, "?"), (-1, "?")):
            await rt.publish(chat.tokens, Token(number=number, text=text))
        await rt.publish(chat.tokens, Token(number=3, text=" d", last=True))
        await reader.finished.wait()
        tasks.cancel_scope.cancel()
    assert len(invalid) == 1
    row = reader.row()
    assert (row.delivered, row.lost, row.sha256) == (7, 0, hashlib.sha256(b"a c b b?? d").hexdigest())
    assert row.problems[:-1] == (
        "1 message received twice",
        "1 message out of order",
        "2 messages not of this conversation",
        "1 message skipped because they could not be parsed",
    )
    assert row.problems[-1].startswith("SHA-256 of the tokens received is ")


@pytest.mark.anyio
async def test_a_changed_status_is_noticed() -> None:
    conversation = Conversation(make_document("text", b"a"), Notes())
    chat, reader = conversation.chat, conversation.readers[0]
    async with (
        Realtime(MemoryTransport()) as rt,
        rt.subscribe(chat.status).with_gaps() as messages,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(reader.read, messages)
        for number in range(3):
            conversation.sent["status"].append(0)
            conversation.statuses.append(Status(number=number, message="sent", last=number == 2))
            await rt.publish(chat.status, Status(number=number, message="changed", last=number == 2))
        await reader.finished.wait()
        tasks.cancel_scope.cancel()
    assert reader.row().problems == ("the statuses received are not those published",)


# ---------------------------------------------------------------- documents


def test_the_default_document_is_the_readme() -> None:
    document = load_document(None)
    assert "README" in document.name
    assert "fanwire" in document.text
    assert document.sha256 == hashlib.sha256(document.text.encode()).hexdigest()


def test_a_checkout_is_known_by_its_project(tmp_path: Path) -> None:
    module = tmp_path / "core" / "fanwire" / "cli" / "document.py"
    assert documents._checkout_readme(module) is None
    (tmp_path / "README.md").write_text("# other\n", encoding="utf-8")
    for project in ('[project]\nname = "other"\n', "project = 3\n", "not toml", '[tool.fanwire]\nurl = "memory://"\n'):
        (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
        assert documents._checkout_readme(module) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "fanwire"\n', encoding="utf-8")
    assert documents._checkout_readme(module) == tmp_path / "README.md"


def test_an_installed_wheel_has_the_readme_in_its_metadata(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    information = tmp_path / "fanwire-0.0.dist-info"
    information.mkdir()
    monkeypatch.setattr(documents, "__file__", str(tmp_path / "document.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ConfigError, match="README of fanwire is not installed; give a document with --input FILE"):
        load_document(None)
    (information / "METADATA").write_text("Metadata-Version: 2.3\nName: fanwire\nVersion: 0.0\n\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="README of fanwire is not installed"):
        load_document(None)
    (information / "METADATA").write_text("Metadata-Version: 2.3\nName: fanwire\nVersion: 0.0\n\n# fanwire\n\ndéjà vu\n", encoding="utf-8")
    document = load_document(None)
    assert (document.name, document.text) == ("README of fanwire", "# fanwire\n\ndéjà vu\n")


@pytest.mark.parametrize("text", [TEXT, "x" * 100, "\n" * 100, "a\u00a0b\u3000c", " a" * 50])
def test_tokens_joined_are_the_text(text: str) -> None:
    tokens = split_tokens(text)
    assert "".join(tokens) == text
    assert all(1 <= len(token) <= 56 for token in tokens)
    assert len(tokens) > 1
