"""Take the screenshots of docs/annotate.md, and an animated GIF of the annotation page in use.

    python scripts/dev/screenshot_annotate.py --output_dir docs

Simulates a user in a real browser, on pydicom's echocardiogram and with the shipped weights. A
screenshot shows the outline of the left ventricle in frame 0. The GIF shows a box and two points on it
instead, then the propagation. Needs the extra annotate, Playwright, and a Chromium on the PATH.
"""

import argparse
import io
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pydicom.data
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from skimage.draw import polygon2mask

from bundle.apps.annotate.annotation import Annotation
from bundle.apps.annotate.server import bind, make_app, make_server
from bundle.apps.annotate.workspace import Workspace
from bundle.networks.prompts import click_error
from bundle.segmenter import VideoSegmenter
from bundle.types import LabelMap

ROOT = Path(__file__).resolve().parents[2]
OUTLINES = ROOT / "scripts" / "demo" / "left_ventricle.json"
CINE = "examples_ybr_color.dcm"
SIZE = {"width": 1320, "height": 800}
TIMEOUT_S = 300.0
FILM_SIZE = (880, 533)
FILM_COLOURS = 128


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, for at most ``TIMEOUT_S`` seconds.

    Raises:
        TimeoutError: It did not become true in time.
    """
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"the page was not ready after {TIMEOUT_S:.0f} s")
        time.sleep(0.1)


class Screen:
    """The annotation page in the browser, with actions of a user and pictures of it."""

    def __init__(self, page: Page, annotation: Annotation, output_dir: Path) -> None:
        self.page, self.annotation, self.output_dir = page, annotation, output_dir
        self.film: list[Image.Image] = []
        self.film_ms: list[int] = []

    def click(self, name: str) -> None:
        """Click the element with this test id."""
        self.page.click(f"[data-testid={name}]")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Convert a point of the video, in pixels, to a point on the screen."""
        box = self.page.locator("[data-testid=view]").bounding_box()
        assert box is not None
        height, width = self.annotation.size
        scale = 0.98 * min(box["width"] / width, box["height"] / height)
        left = box["x"] + (box["width"] - width * scale) / 2
        return left + x * scale, box["y"] + (box["height"] - height * scale) / 2 + y * scale

    def take(self, name: str) -> None:
        """Write a screenshot as NAME.png."""
        self.page.wait_for_timeout(1200)  # until notices are gone and curves are drawn
        path = self.output_dir / f"{name}.png"
        self.see().save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")

    def see(self) -> Image.Image:
        """Take a screenshot."""
        return Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")

    def shoot(self, shown_ms: int) -> None:
        """Add a screenshot to the film, to be shown for ``shown_ms`` milliseconds."""
        self.film.append(self.see().resize(FILM_SIZE, Image.Resampling.LANCZOS))
        self.film_ms.append(shown_ms)

    def write_film(self, name: str) -> None:
        """Write the film as a GIF, with one palette for all of its pictures."""
        path = self.output_dir / f"{name}.gif"
        palette = self.film[
            -1
        ].quantize(  # MAXCOVERAGE keeps rare colours, such as those of the time line
            FILM_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        first, *others = (
            each.quantize(palette=palette, dither=Image.Dither.NONE) for each in self.film
        )
        first.save(
            path, save_all=True, append_images=others, duration=self.film_ms, loop=0, optimize=True
        )
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")

    def propagate(self) -> None:
        """Click Propagate and film the page until it has ended."""
        self.click("propagate")
        wait_for(lambda: self.annotation.worker.running)
        while self.annotation.worker.running:
            self.shoot(150)
            self.page.wait_for_timeout(400)


def point(screen: Screen, truth: np.ndarray) -> None:
    """Film a box around the object, two points where the proposal is most wrong, and its acceptance."""
    page, annotation = screen.page, screen.annotation
    screen.click("box")
    rows, columns = np.nonzero(truth)
    left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    page.mouse.move(*screen.at(left - 3, top - 3))
    page.wait_for_timeout(600)
    screen.shoot(900)
    page.mouse.down()
    for share in (0.4, 0.7, 1.0):
        x, y = left - 3 + share * (right - left + 6), top - 3 + share * (bottom - top + 6)
        page.mouse.move(*screen.at(x, y), steps=4)
        page.wait_for_timeout(200)
        screen.shoot(250)
    page.mouse.up()
    wait_for(lambda: annotation.proposal is not None)
    page.wait_for_timeout(1500)
    screen.shoot(1200)
    screen.click("point")
    for _ in range(2):
        error = click_error(truth, annotation.shown(0) == 1)
        assert error is not None, "the proposal is the outline, to the pixel"
        (x, y), positive = error
        before = annotation.shown(0)
        place = screen.at(x + 0.5, y + 0.5)
        page.mouse.move(*place)
        page.wait_for_timeout(600)  # until the hint of the button is gone
        screen.shoot(500)
        page.mouse.click(*place, button="left" if positive else "right")
        wait_for(partial(_differs, annotation, before))
        page.wait_for_timeout(1500)
        screen.shoot(900)
    page.keyboard.press("Enter")
    wait_for(lambda: 0 in annotation.prompts)
    page.wait_for_timeout(800)
    screen.shoot(900)


def _differs(annotation: Annotation, before: LabelMap) -> bool:
    return bool((annotation.shown(0) != before).any())


def walk(screen: Screen) -> None:
    """Do the steps of docs/annotate.md: outline or point, propagate, look, export."""
    page, annotation = screen.page, screen.annotation
    outline = json.loads(OUTLINES.read_text())["0"]
    name = page.locator("[data-testid=object-1] input")
    name.fill("left ventricle")
    name.press("Enter")
    screen.click("polygon")
    page.mouse.move(*screen.at(300, 20))  # off the button, or its tooltip stays
    page.wait_for_timeout(600)
    for x, y in outline[:-4]:
        page.mouse.click(*screen.at(x + 0.5, y + 0.5))
    page.mouse.move(*screen.at(196, 122))
    screen.take("annotate_paint")
    page.keyboard.press("Escape")  # the film points instead
    point(screen, polygon2mask(annotation.size, [(y, x) for x, y in outline]))
    screen.propagate()
    page.wait_for_timeout(1200)
    screen.shoot(600)
    for _ in range(annotation.frame_count // 2):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(500)
        screen.shoot(120)
    screen.write_film("annotate")
    screen.click("next-to-annotate")
    page.mouse.move(*screen.at(300, 20))
    screen.take("annotate")
    screen.click("export")
    page.fill("[data-testid=export-path]", "results")
    screen.take("annotate_export")


def main(output_dir: Path, inference_size: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("error: there is no chromium on the PATH: install it, or link it under that name")
    video = pydicom.data.get_testdata_file(CINE, download=False)
    if video is None:
        sys.exit(f"error: this pydicom has no {CINE}: install pydicom 3 or newer")
    workspace = Workspace(VideoSegmenter.from_pretrained(inference_size=inference_size))
    annotation = workspace.open(str(video))
    server, taken = make_server(make_app(workspace)), bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started)
    output_dir.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.goto(f"http://127.0.0.1:{taken.getsockname()[1]}/")
        page.wait_for_selector("[data-testid=view]")
        page.wait_for_timeout(1000)
        walk(Screen(page, annotation, output_dir))
        browser.close()
    server.should_exit = True
    thread.join(20)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=ROOT / "output" / "annotate",
        help="folder of the pictures",
    )
    parser.add_argument(
        "--inference_size", type=int, default=320, help="shorter side in the network, pixels"
    )
    arguments = parser.parse_args()
    main(arguments.output_dir, arguments.inference_size)
