"""The application: what each address does, who may ask, and how much may be asked at a time."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry, generate_latest
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

import farvox
from farvox.errors import AudioError, FarvoxError
from farvox.progress import to_stderr
from farvox.service.decode import Decoder
from farvox.service.limits import Limited, SameOrigin, Slots, Uploads
from farvox.service.listening import Means, converse
from farvox.service.options import LOOPBACK, MOST_FILES, ServeOptions
from farvox.service.page import add_page
from farvox.service.problems import PROBLEM, described, problem
from farvox.service.schemas import (
    EmbeddingAnswer,
    EnrolmentAnswer,
    ForgottenAnswer,
    HealthAnswer,
    IdentificationAnswer,
    ReadyAnswer,
    VerdictAnswer,
)
from farvox.verifier.answers import identification_fields, model_fields, signal_fields, verdict_fields
from farvox.verifier.enrolment import Enrolled, speaker_name
from farvox.verifier.signal import Signal
from farvox.verifier.verifier import EmbeddedSide, Verifier

T = TypeVar("T")
AUDIO = {"schema": {"type": "string", "format": "binary"}}
ONE = {"requestBody": {"required": True, "content": {"audio/*": AUDIO, "application/octet-stream": AUDIO}}}


BEARER = HTTPBearer(auto_error=False, description="The token that the server was started with.")
Threshold = Annotated[float | None, Query(ge=-1, le=1, description="Instead of that of the model's card.")]
Strict = Annotated[bool, Query(description="No decision where a note is serious.")]
SpeakerName = Annotated[str, Query(min_length=1, max_length=200, description="Of the speaker.")]


def refusal(what: str, *headers: str) -> dict[str, Any]:
    """The description of an answer that is a problem, with headers that it always has."""
    told = {name: {"required": True, "schema": {"type": "string"}} for name in headers}
    content = {"application/problem+json": {"schema": PROBLEM}}
    return {"description": what, "content": content, "headers": told}


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": refusal("The request cannot be answered."),
    503: refusal("Busy.", "Retry-After"),
    "5XX": refusal("A fault."),
}


def files_body(**fields: str) -> dict[str, Any]:
    """The description of a body of several files, by the names of the fields."""
    file = AUDIO["schema"]
    properties = {
        name: {"type": "array", "minItems": 1, "maxItems": MOST_FILES, "items": file, "description": what}
        for name, what in fields.items()
    }
    schema = {"type": "object", "required": list(fields), "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def make_app(verifier: Verifier, options: ServeOptions, token: str) -> FastAPI:
    """The application, for one verifier with its store."""
    registry = CollectorRegistry()
    slots, streams = Slots(options.in_flight), Slots(max(1, options.in_flight // 2))
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
                if not 1 <= len(own) <= MOST_FILES:
                    what = f"no file '{name}'" if not own else f"{len(own)} files '{name}'"
                    raise AudioError(
                        f"the body has {what}; it is multipart/form-data with one to {MOST_FILES} of them"
                    )
                found.append(await signals_in(name, own))
            return found

    async def signals_in(name: str, contents: Sequence[bytes]) -> list[Signal]:
        """The recordings of a side."""
        called = [name] if len(contents) == 1 else [f"{name} {n}" for n in range(len(contents))]
        return list(await asyncio.gather(*map(state["decoder"].read, called, contents)))

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
    app.add_middleware(Limited, slots=slots, registry=registry)
    is_alone = options.host in LOOPBACK and not options.behind_proxy
    app.add_middleware(SameOrigin, names=LOOPBACK if is_alone else ())

    @app.exception_handler(FarvoxError)
    async def refused(_: Request, error: FarvoxError) -> Response:
        """Tell an error by its code."""
        told = described(error)
        headers = {"Retry-After": "1"} if told["status"] == 503 else None
        return problem(told["status"], told["code"], told["detail"], headers)

    @app.exception_handler(HTTPException)
    async def unanswered(request: Request, error: HTTPException) -> Response:
        """Tell an error of HTTP."""
        code = {401: "token", 404: "not-found", 405: "method"}.get(error.status_code, "request")
        named = {"WWW-Authenticate": "Bearer"} if error.status_code == 401 else {}
        if error.status_code == 405:  # of all routes of the address, not of the first one
            routes = [
                each for each in app.routes if isinstance(each, APIRoute) and each.path == request.url.path
            ]
            named = {"Allow": ", ".join(sorted({method for each in routes for method in each.methods or ()}))}
        headers = {**(error.headers or {}), **named}
        return problem(error.status_code, code, str(error.detail), headers)

    @app.exception_handler(ClientDisconnect)
    async def left(_: Request, error: ClientDisconnect) -> Response:
        """Count who left in the middle of a body, or was cut; nobody reads this."""
        return problem(400, "request", "the body has no end")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        """Tell which parameter is wrong."""
        told = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
        return problem(422, "parameter", told)

    secret: dict[str, Any] = {
        "dependencies": [Depends(may)],
        "responses": {401: refusal("No token, or another one.", "WWW-Authenticate")},
    }

    def deciding(threshold: float | None) -> Verifier:
        if threshold is None:
            return verifier
        return Verifier(
            verifier.embedder,
            threshold=threshold,
            band="auto" if verifier.band == "auto" else None,
            store=verifier.store,
        )

    @app.post("/v1/embed", response_model=EmbeddingAnswer, **secret, openapi_extra=ONE)
    async def embed(request: Request) -> dict[str, Any]:
        """The embedding of a recording: an array of numbers whose cosine is the score."""
        signals = await one_signal(request)
        emb_E = await computed(verifier.embed, signals[0])
        return {"embedding": emb_E.tolist(), **model_fields(verifier), "recordings": signal_fields(signals)}

    @app.post(
        "/v1/verify",
        response_model=VerdictAnswer,
        openapi_extra=files_body(enrol="One or more recordings of a speaker.", test="The one in question."),
    )
    async def verify(request: Request, threshold: Threshold = None, strict: Strict = False) -> dict[str, Any]:
        """Decide whether two sides are of the same speaker."""
        enrol, test = await signals_of(request, "enrol", "test")
        used = deciding(threshold)
        return verdict_fields(used, await computed(used.verify, enrol, test), strict=strict)

    @app.post(
        "/v1/enrol",
        response_model=EnrolmentAnswer,
        **secret,
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

    @app.post("/v1/identify", response_model=IdentificationAnswer, **secret, openapi_extra=ONE)
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

    @app.get("/v1/speakers", response_model=list[Enrolled], **secret)
    async def speakers() -> list[dict[str, Any]]:
        """List the enrolled speakers."""
        return [asdict(each) for each in await computed(verifier.store.listing)]

    @app.delete("/v1/speakers", response_model=ForgottenAnswer, **secret)
    async def forget(name: SpeakerName) -> dict[str, Any]:
        """Forget a speaker, with every trace."""
        return {"forgotten": await computed(verifier.forget, name)}

    @app.websocket("/v1/listen")
    async def listen(websocket: WebSocket) -> None:
        """Decide while the speech comes, see `farvox.service.listening`."""

        async def read_side(contents: Sequence[bytes]) -> EmbeddedSide:
            return await computed(verifier.side, await signals_in("enrol", contents))

        @contextmanager
        def place() -> Iterator[None]:
            with streams.one(), slots.one():  # streams take long: they leave room for requests
                yield

        await websocket.accept()
        with suppress(WebSocketDisconnect), uploads.counting() as count:
            means = Means(read_side, computed, count, place())
            await converse(websocket, options, verifier, means)

    @app.get("/v1/health", response_model=HealthAnswer)
    async def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "version": farvox.__version__}

    @app.get("/v1/ready", response_model=ReadyAnswer)
    async def ready() -> dict[str, Any]:
        """Requests are taken."""
        return {"status": "ready", **model_fields(verifier)}

    @app.get("/v1/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counts and times, as Prometheus reads them."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    add_page(app)
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
        form = await MultiPartParser(
            headers, stream(), max_files=2 * MOST_FILES, max_fields=MOST_FILES
        ).parse()
        files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
        return [(name, await file.read()) for name, file in files]
    except (MultiPartException, KeyError) as error:
        raise AudioError(f"the multipart body cannot be read: {error}") from None
