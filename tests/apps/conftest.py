"""A browser, and the echocardiogram that pydicom brings."""

import shutil

import pydicom.data
import pytest


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs Chromium on the PATH")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def echo():
    found = pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False)
    if found is None:
        pytest.skip("this pydicom comes without the echocardiogram")
    return found


@pytest.fixture(scope="session")
def server():
    """The page; whoever opens something on its desk says first with which model."""
    pytest.importorskip("nicegui", reason="needs the extra annotate")
    from bundle.networks import TCMN
    from bundle.segmenter import VideoSegmenter
    from tests.apps.browsing import serve
    from tests.tiny import NETWORK

    with serve(VideoSegmenter(TCMN(**NETWORK).eval())) as server:
        yield server
