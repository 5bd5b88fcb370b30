"""Access control of the web servers: allow this machine's browser, or requests with the token."""

import secrets
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "tcmn_token"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "frame-ancestors 'none'; form-action 'none'"
)
"""Content security policy: the page loads nothing from other sites, and no site may embed it."""


class Guard:
    """ASGI middleware that rejects requests without access, including WebSockets.

    Pages of other sites in the same browser can send requests to this machine too, by its address or by
    a name of theirs that resolves to it. So ``Host`` must be an allowed name, and ``Origin``, if the
    browser sends it, must be the same. A token must be in the address once, and then in a cookie.

    Args:
        app: The ASGI application to protect.
        token: The token; None if only this machine can reach the server.
        hosts: Allowed host names; empty to allow any, which needs a token.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str]) -> None:
        self.app, self.token, self.hosts = app, token, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        answer = self._refuse(scope, Headers(scope=scope))

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        if answer is None:
            await self.app(scope, receive, send_with_policy)
        elif scope["type"] == "http":
            await answer(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self.hosts and urlsplit(f"//{host}").hostname not in self.hosts:
            return PlainTextResponse("unknown host name: open the address that was printed", 403)
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("requests of other pages are refused", 403)
        if self.token is None:
            return None
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if _same(given, self.token) and scope["type"] == "http" and scope["method"] == "GET":
            answer = RedirectResponse(scope["path"])  # the token does not stay in the address
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return answer
        if _same(_read_cookie(headers.get("cookie", "")), self.token):
            return None
        return PlainTextResponse("no access: open the whole address that was printed", 403)


def _same(given: str, token: str) -> bool:
    return secrets.compare_digest(given.encode(), token.encode())


def _read_cookie(text: str) -> str:
    try:
        found = SimpleCookie(text).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
