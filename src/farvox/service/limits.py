"""Limits on what strangers ask for: from where, how much at a time, and how large."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager

from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from farvox.errors import OversizeError
from farvox.service.problems import FullError, problem

OPEN = ("/v1/health", "/v1/ready", "/v1/metrics", "/v1/openapi.json")
"""Addresses that answer also where as many requests as are allowed are in flight."""


class SameOrigin:
    """Middleware that refuses what the web pages of others ask for, under whatever name they reach us.

    Args:
        app: answers the rest.
        names: that the service may be called by; any where there is none.
    """

    def __init__(self, app: ASGIApp, *, names: Sequence[str] = ()) -> None:
        self.app = app
        self.names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        headers = Headers() if scope["type"] == "lifespan" else Headers(scope=scope)
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        answer: ASGIApp = self.app
        if self.names and host and re.sub(r":\d*$", "", host).strip("[]") not in self.names:
            names = ", ".join(self.names)
            answer = problem(421, "host", f"this is {names}; for a proxy on this machine, say --behind-proxy")
        elif origin is not None and origin.lower().partition("://")[2] != host:
            answer = problem(403, "origin", "a web page of another address asks for this")
        await answer(scope, receive, send)


class Slots:
    """Places for what is answered at a time."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Take a place until the block ends.

        Raises:
            FullError: none is free.
        """
        if self.taken >= self.most:
            raise FullError(f"{self.most} requests are being answered; try again")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class Limited:
    """Middleware that lets so many requests in at a time, and counts all answers."""

    def __init__(self, app: ASGIApp, *, slots: Slots, registry: CollectorRegistry) -> None:
        self.app = app
        self.slots = slots
        self.requests = Counter("farvox_requests", "Answers", ["path", "status"], registry=registry)
        self.seconds = Histogram("farvox_seconds", "From request to answer", ["path"], registry=registry)
        gauge = Gauge("farvox_in_flight", "Requests that are being answered", registry=registry)
        gauge.set_function(lambda: slots.taken)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; it fails where no place is free."""
        if scope["type"] == "lifespan" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        begin, status, is_counted, place = time.monotonic(), 0, False, ExitStack()

        async def body() -> Message:
            """Count a request from the moment its body is here: a slow one keeps nobody out."""
            nonlocal is_counted
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body") and not is_counted:
                place.enter_context(self.slots.one())
                is_counted = True
            return message

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"].endswith("response.start"):
                status = message["status"]
            elif message["type"] == "websocket.close":
                status = message["code"]
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                place.close()  # before the client can send the next one
            await send(message)

        try:
            await self.app(scope, body, answer)
        finally:
            place.close()
            route = scope.get("route")
            path = getattr(route, "path", "other")  # not what a stranger wrote
            self.requests.labels(path, str(status)).inc()
            self.seconds.labels(path).observe(time.monotonic() - begin)


class Uploads:
    """Bodies as they come in, with a limit for one and for all of them."""

    def __init__(self, largest: int, most: int) -> None:
        self.largest = largest
        self.most = most
        self.held = 0

    @contextmanager
    def counting(self) -> Iterator[Callable[[int], None]]:
        """A function that counts further bytes of one body, until the block ends.

        It raises `OversizeError` where the body is larger than allowed, and `FullError` where all bodies
        together are.
        """
        own = 0

        def count(num_bytes: int) -> None:
            nonlocal own
            if own + num_bytes > self.largest:
                raise OversizeError(f"more than {self.largest} bytes")
            if self.held + num_bytes > self.most:
                raise FullError("the bodies of others take all room")
            self.held += num_bytes
            own += num_bytes

        try:
            yield count
        finally:
            self.held -= own

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, counted until the block ends.

        Raises:
            OversizeError: it is larger than allowed.
            FullError: all bodies together are.
        """
        content = bytearray()
        with self.counting() as count:
            if int(request.headers.get("content-length") or 0) > self.largest:
                raise OversizeError(f"the body has more than {self.largest} bytes")
            async for chunk in request.stream():
                count(len(chunk))
                content += chunk
            yield bytes(content)
