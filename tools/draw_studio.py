"""Draw the studio's pictures for the documents: an edit and a look inside, in a real browser.

python tools/draw_studio.py      # needs Chromium and the extra `studio`; prints how long it took
"""

import os
import shutil
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from freeprompt.api import load
from freeprompt.studio import launch
from freeprompt.studio.service import Service

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PATIENCE = 300_000  # milliseconds
LOADED = "[...document.images].every((image) => image.complete && image.naturalWidth)"


def edit(page: Any) -> None:
    """Edit the first example."""
    began = time.monotonic()
    page.locator("#edit-go").click()
    page.locator("#preview img").wait_for(timeout=PATIENCE)
    print(f"first preview after {time.monotonic() - began:.1f} s")
    page.locator("#edit-status").get_by_text("Done in").wait_for(timeout=PATIENCE)
    print(f"edit after {time.monotonic() - began:.1f} s")
    keep(page, "studio.png")


def look(page: Any) -> None:
    """Look at a word and at a point."""
    page.get_by_role("tab", name="Attention", exact=True).click()
    page.locator("#attention-go").click()
    page.locator("#word-target img").wait_for(timeout=PATIENCE)
    page.locator("#word-source img").click(position={"x": 120, "y": 160})
    page.locator("#looks-source img").wait_for(timeout=PATIENCE)
    keep(page, "studio-attention.png")


def keep(page: Any, name: str) -> None:
    """Keep a picture of the page once all images in it are there."""
    page.wait_for_function(LOADED, timeout=PATIENCE)
    page.screenshot(path=IMAGES / name, full_page=True, animations="disabled", timeout=PATIENCE)


def main() -> None:
    """Start the studio, use it, keep two pictures."""
    os.environ["no_proxy"] = "127.0.0.1,localhost"
    service = Service(editor=load("emoji-sd", device="cpu"), model="emoji-sd")
    served, address = launch(service, wait=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.goto(address)
        page.locator("#edit-go").wait_for(timeout=PATIENCE)
        edit(page)
        look(page)
        browser.close()
    served.close(verbose=False)
    service.close()


if __name__ == "__main__":
    main()
