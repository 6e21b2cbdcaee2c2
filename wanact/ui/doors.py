"""What comes in and goes out over HTTP, before Gradio sees it and after: an ASGI middleware.

In: the routes that the page and programs need and no other of Gradio's; bodies of bounded size, JSON as such and of the
expected shape; nothing that a page of somebody else has sent. Out: headers that keep the page from running, loading and
being framed by what is not its own, and no path of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, quote, urlsplit

from gradio.route_utils import get_root_url
from httpx import InvalidURL
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wanact.errors import UserError
from wanact.files import parse_foreign
from wanact.ui import cache
from wanact.ui.edits import QUERY, Edits
from wanact.ui.places import ADDRESS_SHARE
from wanact.ui.previews import Preview
from wanact.ui.shares import QUERY as SHARED
from wanact.ui.uploads import MAX_FILE_BYTES, MAX_FILES

API = "/gradio_api"
MB = 2**20
MAX_JSON_BYTES = 12 * MB  # a flight with its first frame; a message of a page has some hundred bytes
MAX_SMALL_BYTES = 2**16
MAX_UPLOAD_BYTES = MAX_FILES * MAX_FILE_BYTES + MB
MAX_HELD_BYTES = 96 * MB  # of all bodies that are being received
MAX_CALLS = 16  # server functions that work for one address at once, of 64 threads; each of its others waits for one
MAX_VALUES = 400_000  # in one body: the longest track that is read has 160,000
_BODY_S = 60.0
_MAX_ADDRESS = 8_192
_LARGE = 2**16  # more is parsed beside the event loop

logger = logging.getLogger(__name__)

_SESSION = r"[A-Za-z0-9_-]{1,64}"
_PAGE = re.compile(r"/")
_READ = re.compile(
    r"/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon|"
    r"/data/\d{1,4}/[0-9a-f]{16}/(?:thumb|sheet)\.jpg|"
    r"/preview\.jpg|/shared/[A-Za-z0-9_-]{16}/(?:clip\.mp4|poster\.jpg)|"
    r"/(?:assets|static|svelte|modules)/[A-Za-z0-9._/@+-]{1,200}|"
    rf"{API}/(?:info/?|app_id/?|theme\.css|startup-events|queue/status|upload_progress)"
)
_FILE = re.compile(rf"{API}/file=(.*)", re.DOTALL)
_HEARTBEAT = re.compile(rf"{API}/heartbeat/({_SESSION})")
_LISTEN = re.compile(rf"{API}/queue/data")
_COLLECT = re.compile(rf"{API}/call/[\w-]{{1,64}}/({_SESSION})")
_CALL = re.compile(rf"{API}/call/([\w-]{{1,64}})/?")
_RUN = re.compile(rf"{API}/(?:run|api)/([\w-]{{1,64}})/?")
_UPLOAD = re.compile(rf"{API}/upload")

_Id = Annotated[str, Field(pattern=rf"^{_SESSION}$")]
_Number = Annotated[int, Field(ge=0, le=2**31)]


class _Join(BaseModel):
    data: list[Any]
    session_hash: _Id
    fn_index: _Number
    trigger_id: _Number | None = None
    batched: Literal[False] | None = None


class _Simple(BaseModel):
    data: list[Any]
    session_hash: _Id | None = None


class _Run(_Simple):
    fn_index: _Number | None = None
    trigger_id: _Number | None = None
    batched: Literal[False] | None = None


class _Tell(BaseModel):
    component_id: _Number
    fn_name: Annotated[str, Field(max_length=64)]
    session_hash: _Id
    data: Any


class _Cancel(BaseModel):
    session_hash: _Id
    fn_index: _Number
    event_id: _Id


class _Reset(BaseModel):
    event_id: _Id


# Where JSON is posted: address, shape, and the most bytes.
_POSTS: list[tuple[re.Pattern[str], type[BaseModel], int]] = [
    (re.compile(rf"{API}/queue/join"), _Join, MAX_JSON_BYTES),
    (_CALL, _Simple, MAX_JSON_BYTES),
    (_RUN, _Run, MAX_SMALL_BYTES),
    (re.compile(rf"{API}/component_server/?"), _Tell, MAX_JSON_BYTES),
    (re.compile(rf"{API}/cancel"), _Cancel, MAX_SMALL_BYTES),
    (re.compile(rf"{API}/reset/?"), _Reset, MAX_SMALL_BYTES),
]

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")
_ORIGIN = re.compile(r"https?://(?:\*\.)?[A-Za-z0-9.-]+(?::\d{1,5})?")
_RANGE = re.compile(r"bytes=(?:\d{1,15}-\d{0,15}|-\d{1,15})")
_FORWARDED = (b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server")


def check_origins(origins: Sequence[str]) -> list[str]:
    """Origins as a browser writes them, for `Doors`.

    Raises:
        UserError: if one is no origin.
    """
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise UserError(f"{origin[:80]!r} is no origin of a page, expected https://example.com or *")
    return list(origins)


class _Refused(UserError):
    """A request that goes no further."""

    def __init__(self, status: int, words: str):
        super().__init__(words)
        self.status, self.words = status, words


class Doors:
    """The middleware.

    Args:
        app: Gradio's.
        edits: whose token may be exchanged for a cookie here.
        embedded_in: origins whose pages may show this one in a frame, beside its own; "*" is any.
    """

    def __init__(self, app: ASGIApp, edits: Edits, embedded_in: Sequence[str] = ()):
        self.app, self.edits = app, edits
        self.frames = " ".join(["'self'", *embedded_in]) if "*" not in embedded_in else "*"
        self._held_bytes: Counter[str] = Counter()  # by address
        self._calls, self._large = _Turns(MAX_CALLS), _Turns(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        out = _Out(scope, send, self.frames)
        try:
            await self._let_in(_without_foreign_headers(scope), receive, out)
        except _Refused as refused:
            await JSONResponse({"detail": refused.words}, refused.status)(scope, receive, out.send)
        except ClientDisconnect:
            pass

    async def _let_in(self, scope: Scope, receive: Receive, out: _Out) -> None:
        method, path, headers = scope["method"], _route(scope), Headers(scope=scope)
        if len(path) + len(scope["query_string"]) > _MAX_ADDRESS:
            raise _Refused(414, "The address is too long.")
        if not _HOST.fullmatch(headers.get("host", "")):
            raise _Refused(400, "The Host of the request is none.")
        _check_origin(scope, headers)
        if method == "POST":
            await self._post(scope, receive, out)
        elif method in ("GET", "HEAD"):
            await self._get(scope, receive, out)
        else:
            raise _Refused(405, "Nothing is changed in this way.")

    # ---- reading ---------------------------------------------------------------------------------------------

    async def _get(self, scope: Scope, receive: Receive, out: _Out) -> None:
        path, query = _route(scope), parse_qs(scope["query_string"].decode("latin-1"))
        if _PAGE.fullmatch(path) and QUERY in query:
            await self._let_edit(scope, receive, out, query[QUERY][0])
        elif _PAGE.fullmatch(path):
            out.preview = await run_in_threadpool(_preview, scope.get("app"), query.get(SHARED, [""])[0])
            out.root = _root_of(scope)
            await self.app(scope, receive, out.send)
        elif _READ.fullmatch(path):
            await self.app(scope, receive, out.send)
        elif file := _FILE.fullmatch(path):
            out.is_file = True
            await self.app(_with_route(scope, f"{API}/file={_cached(file[1])}"), receive, out.send)
        elif beat := _HEARTBEAT.fullmatch(path):
            with scope["app"].state_holder.connected(beat[1]):
                await self.app(scope, receive, out.send)
        elif _LISTEN.fullmatch(path):
            await self._listen(query.get("session_hash", [""])[0], scope, receive, out)
        elif collect := _COLLECT.fullmatch(path):
            events = scope["app"].get_blocks()._queue.event_ids_to_events
            event = events.get(collect[1])
            await self._listen(collect[1] if event is None else event.session_hash, scope, receive, out)
        else:
            raise _Refused(404, "There is nothing at this address.")

    async def _listen(self, session: str, scope: Scope, receive: Receive, out: _Out) -> None:
        sessions = scope["app"].state_holder
        session = sessions.session_of(session)
        if not sessions.is_known(session):
            raise _Refused(404, "There is no such session, or not any more; reload the page.")
        with sessions.connected(session):
            try:
                await self.app(scope, receive, out.send)
            except KeyError:
                # Of two streams of a session that end together, Gradio looks for the session once too often.
                logger.info("a stream of a session that was gone")

    async def _let_edit(self, scope: Scope, receive: Receive, out: _Out, token: str) -> None:
        """Exchange the token for a cookie, so that no address that somebody copies carries it."""
        answer = Response(status_code=303, headers={"Location": "?", "Cache-Control": "no-store"})
        if self.edits.holds(token):
            secure = scope["scheme"] == "https" or Headers(scope=scope).get("x-forwarded-proto") == "https"
            answer.set_cookie(
                self.edits.cookie, token, max_age=30 * 86_400, httponly=True, samesite="strict", secure=secure
            )
        await answer(scope, receive, out.send)

    # ---- writing ---------------------------------------------------------------------------------------------

    async def _post(self, scope: Scope, receive: Receive, out: _Out) -> None:
        path, headers = _route(scope), Headers(scope=scope)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if _UPLOAD.fullmatch(path):
            if kind != "multipart/form-data":
                raise _Refused(415, "Files are uploaded as multipart/form-data.")
            await self._upload(scope, receive, out)
            return
        post = next((one for one in _POSTS if one[0].fullmatch(path)), None)
        if post is None:
            raise _Refused(404, "There is nothing at this address.")
        if kind != "application/json":
            raise _Refused(415, "This takes application/json.")
        _, model, limit = post
        address = _address(scope)
        with _Hold(self._held_bytes, address) as hold:
            body = await _read(receive, headers, limit, hold)
            is_large = len(body) > _LARGE
            # Reading and answering these takes seconds of the interpreter, which all visitors share.
            async with self._large.one(address) if is_large else contextlib.nullcontext():
                content = await run_in_threadpool(_checked, body, model) if is_large else _checked(body, model)
                _check_target(scope["app"].get_blocks(), content, path)
                if (session := getattr(content, "session_hash", None)) is not None:
                    scope["app"].state_holder.touch(session)
                # What passes the queue has its places here.
                async with self._calls.one(address) if model is _Tell else contextlib.nullcontext():
                    await self.app(scope, _again(body, receive), out.send)

    async def _upload(self, scope: Scope, receive: Receive, out: _Out) -> None:
        if _length(Headers(scope=scope)) > MAX_UPLOAD_BYTES:
            raise _Refused(413, _too_much(MAX_UPLOAD_BYTES))
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_UPLOAD_BYTES:
                raise _Refused(413, _too_much(MAX_UPLOAD_BYTES))
            return message

        try:
            await self.app(scope, counted, out.send)
        except (_Refused, ClientDisconnect, OSError):
            raise
        except Exception as error:  # its parser raises anything on a body that is no form
            logger.info("an upload was refused: %s", type(error).__name__)
            raise _Refused(400, "The upload is no form that can be read.") from error


class _Hold:
    """Bytes of a body while they are held; given back at the end.

    Args:
        held: of all bodies, by address. One address may hold three quarters of what there is.
        address: whose body it is.
    """

    def __init__(self, held: Counter[str], address: str):
        self._held, self._address, self._num = held, address, 0

    def add(self, num: int) -> None:
        self._num += num
        self._held[self._address] += num
        is_much = self._held.total() > MAX_HELD_BYTES or self._held[self._address] > ADDRESS_SHARE * MAX_HELD_BYTES
        if self._num > _LARGE and is_much:
            raise _Refused(503, "Too much is being sent at once; try again in a moment.")

    def __enter__(self) -> _Hold:
        return self

    def __exit__(self, *_: Any) -> None:
        self._held[self._address] -= self._num
        if self._held[self._address] <= 0:
            del self._held[self._address]


class _Turns:
    """So much at once for one address; the rest of it waits, and nobody else.

    Args:
        most: how much.
    """

    def __init__(self, most: int):
        self._most = most
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._asking: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def one(self, address: str) -> AsyncIterator[None]:
        """A turn of an address, as soon as there is one."""
        turns = self._turns.setdefault(address, asyncio.Semaphore(self._most))
        self._asking[address] += 1
        try:
            async with turns:
                yield
        finally:
            self._asking[address] -= 1
            if not self._asking[address]:
                del self._turns[address], self._asking[address]


def _address(scope: Scope) -> str:
    """Where a request comes from, as far as the server knows."""
    return (scope.get("client") or ("",))[0]


def _without_foreign_headers(scope: Scope) -> Scope:
    """A proxy's word counts where the other end may be a proxy, and only if it can be one; else what is asked for."""
    try:
        from_near = ip_address(_address(scope)).is_private
    except ValueError:
        from_near = True  # a socket file
    kept = []
    for name, value in scope["headers"]:
        text = value.decode("latin-1")
        if name in _FORWARDED:
            if not from_near or name == b"x-gradio-server":
                continue
            first = text.partition(",")[0].strip()
            if not (_HOST.fullmatch(first) if name == b"x-forwarded-host" else first in ("http", "https")):
                continue
        if name == b"range" and not _RANGE.fullmatch(text.strip()):
            continue
        kept.append((name, value))
    return dict(scope, headers=kept)


def _check_origin(scope: Scope, headers: Headers) -> None:
    """Refuse what a page of somebody else sends: a browser says so, in one way or the other; a program is no browser.

    Raises:
        _Refused: if it is.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if scope["method"] != "POST" and origin is None:
        return
    if site is not None:
        is_own = site in ("same-origin", "none")
    elif origin is None:
        is_own = True
    else:
        host = headers["host"].lower()
        try:
            parts = urlsplit(origin.lower())
            is_own = parts.netloc == host or (":" not in host and parts.hostname == host)
        except ValueError:
            is_own = False
    if not is_own:
        raise _Refused(403, "This was sent by another page than this one; behind a proxy, the proxy passes Host on.")


def _cached(name: str) -> str:
    try:
        return str(cache.find(name))
    except cache.NoFileError as error:
        raise _Refused(403, str(error)) from None


def _route(scope: Scope) -> str:
    """The path below the one that the page is served under, which some proxies take away and some leave."""
    path, root = scope["path"], scope.get("root_path") or ""
    return path.removeprefix(root) or "/" if path == root or path.startswith(f"{root}/") else path


def _with_route(scope: Scope, route: str) -> Scope:
    return dict(scope, path=route, raw_path=quote(route).encode())


def _length(headers: Headers) -> int:
    declared = headers.get("content-length", "0")
    return int(declared) if declared.isascii() and declared.isdigit() and len(declared) < 16 else 0


def _too_much(limit: int) -> str:
    return f"This is too much: the maximum allowed size is {limit / MB:.0f} MB."


async def _read(receive: Receive, headers: Headers, limit: int, hold: _Hold) -> bytes:
    """The body, up to a limit.

    Raises:
        _Refused: if it is larger or does not come.
    """
    words = _too_much(limit) if limit >= MB else "This is too much for a message of this kind."
    if _length(headers) > limit:
        raise _Refused(413, words)
    parts: list[bytes] = []
    received, more, end = 0, True, time.monotonic() + _BODY_S
    while more:
        try:
            message = await asyncio.wait_for(receive(), end - time.monotonic())
        except asyncio.TimeoutError:
            raise _Refused(408, "The rest of the message did not come.") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        received += len(part)
        hold.add(len(part))
        if received > limit:
            raise _Refused(413, words)
        parts.append(part)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Receives the body once more, and then what comes after it."""
    is_sent = False

    async def receive_again() -> Message:
        nonlocal is_sent
        if is_sent:
            return await receive()
        is_sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _checked(body: bytes, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate(parse_foreign(body, MAX_VALUES, strict=True), strict=True)
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"])) or "body"
        raise _Refused(400, f"The message is not of the expected shape: see its {where[:60]}.") from None
    except ValueError as error:
        words = "it is no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
        raise _Refused(400, f"The message cannot be read: {words}.") from None


def _check_target(blocks: Any, content: BaseModel, path: str) -> None:
    """Refuse what is for nobody: an event, an endpoint or a function that the page has not.

    Raises:
        _Refused: if it is.
    """
    nobody = _Refused(404, "There is no such function.")
    if isinstance(content, _Tell):
        component = blocks.blocks.get(content.component_id)
        function = getattr(component, content.fn_name, None) if content.fn_name.isidentifier() else None
        if not getattr(function, "_is_server_fn", False):
            raise nobody
    elif isinstance(content, _Join):
        if content.fn_index not in blocks.fns:
            raise nobody
    elif isinstance(content, _Run):
        named = [fn for fn in blocks.fns.values() if fn.api_name == (_RUN.fullmatch(path) or "??")[1]]
        wanted = blocks.fns.get(content.fn_index) if content.fn_index is not None else next(iter(named), None)
        if wanted is None or wanted.queue:
            raise nobody
    elif isinstance(content, _Simple):
        name = (_CALL.fullmatch(path) or "??")[1]
        if not any(fn.api_name == name and fn.api_visibility == "public" for fn in blocks.fns.values()):
            raise nobody


def _root_of(scope: Scope) -> str:
    """The page's address as its visitors see it."""
    try:
        return get_root_url(Request(scope), "/", getattr(scope.get("app"), "root_path", None))
    except InvalidURL:  # a port that is none
        raise _Refused(400, "The Host of the request is none.") from None


def _preview(app: Any, shared: str) -> Preview:
    """What a link to the page shows, or to a flight that is shared."""
    shares = getattr(app.get_blocks(), "shares", None) if shared and app else None
    if shares is None:
        return Preview()
    try:
        return Preview.of(shares.find(shared))
    except UserError:
        return Preview()


class _Out:
    """What goes back: with headers, and without paths."""

    _TEXT = ("text/html", "application/json", "text/event-stream", "text/plain", "application/manifest+json")

    def __init__(self, scope: Scope, send: Send, frames: str):
        self._send, self._frames = send, frames
        self._is_head = scope["method"] == "HEAD"
        self._start: Message | None = None
        self._body: list[bytes] = []
        self._kind = ""
        self._nonce = secrets.token_urlsafe(16)
        self._folder = cache.folder().encode()
        self.is_file = False
        self.preview: Preview | None = None  # of the page, for sites that show links
        self.root = ""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message)
            if self._is_whole:
                self._start = message  # its length is known at the end
            else:
                await self._send(message)
        elif message["type"] == "http.response.body" and self._is_whole:
            self._body.append(message.get("body", b""))
            if not message.get("more_body", False):
                await self._end()
        elif message["type"] == "http.response.body" and self._kind == "text/event-stream":
            await self._send(dict(message, body=self._plain(message.get("body", b""))))
        else:
            await self._send(message)

    @property
    def _is_whole(self) -> bool:
        return not self.is_file and self._kind in self._TEXT and self._kind != "text/event-stream"

    def _begin(self, message: Message) -> None:
        message.setdefault("headers", [])
        headers = MutableHeaders(scope=message)
        self._kind = headers.get("content-type", "").partition(";")[0]
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "same-origin"
        headers["Cross-Origin-Resource-Policy"] = "same-origin"
        headers["Content-Security-Policy"] = self._policy()

    def _policy(self) -> str:
        """What the page may run and load. Gradio makes functions of strings, and writes styles into elements."""
        if self._kind != "text/html" or self.is_file:
            media = "img-src 'self' data:; media-src 'self' blob:; style-src 'unsafe-inline'"
            return f"default-src 'none'; {media}; frame-ancestors {self._frames}; sandbox"
        return "; ".join(
            (
                "default-src 'self'",
                f"script-src 'self' 'nonce-{self._nonce}' 'unsafe-eval'",
                "style-src 'self' 'unsafe-inline'",
                "img-src 'self' data: blob:",
                "media-src 'self' data: blob:",
                "font-src 'self' data:",
                "connect-src 'self' data: blob:",
                "worker-src 'self' blob:",
                "object-src 'none'",
                "base-uri 'self'",
                "form-action 'self'",
                f"frame-ancestors {self._frames}",
            )
        )

    async def _end(self) -> None:
        assert self._start is not None, "a body comes after its start"
        body, headers = self._plain(b"".join(self._body)), MutableHeaders(scope=self._start)
        if self._kind == "text/html":
            if self.preview is not None:
                body = self.preview.put_into(body, self.root)
            # Strings in Gradio's settings have no "<" of their own, so that these are the page's scripts.
            body = re.sub(rb"<script\b", b'<script nonce="%s"' % self._nonce.encode(), body)
        if self._start["status"] == 422:
            body = json.dumps({"detail": "The message is not of the expected shape."}).encode()
        if not self._is_head and "content-length" in headers:
            headers["Content-Length"] = str(len(body))
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": body})

    def _plain(self, body: bytes) -> bytes:
        return body.replace(self._folder, cache.ALIAS.encode())
