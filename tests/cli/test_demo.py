"""The job: a document streamed to three subscribers by a worker that is killed half way and retried arrives whole, or the account says what is missing or too much.

The worker runs in this process here, and is killed by an exception; `test_demo_worker.py` kills processes.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import anyio
import pytest

from fanwire import Realtime, TopicRef
from fanwire.cli import document as documents
from fanwire.cli.demo import Conversation, DemoResult, Row, Status, Token, WorkerFailed, run_demo
from fanwire.cli.demo_account import Attempt
from fanwire.cli.demo_channel import stamp
from fanwire.cli.demo_worker import KILLED, Announcement, Job, Say
from fanwire.cli.document import Document, load_document, make_document, split_tokens
from fanwire.errors import ConfigError, PermissionDenied
from fanwire.events import InvalidMessage
from fanwire_memory import MemoryOptions, MemoryTransport
from tests.cli.support import HALF, SHA256, TEXT, TOKENS, InProcess, Notes

AGAIN = HALF + TOKENS
"""Tokens published in both attempts."""

FIRST = 2
"""Messages before the first token: two statuses. Faults count messages."""
SECOND = FIRST + HALF + 1
"""Messages before the first token of the second attempt."""
REST = SECOND + HALF + 1
"""Messages before the first token that only the second attempt has: before it comes the status of the half way again."""


class Scripted:
    """A worker whose attempts announce and end as they are told to."""

    def __init__(self, *attempts: tuple[list[Announcement], int]) -> None:
        self.attempts = attempts

    async def attempt(self, job: Job, rt: Realtime, hear: Say, /) -> int:
        announcements, code = self.attempts[job.attempt - 1]
        for announcement in announcements:
            hear(announcement)
        return code


def streamed(count: int) -> Announcement:
    return Announcement(kind="tokens", first=0, count=count)


DYING = Announcement(kind="dying")
STATUS = Announcement(kind="status", status=Status(number=0, message="sent"))


def by_name(result: DemoResult) -> dict[str, Row]:
    return {row.subscriber: row for row in result.rows}


def text_document() -> Document:
    return make_document("text", TEXT.encode())


# ---------------------------------------------------------------- the job


@pytest.mark.anyio
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TEXT, id="readme-like"),
        pytest.param("x", id="one-character"),
        pytest.param("a b", id="two-tokens"),
        pytest.param("\ufeffa\r\nb\rc\x00d\u2028e\n", id="line-ends-and-controls"),
        pytest.param(" \n" * 500, id="white-space"),
        pytest.param("x" * 5_000, id="one-word"),
        pytest.param("e\u0301\u202e\U0001f469\u200d\U0001f4bb " * 300, id="combining"),
    ],
)
async def test_every_subscriber_receives_what_was_published(text: str) -> None:
    view = Notes()
    async with Realtime(MemoryTransport()) as rt:
        result = await run_demo(make_document("text", text.encode()), rt, view, InProcess())
    tokens = len(split_tokens(text))
    half = (tokens + 1) // 2
    both = half + tokens
    assert result.verdict == "passed"
    assert (result.bytes, result.tokens) == (len(text.encode()), tokens)
    assert [(row.subscriber, row.published, row.delivered, row.lost, row.announced, row.problems) for row in result.rows] == [
        ("status", 4, 4, 0, 0, ()),
        ("tokens", both, both, 0, 0, ()),
        ("both", both + 4, both + 4, 0, 0, ()),
    ]
    assert [(row.repeats, row.durable_repeats) for row in result.rows] == [(None, 0), (half, None), (half, 0)]
    assert [(row.attempt, row.tokens, row.statuses, row.replayed, row.returncode) for row in result.attempts] == [
        (1, half, 3, 0, KILLED),
        (2, tokens, 2, 3, 0),
    ]
    assert result.suppressed == 1
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert [row.sha256 for row in result.rows] == [None, sha256, sha256]
    for row in result.rows:
        assert row.p50_ms is not None
        assert row.p99_ms is not None
        assert 0 < row.p50_ms <= row.p99_ms < 10_000
    told = [text for name, text in view.notes if name == "status"]
    assert told == ["Thinking...", "Answering...", f"Half way: {half:,} tokens", f"Done: {tokens:,} tokens, SHA-256 {sha256}"]
    told = [text for name, text in view.notes if name == "worker"]
    assert told == [
        f"attempt 1 was killed after {half:,} token{'' if half == 1 else 's'}, retrying",
        "attempt 2 finished: 3 recorded steps skipped, 1 status repeated under its key",
    ]


@pytest.mark.anyio
async def test_both_attempts_are_one_run_with_one_store() -> None:
    worker = InProcess()
    async with Realtime(MemoryTransport()) as rt:
        await run_demo(text_document(), rt, Notes(), worker)
    first, second = worker.jobs
    assert second == first.model_copy(update={"attempt": 2, "fatal": False})
    assert (first.attempt, first.fatal, first.text) == (1, True, TEXT)
    assert not Path(first.steps).parent.exists()  # nothing is left behind


@pytest.mark.anyio
async def test_a_rate_paces_the_tokens() -> None:
    document = make_document("text", b"one two three four five six seven eight nine ten eleven")
    async with Realtime(MemoryTransport()) as rt:
        result = await run_demo(document, rt, Notes(), InProcess(), rate=2_000)
    assert result.verdict == "passed"
    # As long as 200 tokens take it thinks, and that is not repeated; between six tokens are five pauses, and between another six and five nine.
    assert result.seconds >= 214 / 2_000


@pytest.mark.anyio
async def test_a_rate_beyond_all_bounds_is_as_fast_as_possible() -> None:
    for rate in (float("inf"), 1e300):
        async with Realtime(MemoryTransport()) as rt:
            result = await run_demo(text_document(), rt, Notes(), InProcess(), rate=rate)
        assert result.verdict == "passed"


# ---------------------------------------------------------------- loss


@pytest.mark.anyio
async def test_a_message_lost_for_good_is_announced_and_fails_the_job() -> None:
    transport, view = MemoryTransport(), Notes()
    transport.faults.drop(1, skip=REST + 17, stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(text_document(), rt, view, InProcess(), timeout=5)
    assert result.verdict == "failed"
    rows = by_name(result)
    for name, published in (("tokens", AGAIN), ("both", AGAIN + 4)):
        row = rows[name]
        assert (row.published, row.delivered, row.lost, row.announced) == (published, published - 1, 1, 1)
        assert row.sha256 != SHA256
        assert row.problems == (
            f"1 message of topic 'tokens' lost, the first is number {HALF + 17} of attempt 2",
            f"SHA-256 of the tokens received is {row.sha256}, of the document {SHA256}",
        )
        assert any(reader == name and re.match(r"1 message lost on channel", text) for reader, text in view.notes)
    assert rows["status"].problems == ()  # it was told of the gap, and has all that is its own
    assert (rows["status"].lost, rows["status"].announced) == (0, 1)


@pytest.mark.anyio
@pytest.mark.parametrize(("before", "attempt", "repeats"), [(FIRST, 1, HALF - 1), (SECOND, 2, HALF - 1)])
async def test_a_message_that_the_other_attempt_makes_up_for_is_lost_all_the_same(before: int, attempt: int, repeats: int) -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=before + 17, stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(text_document(), rt, Notes(), InProcess(), timeout=5)
    assert result.verdict == "failed"
    for name in ("tokens", "both"):
        row = by_name(result)[name]
        assert (row.lost, row.announced, row.repeats, row.sha256) == (1, 1, repeats, SHA256)
        assert row.problems == (f"1 message of topic 'tokens' lost, the first is number 17 of attempt {attempt}",)


@pytest.mark.anyio
async def test_a_lost_status_fails_those_who_take_it() -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=1, stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(text_document(), rt, Notes(), InProcess())
    rows = by_name(result)
    assert [bool(row.problems) for row in rows.values()] == [True, False, True]
    assert rows["status"].problems == ("1 message of topic 'status' lost, the first is number 1",)
    assert rows["both"].sha256 == SHA256


@pytest.mark.anyio
async def test_a_lost_message_that_the_history_has_is_repaired() -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=FIRST + 17)
    transport.faults.drop(1, skip=REST + 17)  # as above, where it is lost for good
    transport.faults.duplicate(3, skip=FIRST + 40)
    async with Realtime(transport) as rt:
        result = await run_demo(text_document(), rt, Notes(), InProcess())
        assert rt.stats().duplicates >= 3
    assert result.verdict == "passed"
    assert [row.announced for row in result.rows] == [0, 0, 0]


@pytest.mark.anyio
@pytest.mark.parametrize("lost", ["last token", "last status"])
async def test_a_lost_last_message_ends_in_a_report(lost: str) -> None:
    transport = MemoryTransport()
    transport.faults.drop(1, skip=REST + TOKENS - HALF - (lost == "last token"), stored=False)
    async with Realtime(transport) as rt:
        result = await run_demo(text_document(), rt, Notes(), InProcess(), timeout=0.1)
    assert result.verdict == "failed"
    rows = by_name(result)
    if lost == "last token":
        assert rows["tokens"].problems[0] == f"1 message of topic 'tokens' lost, the first is number {TOKENS - 1} of attempt 2"
        assert rows["tokens"].announced == 1  # the status behind it showed the hole
    else:
        # Nothing follows, so nothing can show that it is missing; the account does.
        assert rows["status"].problems == ("1 message of topic 'status' lost, the first is number 3", "of 1 message lost, gaps announced 0")


@pytest.mark.anyio
async def test_what_was_published_is_known_from_the_worker_not_from_the_subscribers() -> None:
    """A broker that accepts everything and delivers nothing, and tells nobody."""
    worker = Scripted(([streamed(2), DYING], KILLED), ([STATUS, streamed(3)], 0))
    async with Realtime(MemoryTransport()) as rt:
        result = await run_demo(make_document("text", b"a b c"), rt, Notes(), worker, timeout=0.05)
    assert result.verdict == "failed"
    nothing = hashlib.sha256(b"").hexdigest()
    tokens = (
        "2 messages of topic 'tokens' lost, the first is number 0 of attempt 1",
        "3 messages of topic 'tokens' lost, the first is number 0 of attempt 2",
        "of 5 messages lost, gaps announced 0",
        f"SHA-256 of the tokens received is {nothing}, of the document {result.sha256}",
    )
    assert [(row.published, row.delivered, row.lost) for row in result.rows] == [(1, 0, 1), (5, 0, 5), (6, 0, 6)]
    assert by_name(result)["tokens"].problems == tokens
    assert by_name(result)["status"].problems == ("1 message of topic 'status' lost, the first is number 0", "of 1 message lost, gaps announced 0")
    assert (by_name(result)["status"].p50_ms, by_name(result)["status"].p99_ms) == (None, None)


# ---------------------------------------------------------------- repeats


@pytest.mark.anyio
@pytest.mark.parametrize("options", [pytest.param(MemoryOptions(), id="by-the-broker"), pytest.param(MemoryOptions(history=0), id="by-the-hub")])
async def test_the_repeat_of_a_durable_message_is_suppressed(options: MemoryOptions) -> None:
    async with Realtime(MemoryTransport(options=options)) as rt:
        result = await run_demo(text_document(), rt, Notes(), InProcess())
    assert (result.verdict, result.suppressed) == ("passed", 1)
    assert [row.durable_repeats for row in result.rows] == [0, None, 0]


@pytest.mark.anyio
async def test_without_its_key_the_repeat_of_a_durable_message_is_counted_and_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanwire.runs.run._key", lambda *_: None)
    async with Realtime(MemoryTransport()) as rt:
        result = await run_demo(text_document(), rt, Notes(), InProcess())
    assert result.verdict == "failed"
    assert [(row.delivered, row.durable_repeats) for row in result.rows] == [(5, 1), (AGAIN, None), (AGAIN + 5, 1)]
    assert [row.problems for row in result.rows] == [
        ("1 message of the durable part received again",),
        (),
        ("1 message of the durable part received again",),
    ]


# ---------------------------------------------------------------- a worker that does not do as it should


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("worker", "complaint"),
    [
        (Scripted(([streamed(2)], 0)), "attempt 1 of the worker ended with exit code 0 after 2 tokens; it was to be killed half way, after 2"),
        (Scripted(([streamed(1)], KILLED)), "attempt 1 of the worker was killed by SIGKILL after 1 token; it was to be killed half way, after 2"),
        (
            Scripted(([streamed(1), DYING], KILLED)),
            "attempt 1 of the worker was killed by SIGKILL after 1 token; it was to be killed half way, after 2",
        ),
        (
            Scripted(([streamed(2), DYING], KILLED), ([streamed(3)], KILLED)),
            "attempt 2 of the worker was killed by SIGKILL after 3 tokens, as if the first one had not been enough; there is no other",
        ),
        (
            Scripted(([streamed(1), Announcement(kind="tokens", first=2, count=1)], KILLED)),
            "attempt 1 of the worker announced token 2 where 1 is next",
        ),
    ],
)
async def test_a_worker_that_ends_otherwise_than_intended(worker: Scripted, complaint: str) -> None:
    async with Realtime(MemoryTransport()) as rt:
        with pytest.raises(WorkerFailed) as caught:
            await run_demo(make_document("text", b"a b c"), rt, Notes(), worker)
    assert str(caught.value) == complaint


@pytest.mark.anyio
async def test_a_refused_publish_is_raised_as_it_is() -> None:
    for skip in (1, 5):  # a durable one, and one of many
        transport = MemoryTransport()
        error = PermissionDenied("the broker does not allow this")
        transport.faults.refuse(error, skip=skip)
        async with Realtime(transport) as rt:
            with pytest.raises(PermissionDenied, match="does not allow this") as caught:
                await run_demo(text_document(), rt, Notes(), InProcess())
        assert not isinstance(caught.value, ExceptionGroup)


# ---------------------------------------------------------------- a subscriber's own account


def attempt(number: int, tokens: int) -> Attempt:
    made = Attempt(number)
    if tokens:
        made.hear(streamed(tokens))
    return made


@pytest.mark.anyio
async def test_repeats_late_foreign_and_invalid_messages_are_accounted_for() -> None:
    invalid: list[InvalidMessage] = []
    conversation = Conversation(make_document("text", b"a b c d"), Notes())
    conversation.attempts += [attempt(1, 2), attempt(2, 4)]
    chat, reader = conversation.chat, conversation.readers[1]
    async with (
        Realtime(MemoryTransport(), on_invalid=invalid.append) as rt,
        rt.subscribe(chat.tokens).with_gaps() as messages,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(reader.read, messages)
        run = rt.run(conversation.run_id)
        await rt.publish(TopicRef(chat.name, "tokens"), {"number": "none"})
        tokens = [(1, 0, "a"), (1, 1, " b"), (2, 0, "a"), (2, 2, " c"), (2, 1, " B"), (2, 1, " b"), (2, 99, "?"), (2, -1, "?"), (3, 0, "?")]
        for number, n, text in tokens:
            await run.publish(chat.tokens, Token(number=n, text=text), headers=stamp(number))
        await rt.publish(chat.tokens, Token(number=0, text="a"), headers=stamp(1))  # of no run
        await run.publish(chat.tokens, Token(number=0, text="a"), headers={"attempt": "x", "sent": "1"})
        await run.publish(chat.tokens, Token(number=0, text="a"))
        await run.publish(chat.tokens, Token(number=3, text=" d", last=True), headers=stamp(2))
        await reader.finished.wait()
        tasks.cancel_scope.cancel()
    assert len(invalid) == 1
    row = reader.row()
    assert (row.published, row.delivered, row.lost, row.repeats, row.sha256) == (6, 13, 0, 3, hashlib.sha256(b"a b c d").hexdigest())
    assert row.problems == (
        "1 message received twice from one attempt",
        "1 message received again with another text",
        "1 message out of order",
        "6 messages not of this conversation",
        "1 message skipped because they could not be parsed",
    )


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("first", "published", "problems"),
    [
        (1, [(1, 0), (1, 1), (2, 0), (2, 1)], ("1 message not of this conversation",)),  # one more than was announced
        (2, [(1, 0), (1, 1), (2, 0), (2, 1)], ()),
    ],
)
async def test_what_the_worker_did_not_announce_is_not_counted_as_its_own(first: int, published: list[tuple[int, int]], problems: tuple[str]) -> None:
    conversation = Conversation(make_document("text", b"a b"), Notes())
    conversation.attempts += [attempt(1, first), attempt(2, 2)]
    chat, reader = conversation.chat, conversation.readers[1]
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(chat.tokens).with_gaps() as messages, anyio.create_task_group() as tasks:
        tasks.start_soon(reader.read, messages)
        for number, n in published:
            token = Token(number=n, text=conversation.pieces[n], last=n == 1)
            await rt.run(conversation.run_id).publish(chat.tokens, token, headers=stamp(number))
        await reader.finished.wait()
        tasks.cancel_scope.cancel()
    assert reader.row().problems == problems


@pytest.mark.anyio
async def test_a_changed_status_is_noticed() -> None:
    conversation = Conversation(make_document("text", b"a"), Notes())
    conversation.attempts.append(attempt(1, 0))
    chat, reader = conversation.chat, conversation.readers[0]
    async with Realtime(MemoryTransport()) as rt, rt.subscribe(chat.status).with_gaps() as messages, anyio.create_task_group() as tasks:
        tasks.start_soon(reader.read, messages)
        for number in range(3):
            conversation.attempts[0].hear(Announcement(kind="status", status=Status(number=number, message="sent", last=number == 2)))
            status = Status(number=number, message="changed", last=number == 2)
            await rt.run(conversation.run_id).publish(chat.status, status, headers=stamp(1))
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
