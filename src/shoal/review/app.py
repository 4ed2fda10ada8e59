"""The local server of a review, as a Starlette application.

It answers on 127.0.0.1 to who opens the address with the token, and serves the page and the images of one result.
Every request needs the cookie that the token was exchanged for; a request that changes something must come from the
page itself, which a header says that other pages cannot send.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from shoal.errors import UserError
from shoal.features.text import reads_text
from shoal.progress import counted
from shoal.report.contents import map_coordinates
from shoal.results.naming import search_text
from shoal.review.desk import Desk
from shoal.review.guard import COOKIE, KEY, MOST_BYTES, Guard, Refused
from shoal.review.page import page
from shoal.review.session import Session

MOST_THUMBS = 200
MOST_IDS = 1000
MOST_FOUND = 100_000
COLUMNS = ("label", "confidence", "place", "date", "fixed", "folder")

Handler = Callable[[Request], Awaitable[Response]]


def create_app(desk: Desk, token: str, port: int) -> Starlette:
    """The application for a review; ``token`` lets in, on ``port``."""
    api = Api(desk, token, COOKIE.format(port=port))
    routes = [
        Route("/", api.page),
        Route("/favicon.ico", api.icon),
        Route("/thumb/{row:int}", api.thumb),
        Route("/image/{row:int}", api.image),
        *(Route(f"/api/{name}", handler) for name, handler in api.reading().items()),
        *(Route(f"/api/{name}", handler, methods=["POST"]) for name, handler in api.deciding().items()),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, port=port)],
        exception_handlers={
            UserError: _as_json(400),
            Refused: _as_json(None),
            404: _nothing,
            405: _nothing,
            Exception: _broken,
        },
        lifespan=api.lifespan,
    )
    app.state.stopping = api.stopping
    return app


def _as_json(status: int | None) -> Callable[[Request, Exception], Response]:
    def handle(_request: Request, error: Exception) -> Response:
        if isinstance(error, Refused):
            return JSONResponse({"error": f"{error.why}."}, error.status)
        return JSONResponse({"error": str(error)}, status or 400)

    return handle


def _nothing(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "there is nothing at this address."}, 404)


def _broken(_request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"something went wrong ({type(error).__name__}): the terminal says more."}, 500)


class Api:
    """What the page asks of a session."""

    def __init__(self, desk: Desk, token: str, cookie: str) -> None:
        self.desk = desk
        self.token = token
        self.cookie = cookie
        self.stopping = asyncio.Event()

    @property
    def session(self) -> Session:
        """The one that the page shows."""
        return self.desk.session

    def reading(self) -> dict[str, Handler]:
        """What is only looked at, by its path."""
        return {
            "state": self.state,
            "column/{name}": self.column,
            "ids": self.ids,
            "thumbs": self.thumbs,
            "about/{row:int}": self.about,
            "search": self.search,
            "find": self.find,
            "names": self.names,
            "duplicates": self.duplicates,
            "questions": self.questions,
            "events": self.events,
        }

    def deciding(self) -> dict[str, Handler]:
        """What takes a body, by its path."""
        return {
            "decide": self.decide,
            "split": self.split,
            "more": self.more,
            "learn": self.learn,
            "accept": self.accept,
            "layer": self.layer,
        }

    @contextlib.asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        """Keep the tables up with the decisions, and write all when it ends."""
        ended = threading.Event()

        def write() -> None:
            while not ended.wait(1):
                with contextlib.suppress(UserError):  # it is said when the review is closed
                    self.desk.write_if_idle()

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        # What the page asks for first.
        threading.Thread(target=lambda: self.session.facts.folders, daemon=True).start()
        yield
        self.stopping.set()
        ended.set()
        await run_in_threadpool(writer.join)

    async def page(self, request: Request) -> Response:
        """The page, or a cookie for the token."""
        if "token" in request.query_params:
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict")
            return answer
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' blob:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        text = await run_in_threadpool(page, self.session, nonce)
        return Response(
            text, media_type="text/html", headers={"content-security-policy": policy, "cache-control": "no-store"}
        )

    async def icon(self, _request: Request) -> Response:
        """None: browsers ask for one, and a 404 would look like a fault."""
        return Response(status_code=204)

    async def state(self, _request: Request) -> Response:
        """Clusters and counts."""

        def found() -> dict[str, Any]:
            facts = self.session.facts
            folders, _ = facts.folders
            mapped = self.session.result.assignments.positions is not None
            encoder = self.session.result.encoder
            has = {"map": mapped, "words": reads_text(encoder), "names": encoder is not None, "dates": True}
            has["duplicates"] = self.session.result.folder.duplicates.exists()
            return {**self.session.state(), "has": has, "folders": folders}

        return _json(await run_in_threadpool(found))

    async def column(self, request: Request) -> Response:
        """A value of every image."""
        name = request.path_params["name"]
        if name not in COLUMNS:
            raise Refused(404, "there is no such column")
        return Response(await run_in_threadpool(self._column, name), media_type="application/octet-stream")

    def _column(self, name: str) -> bytes:
        session = self.session
        with session.lock:
            if name == "label":
                return session.now.labels.astype("<i4").tobytes()
            if name == "fixed":
                return session.now.fixed.astype("u1").tobytes()
            if name == "confidence":
                return session.confidence.numpy().astype("<f4").tobytes()
        if name == "place":
            positions = session.result.assignments.positions
            assert positions is not None
            return map_coordinates(positions).astype("<u2").tobytes()
        if name == "folder":
            return session.facts.folders[1].astype("<i4").tobytes()
        return session.facts.dates.astype("<i4").tobytes()

    async def ids(self, request: Request) -> Response:
        """Names of some images."""
        return _json([self.session.ids[row] for row in self._rows(request, MOST_IDS)])

    async def thumb(self, request: Request) -> Response:
        """A thumbnail."""
        row = self._row(request)
        (image,) = await run_in_threadpool(self.session.facts.thumbs, [row])
        if not image:
            raise Refused(404, "the image is gone, has changed or cannot be read")
        return Response(image, media_type="image/webp", headers={"cache-control": "private, max-age=3600"})

    async def thumbs(self, request: Request) -> Response:
        """Thumbnails one after the other, each behind its length."""
        rows = self._rows(request, MOST_THUMBS)
        images = await run_in_threadpool(self.session.facts.thumbs, rows)
        body = b"".join(len(image).to_bytes(4, "little") + image for image in images)
        return Response(body, media_type="application/octet-stream", headers={"cache-control": "private, max-age=3600"})

    async def image(self, request: Request) -> Response:
        """An image at full size."""
        found = await run_in_threadpool(self.session.facts.full, self._row(request))
        if found is None:
            raise Refused(404, "the image is gone, has changed or cannot be read")
        content, kind = found
        headers = {"content-security-policy": "default-src 'none'; sandbox", "cache-control": "private, max-age=3600"}
        return Response(content, media_type=kind, headers=headers)

    async def about(self, request: Request) -> Response:
        """What is known of an image."""
        return _json(await run_in_threadpool(self.session.about, self._row(request)))

    async def search(self, request: Request) -> Response:
        """Rows by text, folder and day."""
        asked = [request.query_params.get(name, "")[:1000] for name in ("text", "folder", "from", "to")]
        found = await run_in_threadpool(self.session.facts.search, *asked)
        return Response(found.astype("<i4").tobytes(), media_type="application/octet-stream")

    async def find(self, request: Request) -> Response:
        """Images by what is on them."""
        text = request.query_params.get("text", "")[:1000]
        n = _whole(request.query_params.get("n", "200"), 1, MOST_FOUND)
        rows, cosines = await run_in_threadpool(search_text, self.session.result, text, n)
        return _json({"rows": rows.tolist(), "similarity": [round(each, 4) for each in cosines.tolist()]})

    async def names(self, _request: Request) -> Response:
        """Names that suggest themselves; none where the network knows none."""
        return _json(await run_in_threadpool(self.session.names))

    async def duplicates(self, _request: Request) -> Response:
        """Groups of near-duplicates."""
        return _json(await run_in_threadpool(self.session.facts.duplicates))

    async def questions(self, request: Request) -> Response:
        """The next questions."""
        n = _whole(request.query_params.get("n", "10"), 1, 100)
        skipped = self._rows(request, MOST_IDS, name="skipped")
        return _json(await run_in_threadpool(self.session.questions, n, skipped))

    async def decide(self, request: Request) -> Response:
        """Take decisions."""
        asked = await self._asked(request)
        key, decisions = asked.get("key"), asked.get("decisions")
        if not isinstance(key, str) or not 8 <= len(key) <= 100 or not isinstance(decisions, list):
            raise Refused(400, "decisions come as a list, with a key")
        return _json(await run_in_threadpool(self.session.decide, key, decisions))

    async def split(self, request: Request) -> Response:
        """Parts of a cluster, to look at."""
        asked = await self._asked(request)
        n = asked.get("n")
        cluster = asked.get("cluster")
        if not isinstance(n, int) or not isinstance(cluster, int):
            raise Refused(400, "a cluster and a number of parts are needed")
        return _json({"parts": await run_in_threadpool(self.session.split, cluster, n)})

    async def more(self, request: Request) -> Response:
        """Images like some others."""
        asked = await self._asked(request)
        rows, n = asked.get("rows"), asked.get("n", 100)
        if not isinstance(rows, list) or not isinstance(n, int):
            raise Refused(400, "a list of rows is needed")
        found, cosines = await run_in_threadpool(self.session.more, rows, max(1, min(n, MOST_FOUND)))
        return _json({"rows": found, "similarity": [round(each, 4) for each in cosines]})

    async def learn(self, request: Request) -> Response:
        """What the answers would change."""
        await self._asked(request)
        return _json(await run_in_threadpool(self.session.learn))

    async def accept(self, request: Request) -> Response:
        """Let a proposal count."""
        asked = await self._asked(request)
        return _json(await run_in_threadpool(self.session.accept, str(asked.get("file", ""))))

    async def layer(self, request: Request) -> Response:
        """Show another layer of the density."""
        n = (await self._asked(request)).get("k")
        if not isinstance(n, int):
            raise Refused(400, "a number of clusters is needed")
        return _json({"key": (await run_in_threadpool(self.desk.take, n)).key})

    async def events(self, request: Request) -> Response:
        """The version, whenever it changes."""

        async def versions() -> AsyncIterator[str]:
            told, spoke = ("", -1), time.monotonic()
            while not self.stopping.is_set() and not await request.is_disconnected():
                now = (self.session.key, self.session.version)
                if now != told or time.monotonic() - spoke > 15:
                    told, spoke = now, time.monotonic()
                    yield f"data: {json.dumps(now)}\n\n"
                await asyncio.sleep(0.5)

        return StreamingResponse(versions(), media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def _asked(self, request: Request) -> dict[str, Any]:
        """The body of what the page asks of the session that it shows."""
        body = await _body(request)
        if request.headers.get(KEY) != self.session.key:
            raise Refused(409, "another layer is under review now: load the page again")
        return body

    def _row(self, request: Request) -> int:
        row: int = request.path_params["row"]
        if not 0 <= row < self.session.n:
            raise Refused(404, "there is no such image")
        return row

    def _rows(self, request: Request, most: int, name: str = "rows") -> list[int]:
        text = request.query_params.get(name, "")
        rows = [_whole(each, 0, self.session.n - 1) for each in text.split(",")] if text else []
        if len(rows) > most:
            raise Refused(400, f"at most {counted(most, 'image')} at a time")
        return rows


def _json(value: Any) -> Response:
    # Names that are not UTF-8 are escaped already; what else ASCII lacks is written as numbers.
    return Response(json.dumps(value), media_type="application/json", headers={"cache-control": "no-store"})


async def _body(request: Request) -> dict[str, Any]:
    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                raise Refused(413, "the request is too large")
    except ClientDisconnect as error:  # its window was closed
        raise Refused(400, "the request broke off") from error
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "the request is not JSON") from error
    if not isinstance(found, dict):
        raise Refused(400, "the request is not a JSON object")
    return found


def _whole(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or len(text) > 12 or not least <= int(text) <= most:
        raise Refused(400, f"{text[:50]!r} is not a number from {least} to {most}")
    return int(text)
