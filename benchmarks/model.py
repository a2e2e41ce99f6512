"""The message that every contender carries, and the codec that every peer runs over it."""

from __future__ import annotations

from functools import cache

from pydantic import BaseModel, ConfigDict, TypeAdapter

__all__ = ("ADAPTER", "PAYLOAD_BYTES", "Sample", "recode", "samples")


class Sample(BaseModel):
    """One message, a piece of generated text: about 256 bytes of JSON."""

    model_config = ConfigDict(frozen=True)

    index: int
    run_id: str
    text: str


ADAPTER = TypeAdapter(Sample)
"""Validator and serialiser, built once, as pydantic's documentation advises."""


DISTINCT = 1_024
"""Different messages: more would measure how long the processor waits for memory, since a publisher has just made what it publishes."""


@cache
def samples(count: int) -> tuple[Sample, ...]:
    """Messages numbered from 0 to ``DISTINCT - 1`` and again, made before anything is timed.

    Args:
        count: How many.

    Returns:
        The messages. The same count gives the same objects, so that every contender publishes the very same ones.
    """
    text = (
        "Thinking about the question, then answering it in words that come one after another, the way real prose does arrive: "
        "a sentence, a pause, another sentence, and so on to the end."
    )
    distinct = [Sample(index=100_000 + i, run_id="run_01JD8Z5Q4W9X3V7K2M6N", text=text) for i in range(min(count, DISTINCT))]
    return tuple(distinct[i % DISTINCT] for i in range(count))


def recode(sample: Sample) -> Sample:
    """Validate, encode and decode one message: what each peer does once per message, whatever the number of its subscribers.

    Args:
        sample: The publisher's object.

    Returns:
        The object that subscribers share.

    Raises:
        pydantic.ValidationError: If the message is invalid, which would be a defect of the benchmark.
    """
    return ADAPTER.validate_json(ADAPTER.dump_json(ADAPTER.validate_python(sample)))


PAYLOAD_BYTES = len(ADAPTER.dump_json(samples(1)[0]))
"""Size of one encoded message."""
