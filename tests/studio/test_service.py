"""What the page stands on, without a browser: jobs, recipes, controls, refusals, the interface."""

import os
import shlex
import threading
import time

import httpx
import pytest
from PIL import Image
from tests.api.samples import small_sd

pytest.importorskip("gradio")

from freeprompt.api import Editor
from freeprompt.api.provenance import Provenance
from freeprompt.cli import studio as command
from freeprompt.core import Progress, Sites
from freeprompt.errors import ConfigError
from freeprompt.inversion import INVERSIONS
from freeprompt.methods import FPE, METHODS
from freeprompt.models.defaults import Defaults
from freeprompt.studio.controls import panel
from freeprompt.studio.jobs import LONGEST_LINE, Desk, Done, Failed, Job, Step, Stopped
from freeprompt.studio.page import check_address, launch
from freeprompt.studio.recipe import Recipe
from freeprompt.studio.service import KEPT_SECONDS, Service


def steps(count, between=lambda: None):
    def work(callback):
        for i in range(count):
            callback(Progress("edit", i, count, {}))
            between()
        return count

    return work


class Held:
    """Work of many steps that goes on, a step at a time, when it is told to."""

    def __init__(self, count=1000):
        self.count, self.steps = count, 0
        self.begun, self.go = threading.Event(), threading.Semaphore(0)

    def __call__(self, callback):
        for i in range(self.count):
            callback(Progress("edit", i, self.count, {}))
            self.steps += 1
            self.begun.set()
            assert self.go.acquire(timeout=60)
        return "all"


def last(job):
    return list(job)[-1]


class TestDesk:
    def test_steps_and_then_the_result(self):
        work = Held(2)
        told = iter(Desk(60).start(work))
        assert next(told) == Step("editing: step 1 of 2", 0.5)
        work.go.release()
        assert next(told) == Step("editing: step 2 of 2", 1)
        work.go.release()
        assert list(told) == [Done("all")]

    def test_a_slow_listener_hears_the_latest_step(self):
        job, look = Job("", "", threading.Condition()), Image.new("RGB", (2, 2))
        job.tell(Step("one", 0.1, look))
        job.tell(Step("two", 0.2))
        assert next(iter(job)) == Step("two", 0.2, look)
        job.tell(Step("three", 0.3))
        job.tell(Done(3))
        assert list(job) == [Done(3)]

    def test_an_error_is_a_sentence(self):
        def wrong(callback):
            raise ConfigError("share must be smaller.")

        def broken(callback):
            raise ZeroDivisionError("division by zero")

        desk = Desk(10)
        assert list(desk.start(wrong)) == [Failed("share must be smaller.")]
        (failed,) = desk.start(broken)
        assert "ZeroDivisionError" in failed.sentence
        assert "goes on working" in failed.sentence
        assert last(desk.start(steps(1))) == Done(1)

    def test_the_time_limit(self):
        told = list(Desk(0.05).start(steps(1000, lambda: time.sleep(0.01))))
        assert "longer than 0.05 seconds" in told[-1].sentence
        assert len(told) < 100

    def test_only_the_visitor_halts_a_job(self):
        desk, work = Desk(60), Held()
        running = desk.start(work, visitor="a", place="edit")
        told = iter(running)
        assert next(told).text == "editing: step 1 of 1000"
        desk.halt("b")
        desk.halt("a", "compare")
        desk.halt("")
        assert not running.stopping
        desk.halt("a", "edit")
        assert next(told) == Step("Stopping after this step", 0.001)
        work.go.release()
        assert next(told) == Stopped()
        assert work.steps == 1

    def test_a_job_is_halted_before_it_has_begun(self):
        """Whatever the threads do, a halt after `start` finds the job."""
        desk, work = Desk(60), Held()
        first = desk.start(work, visitor="a")
        second = desk.start(steps(3), visitor="b")
        desk.halt("b")
        assert last(second) == Stopped()
        first.stop()
        work.go.release()
        assert last(first) == Stopped()

    def test_a_newer_job_of_the_same_place_takes_over(self):
        desk, work = Desk(60), Held()
        old = desk.start(work, visitor="a", place="edit")
        other = desk.start(steps(1), visitor="a", place="compare")
        new = desk.start(steps(2), visitor="a", place="edit")
        assert (old.replaced, other.replaced, new.replaced) == (True, False, False)
        work.go.release()
        assert [last(job) for job in (old, other, new)] == [Stopped(), Done(1), Done(2)]

    def test_programs_replace_nothing(self):
        desk = Desk(60)
        assert [last(desk.start(steps(n))) for n in (1, 2)] == [Done(1), Done(2)]
        jobs = [desk.start(steps(n)) for n in (1, 2)]
        assert [last(job) for job in jobs] == [Done(1), Done(2)]

    def test_the_place_in_line_is_told(self):
        desk, work = Desk(60), Held()
        first = desk.start(work, visitor="a")
        assert work.begun.wait(60)
        second, third = (desk.start(steps(1), visitor=name) for name in "bc")
        waiting = iter(third)
        assert next(waiting).text == "Waiting in line: 2 jobs come first"
        second.stop()
        assert next(waiting).text == "Waiting in line: 1 job comes first"
        first.stop()
        work.go.release()
        assert last(waiting) == Done(1)

    def test_whoever_no_longer_listens_ends_it(self):
        desk, work = Desk(60), Held()
        with desk.start(work) as job:
            assert next(iter(job)).text == "editing: step 1 of 1000"
        work.go.release()
        assert last(desk.start(steps(2))) == Done(2)
        assert work.steps == 1

    def test_a_full_line(self):
        desk, work = Desk(60), Held()
        jobs = [desk.start(work) for _ in range(LONGEST_LINE)]
        assert "32 jobs are in line already" in last(desk.start(steps(1))).sentence
        for job in jobs:
            job.stop()
        work.go.release()
        assert [last(job) for job in jobs] == [Stopped()] * LONGEST_LINE
        assert last(desk.start(steps(1))) == Done(1)


class TestRecipe:
    def recipe(self, **more):
        return Recipe(model="tiny-sd", targets=["a 'blue' cat"], source="a red dog", **more)

    def test_the_command_says_what_the_arguments_say(self):
        recipe = self.recipe(
            method="p2p", steps=3, seed=5, guidance=4.5, parameters={"mode": "replace"}
        )
        words = shlex.split(recipe.command())
        assert words[:3] == ["freeprompt", "edit", "a 'blue' cat"]
        pairs = dict(zip(words[3::2], words[4::2], strict=True))
        assert pairs["--set"] == "mode=replace"
        assert (pairs["--steps"], pairs["--seed"], pairs["--guidance"]) == ("3", "5", "4.5")
        assert recipe.arguments()["mode"] == "replace"

    def test_an_upload_is_named_as_its_owner_named_it(self):
        recipe = self.recipe(image="somewhere/uploads/my photo.png")
        assert "--image 'my photo.png'" in recipe.command()
        assert "image='my photo.png'" in recipe.python()

    def test_the_python_runs(self, service, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        exec(self.recipe(steps=2).python(), {})
        assert Provenance.from_png("out/a-blue-cat.png").steps == 2


class TestControls:
    @pytest.mark.parametrize("registry", [METHODS, INVERSIONS])
    def test_every_parameter_has_one_with_its_range_and_help(self, registry):
        import gradio as gr

        with gr.Blocks(analytics_enabled=False):
            made = panel(registry, next(iter(registry)))
        wanted = [(name, key) for name, cls in registry.items() for key in cls.specs()]
        assert list(made.fields) == wanted
        for (owner, key), component in zip(made.fields, made.components, strict=True):
            spec = registry[owner].specs()[key]
            assert component.info == spec.help
            assert component.value == registry[owner]().to_dict()[key]
            if isinstance(component, gr.Slider):
                assert (component.minimum, component.maximum) == (spec.low, spec.high)

    def test_only_what_was_changed_is_given(self):
        import gradio as gr

        with gr.Blocks(analytics_enabled=False):
            made = panel(METHODS, "fpe")
        values = list(made.defaults)
        values[made.fields.index(("fpe", "share"))] = 0.5
        values[made.fields.index(("p2p", "cross"))] = 0.9
        assert made.given("fpe", values) == {"share": 0.5}
        assert made.given("p2p", values) == {"cross": 0.9}
        assert made.given("sdedit", values) == {}

    def test_a_models_own_layers_stand_in_the_place_of_the_papers(self):
        import gradio as gr

        usual = Defaults(origin="a test", sites="self:all")
        with gr.Blocks(analytics_enabled=False):
            made = panel(METHODS, "fpe", usual)
        place = made.fields.index(("fpe", "sites"))
        assert made.components[place].value == "self:all"
        assert made.given("fpe", made.defaults) == {}  # the editor fills in the same
        chosen = list(made.defaults)
        chosen[place] = "self:below-top"
        assert made.given("fpe", chosen) == {"sites": "self:below-top"}


@pytest.mark.parametrize(
    ("name", "expression"), [("emoji-sd", "self:all"), ("tiny-sd", "self:below-top")]
)
def test_the_layers_tab_starts_at_the_models_own_layers(name, expression, tmp_path):
    """Defaults go by the model's name: here of a small one that is called so."""
    import gradio as gr

    from freeprompt.studio.layers_tab import LayersTab

    editor = Editor(small_sd(), name=name)
    service = Service(editor=editor, model=name, results=tmp_path)
    try:
        with gr.Blocks(analytics_enabled=False):
            tab = LayersTab(service)
    finally:
        service.close()
    chosen = Sites(expression).select(editor.model.sites, name)
    assert tab.strip.value == [tab.labels[site.index] for site in chosen]
    assert (tab.start.value, tab.stop.value) == (FPE().start, FPE().share)


class TestAddress:
    def test_others_need_a_password(self):
        with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0.*--auth name:password"):
            check_address("0.0.0.0", None)
        check_address("0.0.0.0", ("me", "secret"))
        check_address("127.0.0.1", None)

    @pytest.mark.parametrize("host", ["203.0.113.7", "", "a..b"])
    def test_an_address_of_another_machine(self, host):
        with pytest.raises(ConfigError, match="no address of this machine"):
            check_address(host, ("me", "secret"))

    @pytest.mark.parametrize("auth", ["me", "me:", ":secret", ""])
    def test_half_a_password(self, auth):
        with pytest.raises(ConfigError, match="name:password"):
            command.parse_auth(auth)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_functions_over_http(address, photo):
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    listed = client.predict(api_name="/methods")
    assert list(listed) == list(METHODS)
    assert client.predict("fpe", api_name="/parameters")["share"]["default"] == 0.8
    path, provenance = client.predict(
        target="a blue cat", source="a red dog", steps=2, api_name="/edit"
    )
    assert Provenance.from_png(path).targets == ("a blue cat",)
    assert provenance["steps"] == 2
    with pytest.raises(Exception, match="steps"):
        client.predict(target="a blue cat", source="a red dog", steps=0, api_name="/edit")
    with pytest.raises(Exception, match="uploaded here"):
        client.predict(target="a blue cat", image=str(photo), steps=2, api_name="/edit")
    for name in ("image", "mask", "keep", "latents"):
        with pytest.raises(Exception, match=f"Unknown parameter '{name}'"):
            client.predict(
                target="a blue cat",
                source="a red dog",
                steps=2,
                parameters={name: str(photo)},
                api_name="/edit",
            )
    uploaded = handle_file(str(photo))
    assert uploaded["orig_name"] == "photo.png"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_page_with_a_password_answers_nobody_else(service, port):
    page, address = launch(service, port=port(), auth=("me", "secret"), wait=False)
    try:
        with httpx.Client(base_url=address, trust_env=False) as visitor:
            assert visitor.get("/config").status_code == 401
            assert visitor.get("/gradio_api/info").status_code == 401
            given = {"username": "me", "password": "wrong"}
            assert visitor.post("/login", data=given).status_code == 400
            visitor.post("/login", data={**given, "password": "secret"}).raise_for_status()
            assert visitor.get("/config").status_code == 200
    finally:
        page.close(verbose=False)


def test_another_address_is_warned_of(monkeypatch, capsys):
    """The sentence comes before the model is loaded."""

    def loaded(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("freeprompt.cli.loading.load", loaded)
    with pytest.raises(KeyboardInterrupt):
        command.studio(host="0.0.0.0", auth="me:secret")
    assert "can be reached by others, unencrypted" in capsys.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        command.studio()
    assert capsys.readouterr().err == ""


def test_downloads_are_deleted_when_old_and_at_the_end(service, tmp_path):
    mine = Service(editor=service.editor, model="tiny-sd", files=tmp_path / "files")
    for name, age in (("old", KEPT_SECONDS + 60), ("new", KEPT_SECONDS - 60)):
        (mine.files / name).mkdir(parents=True)
        (mine.files / name / "edit.png").touch()
        os.utime(mine.files / name, (time.time() - age,) * 2)
    mine.tidy()
    assert [path.name for path in mine.files.iterdir()] == ["new"]
    mine.close()
    assert not mine.files.exists()
