"""The server: one port, connections that are slow are cut, and an end that waits for what has begun."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from farvox.errors import UsageError
from farvox.progress import to_stderr
from farvox.service.options import ServeOptions

HEADER_SECONDS = 8.0
"""For a handshake of TLS, for the first request of a connection, and for the rest of one that has begun."""
CLOSE_SECONDS = 0.5
"""For the answer to the close of a WebSocket."""
DRAIN_SECONDS = 30.0
_SLOW = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class CutProtocol(H11Protocol):
    """HTTP/1.1 that ends a connection whose request does not come, or answer is not read, within its time.

    Nothing above it can: an application is called when the headers are complete, and waits for a body as long
    as it takes.
    """

    body_seconds = 8.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Give the first request its time."""
        super().connection_made(transport)
        self._waits_for: object = None
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._give_time()

    def data_received(self, data: bytes) -> None:
        """Take data, and give what is still missing its time."""
        super().data_received(data)
        self._give_time()

    def on_response_complete(self) -> None:
        """Let the next request, which may have come already, have its time."""
        super().on_response_complete()
        self._give_time()

    def pause_writing(self) -> None:
        """Give a client time to read what it has asked for."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: it has read."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that asks nothing more."""
        super().timeout_keep_alive_handler()
        self._give_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting."""
        self._stop()
        self.resume_writing()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Leave the connection to the protocol of WebSockets."""
        self._stop()
        super().handle_websocket_upgrade(event)

    def _give_time(self) -> None:
        """Start the clock where the connection begins to wait for a body, for headers, or to end."""
        if self.transport.is_closing():  # when what is written has been read
            self.loop.call_later(self.body_seconds, self.transport.abort)
        state = self.conn.their_state
        is_first = self.cycle is None
        waits_for: object = None
        if state is h11.SEND_BODY:
            waits_for = self.cycle
        elif state is h11.IDLE and (is_first or self.conn.trailing_data[0]):
            waits_for = state
        if waits_for is self._waits_for:
            return
        self._stop()
        if waits_for is not None and not self.transport.is_closing():
            self._waits_for = waits_for
            seconds = HEADER_SECONDS if waits_for is h11.IDLE else self.body_seconds
            self._timer = self.loop.call_later(seconds, self._cut)

    def _stop(self) -> None:
        self._waits_for = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut(self) -> None:
        if not self.transport.is_closing():
            if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
                self.transport.write(_SLOW)
            self.transport.close()
            self.loop.call_later(1, self.transport.abort)


class ClosingProtocol(WebSocketsSansIOProtocol):
    """A WebSocket that soon ends where the client does not answer its close."""

    def __init__(self, *words: Any, **named: Any) -> None:
        super().__init__(*words, **named)
        self.close_timeout = CLOSE_SECONDS


class Loop(asyncio.SelectorEventLoop):
    """An event loop that gives the handshakes of TLS their time: uvicorn has no option for it."""

    async def create_server(self, *words: Any, **named: Any) -> Any:
        """Create a server as any loop does."""
        if named.get("ssl"):
            named |= dict.fromkeys(("ssl_handshake_timeout", "ssl_shutdown_timeout"), HEADER_SECONDS)
        return await super().create_server(*words, **named)


class Server(uvicorn.Server):
    """A server that SIGINT and SIGTERM end, after the answers that are being made, with status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals while it runs, and do not send them again afterwards."""
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(app: ASGIApp, options: ServeOptions) -> None:
    """Listen, and answer until SIGINT or SIGTERM.

    Raises:
        UsageError: the address cannot be listened at.
    """
    timed = type("TimedProtocol", (CutProtocol,), {"body_seconds": options.body_seconds})
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(f"--host {options.host} --port {options.port}: {error}") from None
    config = uvicorn.Config(
        app,
        http=timed,
        ws=ClosingProtocol,
        ws_max_size=options.max_body_bytes,
        ws_per_message_deflate=False,  # a bomb
        ws_ping_interval=None,  # a stream has limits of its own
        log_level="error",  # strangers do not fill it
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        proxy_headers=False,
    )
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    scheme = "http" if options.tls_cert is None else "https"
    host, port = listener.getsockname()[:2]
    root = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/"
    to_stderr(f"farvox serve: {root}v1/, and a page for people at {root}")
    with suppress(
        ValueError, OSError
    ):  # as many connections as the system allows: often 1,024 unless one asks
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with listener, asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(Server(config).serve([listener]))
