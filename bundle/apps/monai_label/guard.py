"""Protect the label server from requests that pages of other sites send from the user's browser."""

from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from bundle.apps.site_guard import Guard

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SiteGuard(Guard):
    """The annotation page's guard, without its token and its policy for browsers."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = scope["type"] == "http" and self._refuse(scope, Headers(scope=scope))
        if refused:
            text = (
                f"refused: this server answers to the names {', '.join(sorted(self.hosts))} and to "
                "no page of another site; start it with --conf hosts NAME to add a name"
            )
            await PlainTextResponse(text, 403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def guard(server: Any, hosts: Iterable[str]) -> None:
    """Put a server that runs behind a guard.

    Args:
        server: A Starlette application.
        hosts: Names by which it may be called, besides those of this machine for itself.
    """
    # Whoever runs it has built its middleware already, so that none can be added.
    server.middleware_stack = SiteGuard(server.middleware_stack, None, {*LOOPBACK, *hosts})
