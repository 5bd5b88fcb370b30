"""What the tests of the page share: a server in this process, and what a person does in a tab."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace


@contextmanager
def serve(model):
    """A server whose state the tests can look at; NiceGUI has one in a process."""
    from bundle.apps.annotate.server import bind, make_app, make_server
    from bundle.apps.annotate.workspace import Workspace

    workspace = Workspace(model)
    server, taken = make_server(make_app(workspace)), bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    yield SimpleNamespace(workspace=workspace, url=f"http://127.0.0.1:{taken.getsockname()[1]}")
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@contextmanager
def open_tab(browser, served):
    """What is open, in a fresh tab; nothing may be asked from elsewhere, nothing may fail."""
    context = browser.new_context(viewport={"width": 1300, "height": 820})
    context.set_default_timeout(60_000)
    asked, wrong = [], []
    context.on("request", lambda request: asked.append(request.url))
    context.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    try:
        yield Tab(context, served)
    finally:
        context.close()
    assert any(url.startswith(served.url) for url in asked)
    outside = [u for u in asked if not u.startswith((served.url, "data:", "blob:"))]
    assert not outside
    assert [text for text in wrong if "status of 422" not in text] == []


class Tab:
    """What a person does on the page."""

    def __init__(self, context, served):
        self.context, self.served, self.workspace = context, served, served.workspace
        self.load()

    def load(self):
        self.page = self.context.new_page()
        self.page.goto(self.served.url)
        self.wait_until_drawn()

    def wait_until_drawn(self):
        self.page.wait_for_function(
            "() => { const c = document.querySelector('[data-testid=view]');"
            " return c && c.width > 0 && c.getContext('2d')"
            ".getImageData(c.width / 2, c.height / 2, 1, 1).data[3] > 0; }"
        )

    @property
    def annotation(self):
        return self.workspace.annotation

    def find(self, name):
        return self.page.locator(f"[data-testid={name}]")

    def at(self, x, y):
        """A point of the video on the screen."""
        box, (height, width) = self.find("view").bounding_box(), self.annotation.size
        scale = 0.98 * min(box["width"] / width, box["height"] / height)
        left = box["x"] + (box["width"] - width * scale) / 2
        top = box["y"] + (box["height"] - height * scale) / 2
        return left + x * scale, top + y * scale

    def drag(self, *points, button="left", to="draw"):
        self.page.mouse.move(*self.at(*points[0]))
        with self.page.expect_response(f"**/{to}/**"):
            self.page.mouse.down(button=button)
            for point in points:
                self.page.mouse.move(*self.at(*point), steps=3)
            self.page.mouse.up(button=button)

    def point(self, x, y, button="left", *keys):
        """Click with a tool that proposes a mask, and wait for it."""
        for key in keys:
            self.page.keyboard.down(key)
        with self.page.expect_response("**/propose/**"):
            self.page.mouse.click(*self.at(x, y), button=button)
        for key in keys:
            self.page.keyboard.up(key)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def go(self, index):
        self.press("Home", *["ArrowRight"] * index)
        self.page.wait_for_function(
            "text => document.querySelector('[data-testid=count]').textContent === text",
            arg=f"{index} / {self.annotation.frame_count - 1}",
        )
        self.says("frame", f"Frame {index},")
        self.page.locator("[data-testid=view][data-ready=true]").wait_for()

    def says(self, name, text):
        self.page.wait_for_function(
            "([name, text]) => document.querySelector(`[data-testid=${name}]`)"
            "?.textContent.includes(text)",
            arg=[name, text],
        )

    def colour(self, x, y):
        """Of a point of the video, (red, green, blue)."""
        px, py = self.at(x, y)
        box = self.find("view").bounding_box()
        return self.page.evaluate(
            "([x, y]) => [...document.querySelector('[data-testid=view]').getContext('2d')"
            ".getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data].slice(0, 3)",
            [px - box["x"], py - box["y"]],
        )


def wait_for(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def painted(colour):
    """The first object is green, the echocardiogram grey."""
    return colour[1] > colour[0] + 30
