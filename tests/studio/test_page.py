"""The page in a real browser: every tab's main path, and what people do to pages."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

NAMELESS = """() => [
  ...[...document.querySelectorAll("img, svg[role=img]:not([aria-hidden])")].filter(
    (e) => !e.getAttribute("alt") && !e.getAttribute("aria-label")),
  ...[...document.querySelectorAll("button, input, textarea, select, [role=slider]")].filter(
    (e) => !(e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.title
      || e.innerText?.trim() || e.placeholder || e.labels?.length || e.closest("label")
      || e.querySelector("img[alt]"))),
].filter((e) => e.checkVisibility()).map((e) => e.outerHTML.slice(0, 200))"""

pytestmark = [
    # gradio's own; the server answers while the test waits, under the test's filters
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    # every wait below is for a state of the page, but how a starved browser behaves is not ours:
    # one that loses its process or a request on a loaded machine gets a second chance
    pytest.mark.flaky(reruns=1),
]


def test_an_edit_and_its_files(visitor, tmp_path, monkeypatch):
    """The derived command line gives the same image byte for byte."""
    visitor.edit()
    visitor.status("Done in")
    visitor.see("sample-forwards")
    page = visitor.page
    with page.expect_download() as loading:
        page.locator("#files a").first.click()
    downloaded = Path(loading.value.path()).read_bytes()
    visitor.unfold("The same edit elsewhere", "#command")
    command = page.locator("#command .cm-content").inner_text()
    python = page.locator("#python .cm-content").inner_text()
    compile(python, "copied", "exec")
    from freeprompt.cli.app import app

    words = shlex.split(command)
    assert words[0] == "freeprompt"
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "out" / "a-blue-cat.png").read_bytes() == downloaded


def test_an_image_of_ones_own(visitor, photo, tmp_path, monkeypatch):
    page = visitor.page
    visitor.unfold("Start from an image of your own", "#image")
    page.locator("#image input[type=file]").set_input_files(photo)
    page.get_by_text("photo.png").first.wait_for()
    visitor.edit(source="", target="a cat\na green dog")
    visitor.status("Done in")
    visitor.see("The inversion alone leads back to the image with")
    assert page.locator("#gallery img").count() >= 4  # source, reconstruction, two edits
    visitor.unfold("The same edit elsewhere", "#command")
    command = page.locator("#command .cm-content").inner_text()
    assert "--image photo.png" in command
    from freeprompt.cli.app import app

    with page.expect_download() as loading:
        page.locator("#files a").first.click()
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False).exit_code == 0
    assert Path("out/a-cat.png").read_bytes() == Path(loading.value.path()).read_bytes()


def broken(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")


def huge(path):
    Image.fromarray(np.zeros((12_000, 12_000), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(("make", "said"), [(broken, "bad.png"), (huge, "megapixels")])
def test_a_bad_image(visitor, tmp_path, make, said):
    page = visitor.page
    visitor.unfold("Start from an image of your own", "#image")
    make(tmp_path / "bad.png")
    page.locator("#image input[type=file]").set_input_files(tmp_path / "bad.png")
    page.locator("#image-problem").get_by_text(said).wait_for()


def test_wrong_wishes_are_answered_beside_their_control(visitor):
    visitor.edit(target="")
    visitor.problem("no target prompt", "target-problem")
    visitor.edit(target="a cat", source="")
    visitor.problem("There is nothing to edit")
    visitor.problem("", "target-problem")
    visitor.unfold("Parameters of the method", "#FPE-sites")
    sites = visitor.page.locator("#FPE-sites textarea, #FPE-sites input").first
    sites.fill("self:3-99")
    visitor.edit()
    visitor.problem("self:3-99")
    sites.fill("self:7")
    visitor.edit()
    visitor.status("Done in")
    visitor.problem("")


def test_stopped_in_the_middle_and_used_again(visitor, held):
    stop = visitor.page.locator("#edit-stop")
    assert stop.is_disabled()  # there is nothing to stop
    visitor.edit(steps=held)
    visitor.status(f"of {held}")
    stop.click()
    visitor.status("Stopped.")
    visitor.edit(steps=2)
    visitor.status("Done in")
    visitor.settled("edit")


def test_a_click_while_a_job_runs_takes_over(visitor, held):
    visitor.edit(target="a blue cat", steps=held)
    visitor.status(f"of {held}")
    visitor.edit(target="a green horse", steps=2)
    visitor.status("Done in")
    visitor.settled("edit")
    assert "a-green-horse" in visitor.page.locator("#files").inner_text()


def test_a_broken_job_leaves_the_page_as_it_was(visitor, service, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a test's")

    with monkeypatch.context() as patched:
        patched.setattr(type(service.editor), "edit", broken)
        visitor.edit(steps=2)
        visitor.problem("Something broke inside (ZeroDivisionError: a test's)")
        visitor.status("There is no result.")
    visitor.edit(steps=2)
    visitor.status("Done in")
    visitor.problem("")


def test_reloaded_during_a_job(visitor, held):
    visitor.edit(steps=held)
    visitor.status(f"of {held}")
    visitor.open()
    visitor.errors.clear()  # the browser's own complaint that a stream was cut
    visitor.edit(steps=2)
    visitor.status("Done in")


def test_two_users_at_once(visitors, held):
    """The second one waits and is told so; the first one's Stop lets it through."""
    first, second = visitors(), visitors()
    first.edit(target="a blue cat", steps=held)
    first.status(f"of {held}")
    second.edit(target="a green horse", steps=3)
    second.status("Waiting in line: 1 job comes first")
    first.page.locator("#edit-stop").click()
    second.status("Done in")
    first.status("Stopped.")
    first.edit(target="a blue cat", steps=3)
    first.status("Done in")
    for one, target in ((first, "a-blue-cat"), (second, "a-green-horse")):
        assert target in one.page.locator("#files").inner_text()


def test_compare(visitor):
    visitor.tab("Compare")
    page = visitor.page
    visitor.write("compare-steps", 6)
    page.locator("#compare-go").click()
    page.locator("#compare-grid img").wait_for(timeout=120_000)
    page.get_by_text("masactrl").first.wait_for()


def test_attention(visitor):
    visitor.tab("Attention")
    page = visitor.page
    visitor.write("attention-steps", 3)
    page.locator("#attention-go").click()
    page.locator("#word-source img").wait_for(timeout=120_000)
    page.locator("#word-target img").wait_for()
    page.locator("#word-source img").click(position={"x": 60, "y": 60})
    page.locator("#looks-source img").wait_for()
    page.get_by_role("button", name="Make a film over the steps").click()
    page.locator("#film img").wait_for(timeout=120_000)


def test_layers(visitor):
    """Presets and boxes redraw at once; the curve of a search follows, and gives its choices."""
    visitor.tab("Layers")
    page = visitor.page
    said = page.locator("#search-curve figcaption")
    said.get_by_text("The present choice is self:below-top, 0.8").wait_for()
    visitor.write("layers-steps", 4)
    boxes = page.locator("#layer-strip input")
    assert boxes.count() == 16
    command = page.locator("#layers-command .cm-content")
    page.get_by_role("button", name="All", exact=True).click()
    command.get_by_text("self:1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16").wait_for()
    said.get_by_text("The present choice is self:all, 0.8").wait_for()
    boxes.nth(0).click()
    command.get_by_text("self:2,3,4,5,6,7,8,9,10,11,12,13,14,15,16").wait_for()
    said.get_by_text("was not tried").wait_for()
    page.locator("#layers-pair img").first.wait_for()
    page.get_by_label("Take one from its front").click()
    page.get_by_role("option", name="self:below-top, 0.4").click()
    said.get_by_text("The present choice is self:below-top, 0.4").wait_for()
    command.get_by_text("share=0.4").wait_for()


def test_a_window_that_begins_later_and_one_that_ends_too_early(visitor):
    visitor.tab("Layers")
    page = visitor.page
    visitor.write("layers-steps", 4)
    visitor.write("window-start", 0.5)
    page.locator("#layers-go").click()
    page.locator("#layers-command .cm-content").get_by_text("start=0.5").wait_for()
    visitor.write("window-stop", 0.2)
    page.locator("#layers-go").click()
    visitor.problem("The window begins at 0.5", "layers-problem")


def test_scoreboard(visitor):
    visitor.tab("Scoreboard")
    page = visitor.page
    page.get_by_label("Report", exact=True).click()
    page.get_by_role("option", name="run/report.html").click()
    page.frame_locator("#report-page iframe").get_by_text("Leaderboard of a test").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(visitors, scheme):
    """At 390 pixels nothing is wider than the screen, and the halves stand one below the other."""
    visitor = visitors(width=390, height=844, color_scheme=scheme)
    results = {"Edit": "edit-status", "Compare": "compare-status", "Layers": "layers-status"}
    for name in ("Edit", "Compare", "Attention", "Layers", "Scoreboard"):
        visitor.tab(name)
        if name in results:
            box = visitor.page.locator(f"#{results[name]}")
            box.wait_for()
            assert box.bounding_box()["width"] > 300, name
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390, name


def test_everything_has_a_name(visitor):
    """Pictures have alternative texts and controls have labels, in every tab."""
    visitor.edit(steps=2)
    visitor.status("Done in")
    visitor.page.locator("#before-after img").nth(1).wait_for()
    for name in ("Edit", "Compare", "Attention", "Layers", "Scoreboard"):
        visitor.tab(name)
        assert visitor.page.evaluate(NAMELESS) == [], name


def test_by_keyboard(visitor):
    """From the target prompt on, the button is reached and pressed without a mouse."""
    visitor.write("steps", 2)
    page = visitor.page
    page.locator("#targets textarea").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "edit-go":
            break
    else:
        pytest.fail("the Edit button cannot be reached by Tab")
    page.keyboard.press("Enter")
    visitor.status("Done in")
