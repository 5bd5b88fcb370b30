"""The web server: serves the page, and the frames, masks, drawings and proposals of its canvas."""

import socket
import warnings
import zlib
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from nicegui import ui
from pydantic import BaseModel, Field

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.page import build_page
from bundle.apps.annotate.pictures import FramePictures
from bundle.apps.annotate.project_workspace import ProjectWorkspace
from bundle.apps.annotate.proposals import read_hint
from bundle.apps.annotate.workspace import Workspace
from bundle.apps.site_guard import Guard
from bundle.types import LabelMap

FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" '
    'fill="#1b1e23"/><path d="M8 3L13 7L11 13H5L3 7Z" fill="#3ecf8e"/></svg>'
)
NO_STORE = {"Cache-Control": "no-store"}
"""Keeps patients' images out of the browser's cache on disk."""
MAX_POINTS = 100_000


Coordinate = Annotated[float, Field(ge=-1e5, le=1e5)]


class Drawing(BaseModel):
    """One use of a tool; see ``bundle.apps.annotate.drawing``."""

    tool: Literal["brush", "eraser", "polygon", "fill", "holes", "clear"]
    points: list[tuple[Coordinate, Coordinate]] = Field(max_length=MAX_POINTS)
    size: float = Field(gt=0, le=10_000)
    object: int = Field(ge=1, le=255)


class Hint(BaseModel):
    """Something that was pointed at; see ``bundle.inference.prompts``."""

    kind: Literal["box", "point", "scribble"]
    points: list[tuple[Coordinate, Coordinate]] = Field(min_length=1, max_length=MAX_POINTS)
    """Two corners of a box, one point, or a line."""
    positive: bool = True
    object: int = Field(ge=1, le=255)


def make_app(
    workspace: Workspace,
    token: str | None = None,
    hosts: Collection[str] = ("127.0.0.1", "localhost"),
) -> FastAPI:
    """The whole application.

    Args:
        workspace: What is open.
        token: What the address must hold, if anything.
        hosts: Names by which the server may be called; none for any.
    """

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def find(number: int) -> tuple[Annotation, FramePictures]:
        if number != workspace.number or workspace.annotation is None or workspace.pictures is None:
            raise HTTPException(409, "another video was opened: reload the page")
        return workspace.annotation, workspace.pictures

    @app.get("/frames/{number}/{index}")
    def frame(number: int, index: int) -> Response:
        pictures = find(number)[1]
        try:
            return Response(pictures.jpeg(index), media_type="image/jpeg", headers=NO_STORE)
        except (IndexError, ValueError, OSError) as error:
            raise HTTPException(404, str(error)) from error

    @app.get("/labels/{number}/{index}")
    def labels(number: int, index: int) -> Response:
        try:
            return _pack(find(number)[0].shown(index))
        except IndexError as error:
            raise HTTPException(404, str(error)) from error

    @app.post("/draw/{number}/{index}")
    def draw(number: int, index: int, drawing: Drawing) -> Response:
        annotation = find(number)[0]
        try:
            each = drawing.tool, drawing.points, drawing.size, drawing.object
            return _pack(annotation.draw(index, *each))
        except (ValueError, IndexError) as error:
            raise HTTPException(422, str(error)) from error

    @app.post("/propose/{number}/{index}")
    def propose(number: int, index: int, hint: Hint) -> Response:
        annotation = find(number)[0]
        try:
            prompt = read_hint(hint.kind, hint.points, hint.positive)
            return _pack(annotation.propose(index, hint.object, prompt))
        except (ValueError, IndexError) as error:
            raise HTTPException(422, str(error)) from error

    @app.get("/thumbnails")
    def thumbnail(name: str) -> Response:
        found = None
        if isinstance(workspace, ProjectWorkspace):
            found = workspace.thumbnails.get(name)
        if found is None or found.jpeg is None:
            raise HTTPException(404, "there is no such thumbnail")
        return Response(found.jpeg, media_type="image/jpeg", headers=NO_STORE)

    build_page(workspace)
    ui.run_with(
        app, title="TCMN annotate", dark=True, tailwind=False, show_welcome_message=False,
        reconnect_timeout=30.0, favicon=FAVICON,
    )  # fmt: skip
    nicegui_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            stack.callback(workspace.close)
            with warnings.catch_warnings():
                # NiceGUI looks at all objects in memory, among them deprecated ones of PyTorch.
                warnings.simplefilter("ignore", FutureWarning)
                state = await stack.enter_async_context(nicegui_lifespan(app))
            yield state

    app.router.lifespan_context = lifespan
    app.add_middleware(Guard, token=token, hosts=hosts)
    return app


def bind(host: str, port: int) -> socket.socket:
    """Take an address; port 0 takes any that is free.

    Raises:
        OSError: It is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen()  # who comes before the server is up waits
    except OSError as error:
        taken.close()
        raise OSError(
            f"cannot listen on {host}, port {port} ({error.strerror}): choose another --port or --host"
        ) from error
    return taken


def make_server(app: FastAPI) -> uvicorn.Server:
    """A server that logs no requests."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, lifespan="on",
        ws="websockets-sansio",
    )  # fmt: skip
    return uvicorn.Server(config)


def _pack(labels: LabelMap) -> Response:
    """A label map row by row, a byte each; browsers unpack it themselves."""
    data = zlib.compress(labels.tobytes(), 1)
    headers = {**NO_STORE, "Content-Encoding": "deflate"}
    return Response(data, media_type="application/octet-stream", headers=headers)
