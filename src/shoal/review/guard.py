"""Who is answered: the page that was opened with the token, and nobody else."""

from __future__ import annotations

import hmac

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "shoal-{port}"
"""Browsers do not keep the cookies of ports apart."""

KEY = "x-shoal"
"""Header of what changes something: the key of the session that the page shows. Other pages cannot send it."""

MOST_BYTES = 2**26
"""Of a request; moving every one of a million images takes 8 MB."""

MOST_AT_ONCE = 64
"""Requests that are answered at a time; more are told to come again."""


class Refused(Exception):  # noqa: N818 - it is an answer
    """A request that is not served."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


class Guard:
    """Lets through only what comes from the page that was opened with the token."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app = app
        self.token = token
        self.cookie = COOKIE.format(port=port)
        self.hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or say why not."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        try:
            self._check(request)
            if self.running >= MOST_AT_ONCE:
                raise Refused(429, "too many requests at once: wait a moment")
        except Refused as error:
            await JSONResponse({"error": f"{error.why}."}, error.status)(scope, receive, send)
            return
        self.running += 1
        try:
            await self.app(scope, receive, _with_headers(send))
        finally:
            self.running -= 1

    def _check(self, request: Request) -> None:
        # A page elsewhere that has its name resolved to 127.0.0.1 sends its own name.
        if request.headers.get("host") not in self.hosts:
            raise Refused(403, "this address is not served")
        origin = request.headers.get("origin")
        if origin is not None and origin not in {f"http://{host}" for host in self.hosts}:
            raise Refused(403, "other pages may not ask")
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            # The cookie is not sent from elsewhere either, but for a link that is followed.
            raise Refused(403, "other pages may not ask")
        given = request.query_params.get("token", "") if request.url.path == "/" else ""
        cookie = request.cookies.get(self.cookie, "")
        if not any(hmac.compare_digest(each.encode(), self.token.encode()) for each in (given, cookie)):
            raise Refused(403, "open the address that 'shoal review' printed, with its token")
        if request.method == "POST":
            if KEY not in request.headers:
                raise Refused(403, "other pages may not ask")
            if int(request.headers.get("content-length") or 0) > MOST_BYTES:
                raise Refused(413, "the request is too large")
        elif request.method not in ("GET", "HEAD"):
            raise Refused(405, "that is not served")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"],
                (b"x-content-type-options", b"nosniff"),
                (b"referrer-policy", b"no-referrer"),
                (b"cross-origin-resource-policy", b"same-origin"),
                (b"x-frame-options", b"DENY"),
            ]
        await send(message)

    return sending
