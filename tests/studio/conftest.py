"""One studio on a tiny model, and a real browser to use it with."""

import os
import shutil
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ["no_proxy"] = "127.0.0.1,localhost"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
HOW = (
    "no Chromium found: 'make browser' installs it on Debian; elsewhere install Chromium and put "
    "it on the PATH"
)
PATIENCE = 120_000  # milliseconds for the page to come into a state; never a sleep
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


@pytest.fixture(scope="package")
def service(tmp_path_factory):
    pytest.importorskip("gradio")
    from tests.studio.searching import write_search

    from freeprompt.api import load
    from freeprompt.studio.service import Service

    results = tmp_path_factory.mktemp("results")
    (results / "run").mkdir()
    (results / "run" / "report.html").write_text("<h1>Leaderboard of a test</h1>")
    write_search(results / "run" / "search.json", "tiny-sd")
    made = Service(editor=load("tiny-sd", device="cpu"), model="tiny-sd", results=results)
    yield made
    made.close()


@pytest.fixture(scope="package")
def port():
    """Ask the system for a free port; two test runs that both count up from 7860 can meet there."""

    def free() -> int:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            return int(listening.getsockname()[1])

    return free


@pytest.fixture(scope="package")
def address(service, port):
    from freeprompt.studio.page import launch

    page, address = launch(service, port=port(), wait=False)
    yield address
    page.close(verbose=False)


@pytest.fixture(scope="package")
def chromium():
    if CHROMIUM is None:
        pytest.skip(HOW)
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Visitor:
    """A page in a browser, with everything that went wrong on it."""

    def __init__(self, page, address):
        self.page, self.address = page, address
        self.errors, self.abroad = [], []
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._asked)
        self.open()

    def _said(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def _asked(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.abroad.append(request.url)

    def open(self):
        self.page.goto(self.address)
        self.page.locator("#edit-go").wait_for(timeout=PATIENCE)

    def tab(self, name):
        """Open a tab; a narrow page keeps some behind a menu."""
        tab = self.page.get_by_role("tab", name=name, exact=True)
        if not tab.is_visible():
            self.page.locator(".overflow-menu > button").click()
            tab = self.page.locator(".overflow-dropdown button").get_by_text(name)
        tab.click()

    def unfold(self, title, place):
        """Open an accordion and wait for what is in it."""
        self.page.get_by_role("button", name=title).click()
        self.page.locator(place).first.wait_for()

    def write(self, place, text):
        box = self.page.locator(f"#{place} textarea, #{place} input[type=number]").first
        box.fill(str(text))
        box.blur()

    def edit(self, target="a blue cat", source="a red dog", steps=3):
        self.write("source", source)
        self.write("targets", target)
        self.write("steps", steps)
        self.page.locator("#edit-go").click()

    def status(self, text, place="edit-status"):
        self.page.locator(f"#{place}").get_by_text(text).wait_for(timeout=PATIENCE)

    def problem(self, text, place="edit-problem"):
        """Wait for a sentence; an empty one is hidden."""
        shown = self.page.locator(f"#{place}")
        if text:
            shown.get_by_text(text).wait_for()
        else:
            shown.wait_for(state="hidden")

    def settled(self, tab):
        """Wait until a tab's job has ended: its Stop is off."""
        self.page.locator(f"#{tab}-stop:disabled").wait_for()

    def see(self, text):
        self.page.get_by_text(text).first.wait_for(timeout=PATIENCE)


@pytest.fixture
def visitors(chromium, address):
    """Make visitors; afterwards none of them has met an error or fetched anything from abroad."""
    made = []

    def visit(width=1400, height=1000, **more):
        context = chromium.new_context(viewport={"width": width, "height": height}, **more)
        context.set_default_timeout(PATIENCE)
        made.append(Visitor(context.new_page(), address))
        return made[-1]

    yield visit
    for visitor in made:
        visitor.page.context.close()
    assert [visitor.errors for visitor in made] == [[] for _ in made]
    assert [visitor.abroad for visitor in made] == [[] for _ in made]


LONG = 200  # steps of an edit that is held


@pytest.fixture
def held(service, monkeypatch):
    """Edits of `LONG` steps stay at their second step until they are stopped, or the test ends."""
    editor, over = type(service.editor), threading.Event()
    whole = editor.edit

    def edit(self, targets, *, callback, steps, **given):
        def told(progress):
            callback(progress)
            while steps == LONG and progress.step >= 1 and not over.wait(0.05):
                callback(progress)

        return whole(self, targets, callback=told, steps=steps, **given)

    monkeypatch.setattr(editor, "edit", edit)
    yield LONG
    over.set()


@pytest.fixture
def visitor(visitors):
    return visitors()


@pytest.fixture
def photo(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path
