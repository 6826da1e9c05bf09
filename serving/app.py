"""The HTTP side: routes, limits, and answers that come event by event from the engine.

Nothing here runs the model. Bodies are turned into tokens in one thread of their own (a tokenizer of `tokenizers` may
not be used by two at once), so the event loop is never busy for long.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.answers import DONE, STILL_THERE, Choice, Shape, error_object, event, usage_of
from serving.engine import End, Engine, Failure, Piece, QueueFull
from serving.engine import Request as EngineRequest
from serving.fields import Body, Refusal, Served, Wanted, read_chat, read_completion

PAGE_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}
OPEN_PATHS = {*PAGE_FILES, "/health"}  # need no key: the page asks for one, and a watchdog has none
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "[::1]"}
RETRY_AFTER_S = 2
COMMENT_EVERY_S = 10.0

# The page has nothing but its own files, and talks to nobody else.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


@dataclass(frozen=True)
class Limits:
    """Who may ask, and how much."""

    max_body_bytes: int
    patience_s: float  # for a client that sends nothing, or reads nothing
    api_key: str | None = None
    hosts: frozenset[str] | None = None  # names that the Host header may have; None: any
    origins: tuple[str, ...] = ()  # web pages that may ask; *: all


@dataclass
class State:
    """What the routes share."""

    engine: Engine
    served: Served
    limits: Limits
    created: int
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="reader"))


# --- errors ---


def error_response(refusal: Refusal) -> JSONResponse:
    """OpenAI's error object."""
    kind = {401: "authentication_error", 404: "not_found_error", 500: "server_error", 503: "overloaded_error"}
    content = error_object(
        refusal.message, kind.get(refusal.status, "invalid_request_error"), refusal.param, refusal.code
    )
    return JSONResponse(content, refusal.status, refusal.headers)


async def on_refusal(request: Request, error: Exception) -> Response:
    """A Refusal of a route."""
    return error_response(error)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own errors: no such path, another method."""
    message = {404: f"no such path: {request.url.path[:100]}", 405: f"{request.method} is not for this path"}
    text = message.get(error.status_code, str(error.detail))
    return error_response(Refusal(text, status=error.status_code, headers=dict(error.headers or {})))


async def on_defect(request: Request, error: Exception) -> Response:
    """A mistake of the server."""
    return error_response(Refusal("the server made a mistake; its log says which", status=500))


# --- the door ---


class Door:
    """Lets in who may ask, puts the safe headers on each answer, and counts.

    A page of another site that is open in the same browser must not use a server on localhost. So where the server
    listens on this machine alone the Host header has to name it (a name that was pointed at 127.0.0.1 afterwards has
    another: DNS rebinding), and an Origin header has to be the server's own, unless --cors names it.
    """

    def __init__(self, app: ASGIApp, state: State):
        self.app = app
        self.state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        request = Request(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *SAFE_HEADERS]
                path = scope["path"] if scope["path"] in COUNTED else "other"
                self.state.engine.metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        try:
            self.check(request)
        except Refusal as refusal:
            await error_response(refusal)(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def check(self, request: Request) -> None:
        """Raise Refusal for a request that may not come in."""
        limits = self.state.limits
        host = request.headers.get("host", "")
        if limits.hosts is not None and without_port(host) not in limits.hosts:
            advice = "name it with --hosts=..., if it is a name of this server"
            raise Refusal(f"the Host header is {host[:100]!r}; {advice}", code="unknown_host", status=403)

        origin = request.headers.get("origin")
        if origin is not None and not self.is_own(origin, host):
            message = f"pages of {origin[:100]} may not ask here; start the server with --cors={origin[:100]}"
            raise Refusal(message, code="unknown_origin", status=403)

        is_preflight = request.method == "OPTIONS" and bool(limits.origins)
        if limits.api_key is None or request.url.path in OPEN_PATHS or is_preflight:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(key.strip().encode(), limits.api_key.encode())
        if scheme.lower() != "bearer" or not same:
            headers = {"WWW-Authenticate": "Bearer"}
            message = "a wrong API key, or none; send the header 'Authorization: Bearer KEY'"
            raise Refusal(message, code="invalid_api_key", status=401, headers=headers)

    def is_own(self, origin: str, host: str) -> bool:
        """Whether pages of this origin may ask: the server's own page, and those of --cors."""
        allowed = self.state.limits.origins
        return urlsplit(origin).netloc == host or "*" in allowed or origin in allowed


def without_port(host: str) -> str:
    """localhost of localhost:8000, and [::1] of [::1]:8000."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


# --- bodies ---


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a POST. Raises Refusal for one that is no JSON, too large, or does not come."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        message = f"the content type is {content_type[:60]!r}; it must be application/json"
        raise Refusal(message, code="unsupported_media_type", status=415)

    too_large = Refusal(f"the body has more than {limits.max_body_bytes} bytes", code="body_too_large", status=413)
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated[:20]) > limits.max_body_bytes:
        raise too_large

    body = bytearray()
    chunks = request.stream()
    while True:
        try:
            async with asyncio.timeout(limits.patience_s):
                chunk = await anext(chunks, None)
        except TimeoutError:
            message = f"the body did not come within {limits.patience_s:g} s"
            raise Refusal(message, code="timeout", status=408, headers={"Connection": "close"}) from None
        if chunk is None:
            return bytes(body)
        body += chunk
        if len(body) > limits.max_body_bytes:
            raise too_large


async def read_wanted(request: Request, read: Callable[[bytes, Served], Wanted], state: State) -> Wanted:
    """What the body asks for, found in the reader's thread."""
    data = await read_body(request, state.limits)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(state.reader, read, data, state.served)


# --- answers ---


class Job:
    """The answers to one request: what was handed to the engine, and the events that come back."""

    def __init__(self, wanted: Wanted, state: State):
        loop = asyncio.get_running_loop()
        self.inbox: asyncio.Queue[tuple[int, Piece | End | Failure | None]] = asyncio.Queue()
        self.choices = [Choice(index) for index in range(len(wanted.prompts) * wanted.n)]
        self.requests = []
        for index in range(len(self.choices)):
            # n answers to the first prompt, then n to the second
            self.requests.append(
                EngineRequest(
                    prompt=wanted.prompts[index // wanted.n],
                    max_new_tokens=wanted.max_new_tokens,
                    deliver=self._deliver_to(index, loop),
                    drawing=wanted.drawing,
                    seed=wanted.seed_of(index),
                    stop_ids=wanted.stop_ids,
                    stops=wanted.stops,
                    frequency_penalty=wanted.frequency_penalty,
                    presence_penalty=wanted.presence_penalty,
                    logit_bias=wanted.logit_bias,
                    top_logprobs=wanted.top_logprobs,
                )
            )
        self.metrics = state.engine.metrics
        try:
            state.engine.submit(self.requests)
        except QueueFull:
            raise unavailable("the server is being stopped" if state.engine.closing else "the queue is full") from None

    def _deliver_to(self, index: int, loop: asyncio.AbstractEventLoop) -> Callable[[Piece | End | Failure], None]:
        def deliver(found: Piece | End | Failure) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.inbox.put_nowait, (index, found))

        return deliver

    def leave(self) -> None:
        """Nobody waits any more: the rows become free."""
        for request in self.requests:
            request.gone = True

    async def watch(self, receive: Receive) -> None:
        """Tell the inbox when the client has left."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.inbox.put_nowait((0, None))

    async def events(self, receive: Receive) -> AsyncIterator[tuple[Choice, Piece | End | Failure] | None]:
        """All events until the last answer has ended; None where nothing came for a while.

        Raises ClientDisconnect when the client has left.
        """
        watcher = asyncio.create_task(self.watch(receive))
        try:
            while not all(choice.end for choice in self.choices):
                try:
                    async with asyncio.timeout(COMMENT_EVERY_S):
                        index, found = await self.inbox.get()
                except TimeoutError:
                    yield None
                    continue
                if found is None:
                    self.metrics.gone.inc()
                    raise ClientDisconnect
                choice = self.choices[index]
                if isinstance(found, End):
                    choice.end = found
                yield choice, found
        finally:
            watcher.cancel()
            self.leave()


def unavailable(message: str) -> Refusal:
    """The answer of a server that has no room."""
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    return Refusal(f"{message}; try again later", code="overloaded", status=503, headers=headers)


def failed(failure: Failure) -> Refusal:
    """The answer where the engine could not write one."""
    return unavailable(failure.message) if failure.closing else Refusal(failure.message, status=500)


async def answer(request: Request, wanted: Wanted, shape: Shape, state: State) -> Response:
    """The response to a request that was read: whole, or a stream."""
    job = Job(wanted, state)
    if wanted.stream:
        return Stream(job, wanted, shape, state.limits.patience_s)

    events = job.events(request.receive)
    async for found in events:
        if found is None:
            continue
        choice, what = found
        if isinstance(what, Failure):
            await events.aclose()
            raise failed(what)
        if isinstance(what, Piece):
            choice.text += what.text
            choice.logprobs += what.logprobs
    return JSONResponse(shape.whole(job.choices, usage_of(wanted.prompts, job.choices)))


class Stream(Response):
    """Server-sent events, one for each piece of text; they end with [DONE]."""

    media_type = "text/event-stream"

    def __init__(self, job: Job, wanted: Wanted, shape: Shape, patience_s: float):
        self.job = job
        self.wanted = wanted
        self.shape = shape
        self.patience_s = patience_s
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})  # a proxy must not collect it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. A client that does not read for too long is as good as gone."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        chunks = self.chunks(receive)
        try:
            async for chunk in chunks:
                async with asyncio.timeout(self.patience_s):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except ClientDisconnect:
            pass
        except TimeoutError:
            self.job.metrics.gone.inc()
        finally:
            await chunks.aclose()
            self.job.leave()

    async def chunks(self, receive: Receive) -> AsyncIterator[bytes]:
        """The events, as bytes."""
        shape = self.shape
        if shape.is_chat:
            for choice in self.job.choices:
                yield event(shape.first(choice.index))

        async for found in self.job.events(receive):
            if found is None:
                yield STILL_THERE
                continue
            choice, what = found
            if isinstance(what, Failure):
                yield event(error_object(what.message, "server_error"))
                return
            if isinstance(what, Piece):
                yield event(shape.piece(choice, what.text, what.logprobs))
            else:
                yield event(shape.last(choice))

        if self.wanted.include_usage:
            yield event(shape.usage(usage_of(self.wanted.prompts, self.job.choices)))
        yield DONE


# --- routes ---


def model_object(state: State) -> Body:
    """The one model: what OpenAI's API says of one, and what the page wants to know."""
    served = state.served
    return {
        "id": served.name,
        "object": "model",
        "created": state.created,
        "owned_by": "nonllama",
        "context": served.context,
        "max_new_tokens": served.max_new_tokens,
        "chat": served.template is not None,
    }


def make_app(state: State) -> Starlette:
    """The application: all paths, behind the door."""
    page = Path(__file__).parent / "page"
    contents = {path: (page / name).read_bytes() for path, (name, _) in PAGE_FILES.items()}

    async def show_page(request: Request) -> Response:
        path = request.url.path
        headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
        return Response(contents[path], media_type=PAGE_FILES[path][1], headers=headers)

    async def health(request: Request) -> Response:
        alive = state.engine.is_alive
        status = "closing" if state.engine.closing else "ok" if alive else "dead"
        return JSONResponse({"status": status}, 200 if status == "ok" else 503)

    async def metrics(request: Request) -> Response:
        return Response(state.engine.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model_object(state)]})

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        if name != state.served.name:
            message = f"no model {name[:100]!r} here; this is {state.served.name!r}"
            raise Refusal(message, "model", "model_not_found", 404)
        return JSONResponse(model_object(state))

    async def chat(request: Request) -> Response:
        wanted = await read_wanted(request, read_chat, state)
        shape = Shape(state.served.tokenizer, state.served.name, True, wanted.top_logprobs is not None)
        return await answer(request, wanted, shape, state)

    async def completion(request: Request) -> Response:
        wanted = await read_wanted(request, read_completion, state)
        shape = Shape(state.served.tokenizer, state.served.name, False, wanted.top_logprobs is not None)
        return await answer(request, wanted, shape, state)

    routes = [
        *[Route(path, show_page) for path in PAGE_FILES],
        Route("/health", health),
        Route("/metrics", metrics),
        Route("/v1/models", models),
        Route("/v1/models/{name}", one_model),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completion, methods=["POST"]),
    ]
    door = Middleware(Door, state=state)
    cors = cors_middleware(state.limits.origins)
    errors: dict[Any, Any] = {Refusal: on_refusal, HTTPException: on_http_error, Exception: on_defect}
    errors[ClientDisconnect] = on_disconnect
    return Starlette(routes=routes, middleware=[door, *cors], exception_handlers=errors)


COUNTED = {*PAGE_FILES, "/health", "/metrics", "/v1/models", "/v1/chat/completions", "/v1/completions"}


async def on_disconnect(request: Request, error: Exception) -> Response:
    """Nobody reads this; 499 is what nginx logs for a client that has left."""
    return Response(status_code=499)


def cors_middleware(origins: Sequence[str]) -> list[Middleware]:
    """Lets pages of these origins read the answers."""
    if not origins:
        return []
    options = {"allow_methods": ["GET", "POST"], "allow_headers": ["Authorization", "Content-Type"]}
    return [Middleware(CORSMiddleware, allow_origins=list(origins), **options)]
