"""The tab in which the layers and the window of Free-Prompt-Editing are chosen by hand."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import gradio as gr

from freeprompt.api import EditResult
from freeprompt.core import Site, Sites
from freeprompt.errors import FreepromptError
from freeprompt.studio.parts import BUTTONS, ONE_BY_ONE, large, seen, whole
from freeprompt.studio.recipe import Recipe
from freeprompt.studio.runs import Order, Runner, Updates
from freeprompt.studio.service import Service

PRESETS = {"None": "none", "Below top": "self:below-top", "Paper": "self:paper", "All": "self:all"}


class LayersTab:
    """Controls and the redrawn edit of the layers tab.

    Args:
        service: The model.
    """

    def __init__(self, service: Service):
        self.service, self.runner = service, Runner(service, "layers")
        self.sites = [s for s in service.editor.model.sites if s.kind == "self"]
        side = service.editor.model.native_size // service.editor.model.granularity
        self.labels = {s.index: _label(s, side) for s in self.sites}
        self.presets = self._presets()
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.source = gr.Textbox("a red car on the street", label="Source prompt")
                self.target = gr.Textbox("a blue bus on the street", label="Target prompt")
                with gr.Row():
                    buttons = {name: gr.Button(name, size="sm") for name in self.presets}
                self.strip = gr.CheckboxGroup(
                    list(self.labels.values()),
                    value=self._selected("self:below-top"),
                    label="Layers that take the source's self-attention, as they run",
                    elem_id="layer-strip",
                )
                self.window = gr.Slider(
                    0,
                    1,
                    value=0.8,
                    step=0.02,
                    label="Window: share of the steps, from the first",
                    elem_id="layer-window",
                )
                with gr.Row():
                    self.steps = gr.Slider(
                        1, 100, value=20, step=1, label="Steps", elem_id="layers-steps"
                    )
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                self.runner.buttons("Redraw")
            with gr.Column(scale=3, min_width=320):
                self.runner.bar("Change a layer or the window to redraw.")
                self.slider = gr.ImageSlider(
                    label="Source and edit", format="png", interactive=False, elem_id="layers-pair"
                )
                self.command = gr.Code(label="Command line", language="shell", interactive=False)
                with gr.Accordion("What the layer search found", open=False):
                    self.curve = gr.Gallery(
                        self._curves(),
                        buttons=BUTTONS,
                        label="Layer search",
                        format="png",
                        columns=1,
                    )
        presets = [
            button.click(
                lambda chosen=self.presets[name]: chosen,
                None,
                self.strip,
                concurrency_id="strip",
                **ONE_BY_ONE,
            )
            for name, button in buttons.items()
        ]
        self.runner.wire(
            self._order,
            [self.source, self.target, self.strip, self.window, self.steps, self.seed],
            [self.slider, self.command],
            triggers=[self.strip.input, self.window.release],
            follows=presets,
        )

    def _selected(self, expression: str) -> list[str]:
        model = self.service.editor.model
        return [self.labels[s.index] for s in Sites(expression).select(model.sites, model.name)]

    def _presets(self) -> dict[str, list[str]]:
        """Return the layers of every preset that this model has."""
        found = {}
        for name, expression in PRESETS.items():
            with suppress(FreepromptError):
                found[name] = self._selected(expression)
        return found

    def expression(self, strip: Sequence[str]) -> str:
        """Return the site expression of the layers that are switched on."""
        chosen = [str(index) for index, label in self.labels.items() if label in strip]
        return "self:" + ",".join(chosen) if chosen else "none"

    def _order(
        self,
        source: str,
        target: str,
        strip: list[str],
        window: float,
        steps: float,
        seed: float,
    ) -> Order:
        recipe = Recipe(
            model=self.service.model,
            targets=[target],
            source=source,
            steps=whole(steps, "Steps"),
            seed=whole(seed, "Seed"),
            parameters={"sites": self.expression(strip), "share": round(float(window), 2)},
        )
        return Order(
            work=self.service.editing(recipe), shown=lambda result: self._shown(result, recipe)
        )

    def _shown(self, result: EditResult, recipe: Recipe) -> tuple[str, Updates]:
        return f"Done in {result.provenance.seconds:.1f} s.", {
            self.slider: (large(result.source), large(result.images[0])),
            self.command: recipe.command(),
            self.runner.problem: seen(" ".join(result.provenance.notes)),
        }

    def _curves(self) -> list[tuple[str, str]]:
        """Return the pictures that `freeprompt search` left in the results folder."""
        folder = Path(self.service.results)
        found = sorted(folder.rglob("*search*.png")) if folder.is_dir() else []
        return [(str(path), path.stem) for path in found]


def _label(site: Site, side: int) -> str:
    height, width = site.grid(side, side)
    return f"{site.index}: {site.block} {height}x{width}"
