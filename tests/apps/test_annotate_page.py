"""The page in a real browser, and who may reach it."""

import asyncio
import csv
import json
import threading
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("nicegui", reason="needs the extra annotate")

from bundle.apps.annotate.autosave import StateFolder
from bundle.apps.site_guard import COOKIE, Guard
from bundle.inference.inferers import VideoInferer
from bundle.inference.propagation import Propagation
from bundle.inference.settings import InferenceSettings
from bundle.io.reading.video import open_video
from bundle.segmenter import VideoSegmenter
from tests.apps.browsing import open_tab, painted, wait_for

HEIGHT, WIDTH, COUNT = 240, 320, 30
SETTINGS = {"inference_size": 48, "precision": "float32"}


class TestGuard:
    def ask(self, token=None, hosts=("127.0.0.1",), kind="http", path="/", query="", **headers):
        """The status of an answer, and its headers; 200 if it came through."""
        sent = []

        async def app(scope, receive, send):
            await send({"type": f"{kind}.response.start", "status": 200, "headers": []})

        async def send(message):
            sent.append(message)

        pairs = {"host": "127.0.0.1:80", **headers}
        scope = {
            "type": kind, "method": "GET", "path": path, "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in pairs.items()],
        }  # fmt: skip
        asyncio.run(Guard(app, token, hosts)(scope, None, send))
        answer = {key.decode(): value.decode() for key, value in sent[0].get("headers", [])}
        return sent[0].get("status", sent[0]["type"]), answer

    def test_this_machine_needs_no_token(self):
        status, headers = self.ask(origin="http://127.0.0.1:80")
        assert status == 200
        assert "default-src 'self'" in headers["content-security-policy"]

    @pytest.mark.parametrize("kind", ["http", "websocket"])
    @pytest.mark.parametrize(
        "headers",
        [
            {"host": "evil.example:80"},  # a name that was made to lead here
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:81"},
        ],
    )
    def test_other_pages_are_refused(self, kind, headers):
        refused = 403 if kind == "http" else "websocket.close"
        assert self.ask(kind=kind, **headers)[0] == refused

    @pytest.mark.parametrize("kind", ["http", "websocket"])
    def test_a_token_opens_once_and_its_cookie_from_then_on(self, kind):
        refused = 403 if kind == "http" else "websocket.close"
        elsewhere = {"hosts": (), "kind": kind, "host": "10.0.0.7:80"}
        assert self.ask("abc", **elsewhere)[0] == refused
        assert self.ask("abc", query="token=abd", **elsewhere)[0] == refused
        assert self.ask("abc", cookie=f"{COOKIE}=abd", **elsewhere)[0] == refused
        assert self.ask("abc", cookie=f"{COOKIE}=abc", **elsewhere)[0] == 200

    def test_the_token_leaves_the_address(self):
        status, headers = self.ask("abc", hosts=(), query="token=abc")
        assert (status, headers["location"]) == (307, "/")
        assert headers["set-cookie"].startswith(f"{COOKIE}=abc; HttpOnly")


@pytest.fixture
def tab(browser, server, network, echo):
    """The echocardiogram in a fresh tab."""
    settings = InferenceSettings(**SETTINGS, spatial_prior=None)
    server.workspace.model = VideoSegmenter(network, settings)
    server.workspace.open(echo)
    with open_tab(browser, server) as tab:
        yield tab


@pytest.fixture
def gate(monkeypatch):
    """Lets frames through one by one; open it to let all."""
    tickets, opened, keep = threading.Semaphore(0), threading.Event(), Propagation._keep

    def kept(self, index, labels, confidence):
        while not opened.is_set() and not tickets.acquire(timeout=0.05):
            pass
        keep(self, index, labels, confidence)

    monkeypatch.setattr(Propagation, "_keep", kept)
    yield SimpleNamespace(let=lambda count: tickets.release(count), open=opened.set)
    opened.set()


@pytest.mark.heavy
@pytest.mark.browser
class TestPage:
    def test_paint_propagate_correct_export(self, tab, echo, tmp_path):
        assert not painted(tab.colour(170, 110))
        tab.drag((160, 100), (180, 100), (180, 120), (160, 120), (165, 110), (175, 110))
        wait_for(lambda: painted(tab.colour(170, 110)))
        tab.says("status", "Masks have changed")
        mask = tab.annotation.prompts[0]
        assert mask[110, 170] == 1
        assert 500 < mask.sum() < 2000

        tab.find("propagate").click()
        tab.says("status", "All frames have a mask")
        video = open_video(echo)
        python = VideoInferer(**SETTINGS, spatial_prior=None).open(
            video, {0: mask}, tab.workspace.model.network
        )
        list(python.run())
        shown = np.stack([tab.annotation.labels(i) for i in range(COUNT)])
        np.testing.assert_array_equal(shown, [python.result(i).labels for i in range(COUNT)])

        tab.go(20)
        tab.drag((60, 60), (90, 60))
        tab.drag((75, 60), (75, 60), button="right")
        tab.says("frame", "mask given")
        corrected = tab.annotation.prompts[20]
        assert corrected[60, 62] == 1
        assert corrected[60, 75] == 0
        tab.find("propagate").click()
        tab.says("status", "All frames have a mask")
        assert tab.annotation.worker.total == COUNT - 2  # between the two masks, and after
        python.annotate(20, corrected)
        list(python.run())

        tab.find("export").click()
        tab.find("export-path").fill(str(tmp_path))
        tab.find("act").click()
        wait_for(lambda: (tmp_path / "examples_ybr_color_objects.csv").exists())
        folder = tmp_path / "examples_ybr_color"
        written = np.asarray(nib.load(folder / "masks.nii.gz").dataobj).squeeze().T
        np.testing.assert_array_equal(written, [python.result(i).labels for i in range(COUNT)])
        assert {file.name for file in folder.iterdir()} == {
            "masks.nii.gz", "masks", "overlay.mp4", "frames.csv", "summary.png", "masks.dcm",
            "manifest.json",
        }  # fmt: skip
        with open(folder / "frames.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == COUNT * len(np.unique(written)[1:])

    def test_cancel_close_and_come_back(self, tab, gate):
        tab.drag((160, 100), (180, 120))
        tab.find("propagate").click()
        gate.let(5)
        tab.says("status", "frame 5 of 29")
        tab.find("cancel").click()
        tab.says("status", "It stops after this frame")  # the server has heard of the click
        gate.let(1)
        tab.says("status", "23 frames are pending")
        kept = tab.annotation.states()
        assert kept[:7].count(".") == 0

        tab.find("propagate").click()
        gate.let(3)
        wait_for(lambda: tab.annotation.worker.finished == 3)
        tab.page.close()  # in the middle of a run
        gate.open()
        assert tab.annotation.worker.wait(60)
        assert tab.annotation.states().count(".") == 0
        tab.load()
        tab.says("status", "All frames have a mask")
        wait_for(lambda: painted(tab.colour(170, 110)))
        tab.go(7)
        tab.page.reload()
        tab.wait_until_drawn()
        tab.says("count", "7 / 29")

    def test_tools_objects_undo_and_session(self, tab, tmp_path):
        tab.find("add-object").click()
        tab.find("object-2").wait_for()
        wait_for(lambda: 2 in tab.annotation.objects)
        tab.press("p")
        corners = [(100, 80), (140, 80), (140, 120), (100, 120)]
        for corner in corners:
            tab.page.mouse.click(*tab.at(*corner))
        tab.press("Enter")
        wait_for(lambda: 0 in tab.annotation.prompts)
        assert (tab.annotation.prompts[0] == 2).sum() == pytest.approx(1600, abs=90)
        tab.press("1", "f")
        tab.says("object-1", "1")
        tab.page.wait_for_function(
            "() => document.querySelector('[data-testid=object-1]').classList.contains('tcmn-on')"
        )
        tab.page.mouse.click(*tab.at(120, 100))
        wait_for(lambda: (tab.annotation.prompts[0] == 1).any())
        assert not (tab.annotation.prompts[0] == 2).any()
        tab.press("Control+z")
        wait_for(lambda: (tab.annotation.prompts[0] == 2).any())
        for redo in ("Control+Shift+z", "Control+y"):
            tab.press(redo)
            wait_for(lambda: (tab.annotation.prompts[0] == 1).any())
            tab.press("Control+z")
            wait_for(lambda: (tab.annotation.prompts[0] == 2).any())
        tab.find("redo").click()
        wait_for(lambda: (tab.annotation.prompts[0] == 1).any())
        tab.find("undo").click()
        wait_for(lambda: (tab.annotation.prompts[0] == 2).any())
        tab.page.mouse.click(*tab.at(20, 20))
        tab.page.get_by_text("the outline is open").wait_for()

        name = tab.find("object-2").locator("input")
        name.fill("left atrium")
        name.press("Enter")
        wait_for(lambda: tab.annotation.objects[2].name == "left atrium")
        tab.find("save").click()
        path = tmp_path / "echo.tcmn.zip"
        tab.find("save-path").fill(str(path))
        tab.find("act").click()
        wait_for(path.exists)
        mask, number = tab.annotation.prompts[0], tab.workspace.number
        tab.find("object-2").wait_for()
        tab.page.locator(".q-dialog").wait_for(state="detached")
        tab.find("remove-2").click()
        wait_for(lambda: 2 not in tab.annotation.objects)
        tab.find("open").click()
        tab.find("open-path").fill(str(path))
        tab.find("act").click()
        wait_for(lambda: tab.workspace.number > number)
        tab.find("object-2").wait_for()
        assert tab.annotation.objects[2].name == "left atrium"
        np.testing.assert_array_equal(tab.annotation.prompts[0], mask)

    def test_masks_that_were_not_saved_are_there_again(self, tab, echo, tmp_path, monkeypatch):
        monkeypatch.setattr(tab.workspace, "_state", StateFolder(tmp_path))
        tab.workspace.open(echo)  # the tab loads it by itself
        tab.page.locator("[data-testid=kept]").wait_for(state="attached")
        tab.wait_until_drawn()
        assert tab.find("kept-bar").count() == 0
        tab.drag((160, 100), (180, 120))
        tab.says("kept", "kept at")
        mask = tab.annotation.prompts[0]
        tab.workspace.open(echo)  # as another program would
        tab.says("kept-bar", "You go on with masks of")
        np.testing.assert_array_equal(tab.annotation.prompts[0], mask)
        tab.find("start-anew").click()
        wait_for(lambda: not tab.annotation.prompts)
        tab.says("kept-bar", "Other masks of this video")
        tab.find("go-on-with-them").click()
        wait_for(lambda: 0 in tab.annotation.prompts)
        np.testing.assert_array_equal(tab.annotation.prompts[0], mask)
        tab.find("start-anew").click()
        wait_for(lambda: not tab.annotation.prompts)
        tab.find("delete-them").click()
        tab.page.get_by_text("Really delete them?").wait_for()
        assert tab.workspace.left is not None
        tab.find("delete-them").click()
        tab.find("kept-bar").wait_for(state="detached")
        assert tab.workspace.left is None

    def test_mistakes_are_reported_in_plain_words(self, tab, tmp_path):
        tab.find("propagate").click()
        tab.page.get_by_text("no mask shows an object: paint it on at least one frame").wait_for()
        tab.find("next-to-annotate").click()
        tab.page.get_by_text("no frame has been found yet").wait_for()
        tab.press("Control+z")
        tab.page.get_by_text("there is nothing to undo").wait_for()
        tab.find("export").click()
        tab.find("act").click()
        tab.says("message", "there is nothing to export")
        tab.page.keyboard.press("Escape")
        tab.page.locator(".q-dialog").wait_for(state="detached")

        number = tab.workspace.number
        notes = tmp_path / "notes.txt"
        notes.write_text("no video at all")
        tab.find("open").click()
        tab.find("open-path").fill(str(notes))
        tab.find("act").click()
        tab.says("message", "expected a video file")
        tab.page.locator("input[type=file]").set_input_files(notes)
        tab.says("message", "notes.txt")
        tab.page.locator("input[type=file]").set_input_files(str(tab.annotation.video.path))
        wait_for(lambda: tab.workspace.number > number)
        assert tab.workspace.holds(tab.annotation.video.path)
        tab.says("status", "Paint the object")

    def test_wheel_keys_and_timeline_change_the_frame(self, tab):
        tab.page.mouse.move(*tab.at(100, 100))
        tab.page.mouse.wheel(0, 100)
        tab.says("count", "1 / 29")
        tab.press("Shift+ArrowRight")
        tab.says("count", "11 / 29")
        tab.press("End", "ArrowRight")
        tab.says("count", "29 / 29")
        line = tab.find("line").bounding_box()
        tab.page.mouse.click(line["x"] + line["width"] / 2, line["y"] + 20)
        tab.says("count", "15 / 29")
        tab.press(" ")
        tab.page.wait_for_function(
            "() => !document.querySelector('[data-testid=count]').textContent.startsWith('15 ')"
        )
        tab.press(" ")

    def test_the_canvas_gets_pictures_and_labels_and_bad_drawings_are_refused(self, tab):
        get, post = tab.context.request.get, tab.context.request.post
        url, number = tab.served.url, tab.workspace.number
        picture = get(f"{url}/frames/{number}/0")
        assert picture.headers["content-type"] == "image/jpeg"
        assert picture.headers["cache-control"] == "no-store"
        assert len(get(f"{url}/labels/{number}/3").body()) == HEIGHT * WIDTH
        assert get(f"{url}/frames/{number}/30").status == 404
        assert get(f"{url}/labels/{number - 1}/0").status == 409
        drawing = {"tool": "brush", "points": [[5, 5]], "size": 4, "object": 1}
        for wrong in ({"tool": "spray"}, {"points": [[1e9, 0]]}, {"size": 0}, {"object": 3}):
            answer = post(f"{url}/draw/{number}/0", data=json.dumps({**drawing, **wrong}))
            assert answer.status == 422
        assert not tab.annotation.prompts
