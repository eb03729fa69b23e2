"""A stream over a WebSocket: recordings of a speaker and samples come in, looks and a verdict go out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import WebSocket, WebSocketDisconnect

from farvox.errors import FarvoxError, UsageError
from farvox.options import AtLeast, AtMost, Options, from_table
from farvox.parsing import parse_json
from farvox.service.options import MOST_FILES, ServeOptions
from farvox.service.problems import SlowError, described
from farvox.verifier.answers import look_fields, model_fields, signal_fields, stream_fields
from farvox.verifier.listen import Listener
from farvox.verifier.signal import MAX_CHANNELS
from farvox.verifier.sources import Encoding, whole_samples
from farvox.verifier.verifier import EmbeddedSide, Verifier

END = "end"
"""The text that ends a stream."""
CLOSED = {413: 1009, 500: 1011, 503: 1013}
"""The code by which a problem closes the connection, by its status; the others: 1008."""


@dataclass(frozen=True, kw_only=True)
class StreamOptions(Options):
    """The first message of a stream."""

    rate: Annotated[int, AtLeast(1000), AtMost(1_000_000)] = 16000
    """Samples a second."""
    channels: Annotated[int, AtLeast(1), AtMost(MAX_CHANNELS)] = 1
    """Channels, a sample of each in turn."""
    encoding: Encoding = "s16le"
    """Of the samples."""
    enrol: Annotated[int, AtLeast(1), AtMost(MOST_FILES)] = 1
    """Recordings of the speaker that follow, each a message of its own."""
    to_end: bool = False
    """Go on after the decision."""


@dataclass
class Incoming:
    """The messages of an open connection, with limits of size and time.

    Attributes:
        count: counts bytes that are held, and raises where they are too many.
        seconds_left: of waiting for messages. While we are busy with one, no time is counted.
    """

    websocket: WebSocket
    options: ServeOptions
    count: Callable[[int], None]
    seconds_left: float

    async def next(self) -> str | bytes:
        """The next message.

        Raises:
            SlowError: it does not come.
            OversizeError: all of them are too large.
            WebSocketDisconnect: there is none.
        """
        begin = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(self.seconds_left, self.options.body_seconds))):
                message = await self.websocket.receive()
        except TimeoutError:
            raise SlowError("the next message takes too long, or all of them") from None
        self.seconds_left -= time.monotonic() - begin
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        content: str | bytes = message["bytes"] if message.get("text") is None else message["text"]
        self.count(len(content))
        return content

    async def next_bytes(self) -> bytes | None:
        """The next message, of bytes; nothing at the end.

        Raises:
            UsageError: it is another text than the end.
        """
        content = await self.next()
        if isinstance(content, bytes):
            return content
        if content != END:
            raise UsageError(f"a text that is not '{END}', among recordings and samples, which are binary")
        return None


def stream_options(content: str | bytes) -> StreamOptions:
    """The options that the first message says.

    Raises:
        UsageError: it is no JSON object of such.
    """
    try:
        table = parse_json(content) if isinstance(content, str) else None
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise UsageError('the first message is a JSON object, as text: {"rate": 16000, "enrol": 1}')
    return from_table(StreamOptions, table, "the first message", UsageError)


@dataclass(frozen=True)
class Means:
    """Abilities of the service that a stream needs.

    Attributes:
        read_side: reads and embeds recordings.
        computed: runs a function in the thread that computes.
        count: see `Incoming`.
        place: among all that is answered; taken when the recordings are here.
    """

    read_side: Callable[[Sequence[bytes]], Awaitable[EmbeddedSide]]
    computed: Callable[..., Awaitable[Any]]
    count: Callable[[int], None]
    place: AbstractContextManager[None]


async def converse(
    websocket: WebSocket,
    options: ServeOptions,
    verifier: Verifier,
    means: Means,
) -> None:
    """Answer until the decision, the end or a problem, which is told, and close the connection.

    Args:
        websocket: the connection, accepted.
        options: limits of length and time.
        verifier: decides.
        means: of the service.
    """
    incoming = Incoming(websocket, options, means.count, options.max_seconds + options.body_seconds)
    try:
        wanted = stream_options(await incoming.next())
        contents: list[bytes] = []
        while len(contents) < wanted.enrol:
            if (content := await incoming.next_bytes()) is None:
                raise UsageError(f"the end, after {len(contents)} of {wanted.enrol} recordings ('enrol')")
            contents.append(content)
        with means.place:
            side = await means.read_side(contents)
            await websocket.send_json({**model_fields(verifier), "enrol": signal_fields(side.signals)})
            listener = await means.computed(
                Listener, verifier, side, wanted.rate, wanted.channels, longest=options.max_seconds
            )
            rest, is_over = b"", False
            while not is_over and (content := await incoming.next_bytes()) is not None:
                samples_CT, rest = whole_samples(rest + content, wanted.encoding, wanted.channels)
                for begin in range(0, samples_CT.shape[1], wanted.rate):  # others have their turn in between
                    looks = await means.computed(listener.feed, samples_CT[:, begin : begin + wanted.rate])
                    for look in looks:
                        await websocket.send_json(look_fields(look))
                    is_over = listener.stream.is_full or (listener.is_over and not wanted.to_end)
                    if is_over:
                        break
            verdict = await means.computed(listener.finish)
            await websocket.send_json(stream_fields(listener, verdict))
        await websocket.close()
    except FarvoxError as error:
        told = described(error)
        await websocket.send_json(told)
        await websocket.close(CLOSED.get(told["status"], 1008), told["code"])
