"""The application: what each address does, who may ask, and how much may be asked at a time."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import farvox
from farvox.errors import (
    AudioError,
    FarvoxError,
    MixedSpeakersError,
    NoSpeechError,
    OversizeError,
    SpeakerError,
    StoreError,
    TooShortError,
)
from farvox.progress import to_stderr
from farvox.service.decode import Decoder
from farvox.service.options import ServeOptions
from farvox.verifier.answers import identification_fields, model_fields, signal_fields, verdict_fields
from farvox.verifier.enrolment import speaker_name
from farvox.verifier.signal import Signal
from farvox.verifier.verifier import Verifier

T = TypeVar("T")

CODES: tuple[tuple[type[FarvoxError], int, str], ...] = (
    (OversizeError, 413, "too-large"),
    (NoSpeechError, 422, "no-speech"),
    (TooShortError, 422, "too-short"),
    (MixedSpeakersError, 422, "mixed-speakers"),
    (AudioError, 422, "unusable-audio"),
    (SpeakerError, 409, "speaker"),
    (StoreError, 500, "store"),
    (FarvoxError, 500, "fault"),
)
"""The status and the code of each error, the first class that fits."""
OPEN = ("/v1/health", "/v1/ready", "/v1/metrics", "/v1/openapi.json")
"""Addresses that answer also where as many requests as are allowed are in flight."""
MOST_FILES = 16
PROBLEM = {
    "type": "object",
    "required": ["title", "status", "code", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
    },
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/problem+json": {"schema": PROBLEM}}}
    for status, what in (("4XX", "The request cannot be answered."), ("5XX", "Busy, or a fault."))
}
AUDIO = {"schema": {"type": "string", "format": "binary"}}
ONE = {"requestBody": {"required": True, "content": {"audio/*": AUDIO, "application/octet-stream": AUDIO}}}


BEARER = HTTPBearer(auto_error=False, description="The token that the server was started with.")
Threshold = Annotated[float | None, Query(ge=-1, le=1, description="Instead of that of the model's card.")]
Strict = Annotated[bool, Query(description="No decision where a note is serious.")]
SpeakerName = Annotated[str, Query(min_length=1, max_length=200, description="Of the speaker.")]


def files_body(**fields: str) -> dict[str, Any]:
    """The description of a body of several files, by the names of the fields."""
    file = AUDIO["schema"]
    properties = {
        name: {"type": "array", "items": file, "description": what} for name, what in fields.items()
    }
    schema = {"type": "object", "required": list(fields), "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An error as RFC 9457 has it."""
    title = {503: "Busy", 401: "No token", 413: "Too large"}.get(status, "Not answered")
    body = {"title": title, "status": status, "code": code, "detail": detail}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


class Limited:
    """Middleware that lets so many requests in at a time, and counts them; the others are told to wait."""

    def __init__(self, app: ASGIApp, *, most: int, registry: CollectorRegistry) -> None:
        self.app = app
        self.most = most
        self.in_flight = 0
        self.requests = Counter("farvox_requests", "Answers", ["path", "status"], registry=registry)
        self.seconds = Histogram("farvox_seconds", "From request to answer", ["path"], registry=registry)
        gauge = Gauge("farvox_in_flight", "Requests that are being answered", registry=registry)
        gauge.set_function(lambda: self.in_flight)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        begin, status, is_counted = time.monotonic(), 0, False

        def end() -> None:
            nonlocal is_counted
            self.in_flight -= is_counted
            is_counted = False

        async def body() -> Message:
            """Count a request from the moment its body is here: a slow one keeps nobody out."""
            nonlocal is_counted
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body") and not is_counted:
                if self.in_flight >= self.most:
                    raise Busy
                self.in_flight += 1
                is_counted = True
            return message

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                end()  # before the client can send the next one
            await send(message)

        try:
            await self.app(scope, body, answer)
        except Busy:
            refusal = problem(
                503, "busy", f"{self.most} requests are being answered; try again", {"Retry-After": "1"}
            )
            await refusal(scope, receive, answer)
        finally:
            end()
            route = scope.get("route")
            path = getattr(route, "path", "other")  # not what a stranger wrote
            self.requests.labels(path, str(status)).inc()
            self.seconds.labels(path).observe(time.monotonic() - begin)


class Busy(Exception):
    """As many requests as are allowed are in flight."""


class Uploads:
    """Bodies as they come in, with a limit for one and for all of them."""

    def __init__(self, largest: int, most: int) -> None:
        self.largest = largest
        self.most = most
        self.held = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request, counted until the block ends.

        Raises:
            OversizeError: it is larger than allowed.
            Busy: all bodies together are.
        """
        content = bytearray()
        try:
            if int(request.headers.get("content-length") or 0) > self.largest:
                raise OversizeError(f"the body has more than {self.largest} bytes")
            async for chunk in request.stream():
                if len(content) + len(chunk) > self.largest:
                    raise OversizeError(f"the body has more than {self.largest} bytes")
                if self.held + len(chunk) > self.most:
                    raise Busy
                self.held += len(chunk)
                content += chunk
            yield bytes(content)
        finally:
            self.held -= len(content)


def make_app(verifier: Verifier, options: ServeOptions, token: str) -> FastAPI:
    """The application, for one verifier with its store."""
    registry = CollectorRegistry()
    uploads = Uploads(options.max_body_bytes, options.in_flight * options.max_body_bytes)
    state: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        reading = {
            "sample_rate": verifier.embedder.sample_rate,
            "min_samples": verifier.embedder.min_samples,
            "vad": verifier.vad,
            "channel": verifier.channel,
        }
        limits = {"seconds": options.decode_seconds, "max_seconds": options.max_seconds}
        async with AsyncExitStack() as stack:
            state["decoder"] = stack.enter_context(
                Decoder(workers=options.workers, reading=reading, **limits)
            )
            state["computer"] = stack.enter_context(ThreadPoolExecutor(1, "farvox-compute"))
            sweeper = asyncio.create_task(sweep())
            yield
            sweeper.cancel()
            state.clear()

    async def sweep() -> None:
        """Forget, once a day, who was enrolled too long ago."""
        while options.keep_days is not None:
            try:
                await computed(verifier.store.sweep, options.keep_days)  # type: ignore[attr-defined]
            except FarvoxError as error:
                to_stderr(f"farvox serve: {error}")
            await asyncio.sleep(24 * 3600)

    async def computed(function: Callable[..., T], *words: Any, **named: Any) -> T:
        """Run what takes time in the one thread that computes, while others are received and answered."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(state["computer"], lambda: function(*words, **named))

    async def one_signal(request: Request) -> list[Signal]:
        """The recording that is the body of a request."""
        async with uploads.body(request) as content:
            if not content:
                raise AudioError("the body is empty; it is a recording")
            return [await state["decoder"].read("recording", content)]

    async def signals_of(request: Request, *names: str) -> list[list[Signal]]:
        """The recordings of a body of several files, by the names of their fields."""
        async with uploads.body(request) as content:
            files = await parts(request.headers, content)
            found = []
            for name in names:
                own = [content for field, content in files if field == name]
                if not own:
                    raise AudioError(
                        f"the body has no file '{name}'; it is multipart/form-data with one or more"
                    )
                called = [name] if len(own) == 1 else [f"{name} {n}" for n in range(len(own))]
                read = map(state["decoder"].read, called, own)
                found.append(list(await asyncio.gather(*read)))
            return found

    def may(given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise HTTPException(401, "a token is needed: Authorization: Bearer TOKEN")

    app = FastAPI(
        title="farvox",
        version=farvox.__version__,
        summary="Far-field speaker verification",
        description="Are recordings of the same speaker? Replayed and synthetic voices are not detected.",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=RESPONSES,
    )
    app.add_middleware(Limited, most=options.in_flight, registry=registry)

    @app.exception_handler(FarvoxError)
    async def refused(_: Request, error: FarvoxError) -> Response:
        """Tell an error by its code."""
        status, code = next((status, code) for kind, status, code in CODES if isinstance(error, kind))
        if status >= 500:
            to_stderr(f"farvox serve: {error}")
        return problem(status, code, str(error) if status < 500 else "see the log of the service")

    @app.exception_handler(HTTPException)
    async def unanswered(_: Request, error: HTTPException) -> Response:
        """Tell an error of HTTP."""
        code = {401: "token", 404: "not-found", 405: "method"}.get(error.status_code, "request")
        named = {"WWW-Authenticate": "Bearer"} if error.status_code == 401 else {}
        headers = {**(error.headers or {}), **named}
        return problem(error.status_code, code, str(error.detail), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        """Tell which parameter is wrong."""
        told = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
        return problem(422, "parameter", told)

    with_token = [Depends(may)]

    def deciding(threshold: float | None) -> Verifier:
        if threshold is None:
            return verifier
        return Verifier(
            verifier.embedder,
            threshold=threshold,
            band="auto" if verifier.band == "auto" else None,
            store=verifier.store,
        )

    @app.post("/v1/embed", dependencies=with_token, openapi_extra=ONE)
    async def embed(request: Request) -> dict[str, Any]:
        """The embedding of a recording: an array of numbers whose cosine is the score."""
        signals = await one_signal(request)
        emb_E = await computed(verifier.embed, signals[0])
        return {"embedding": emb_E.tolist(), **model_fields(verifier), "recordings": signal_fields(signals)}

    @app.post(
        "/v1/verify",
        openapi_extra=files_body(enrol="One or more recordings of a speaker.", test="The one in question."),
    )
    async def verify(request: Request, threshold: Threshold = None, strict: Strict = False) -> dict[str, Any]:
        """Decide whether two sides are of the same speaker."""
        enrol, test = await signals_of(request, "enrol", "test")
        used = deciding(threshold)
        return verdict_fields(used, await computed(used.verify, enrol, test), strict=strict)

    @app.post(
        "/v1/enrol",
        dependencies=with_token,
        openapi_extra=files_body(audio="One or more recordings of the speaker."),
    )
    async def enrol(
        request: Request, name: SpeakerName, replace: bool = False, allow_mixed: bool = False
    ) -> dict[str, Any]:
        """Enrol a speaker; no audio is kept."""
        known = speaker_name(name)
        [signals] = await signals_of(request, "audio")
        made = await computed(verifier.enrol, known, signals, replace=replace, allow_mixed=allow_mixed)
        return {
            "name": made.name,
            "num_recordings": made.num_recordings,
            "seconds": made.seconds,
            "enrolled_at": made.enrolled_at,
            **model_fields(verifier),
            "recordings": signal_fields(made.signals),
        }

    @app.post("/v1/identify", dependencies=with_token, openapi_extra=ONE)
    async def identify(
        request: Request,
        threshold: Threshold = None,
        top: Annotated[int, Query(ge=1, le=100, description="Number of candidates.")] = 3,
        strict: Strict = False,
    ) -> dict[str, Any]:
        """Find the enrolled speaker of a recording."""
        signals, used = await one_signal(request), deciding(threshold)
        found = await computed(used.identify, signals, top=top)
        return identification_fields(used, found, strict=strict)

    @app.get("/v1/speakers", dependencies=with_token)
    async def speakers() -> list[dict[str, Any]]:
        """List the enrolled speakers."""
        return [asdict(each) for each in await computed(verifier.store.listing)]

    @app.delete("/v1/speakers", dependencies=with_token)
    async def forget(name: SpeakerName) -> dict[str, Any]:
        """Forget a speaker, with every trace."""
        return {"forgotten": await computed(verifier.forget, name)}

    @app.get("/v1/health")
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "version": farvox.__version__}

    @app.get("/v1/ready")
    async def ready() -> dict[str, Any]:
        """Requests are taken."""
        return {"status": "ready", **model_fields(verifier)}

    @app.get("/v1/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def parts(headers: Headers, content: bytes) -> Sequence[tuple[str, bytes]]:
    """The files of a multipart body, each with the name of its field.

    Raises:
        AudioError: it is none, or has too many parts.
    """

    async def stream() -> AsyncGenerator[bytes, None]:
        yield content

    if "multipart/form-data" not in headers.get("content-type", ""):
        raise AudioError("the body is no multipart/form-data, of which each part is a file")
    try:
        form = await MultiPartParser(headers, stream(), max_files=MOST_FILES, max_fields=MOST_FILES).parse()
        files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        return [(name, await file.read()) for name, file in files]
    except (MultiPartException, KeyError) as error:
        raise AudioError(f"the multipart body cannot be read: {error}") from None
