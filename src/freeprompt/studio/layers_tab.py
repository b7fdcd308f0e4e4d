"""The tab in which the layers and the window of Free-Prompt-Editing are chosen by hand."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from freeprompt.api import EditResult
from freeprompt.core import Site, Sites
from freeprompt.core.loop import Callback
from freeprompt.errors import FreepromptError
from freeprompt.studio.jobs import Failed, Step
from freeprompt.studio.parts import BUTTONS, QUEUE, bar, large, problem, seen
from freeprompt.studio.recipe import Recipe
from freeprompt.studio.service import Service

PRESETS = {"None": "none", "Below top": "self:below-top", "Paper": "self:paper", "All": "self:all"}


class LayersTab:
    """Controls and the redrawn edit of the layers tab.

    Args:
        service: The model.
    """

    def __init__(self, service: Service):
        self.service = service
        self.sites = [s for s in service.editor.model.sites if s.kind == "self"]
        side = service.editor.model.native_size // service.editor.model.granularity
        self.labels = {s.index: _label(s, side) for s in self.sites}
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.source = gr.Textbox("a red car on the street", label="Source prompt")
                self.target = gr.Textbox("a blue bus on the street", label="Target prompt")
                with gr.Row():
                    buttons = {name: gr.Button(name, size="sm") for name in PRESETS}
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
                self.problem = problem("layers-problem")
                go = gr.Button("Redraw", variant="primary", elem_id="layers-go")
            with gr.Column(scale=3, min_width=320):
                self.status = gr.HTML(bar("Change a layer or the window to redraw.", 0))
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
        for name, button in buttons.items():
            button.click(
                lambda chosen=PRESETS[name]: self._preset(chosen),
                None,
                [self.strip, self.problem],
                api_visibility="private",
            )
        gr.on(
            [go.click, self.strip.input, self.window.release],
            self._redraw,
            [self.source, self.target, self.strip, self.window, self.steps, self.seed],
            [self.status, self.slider, self.command, self.problem],
            concurrency_limit=1,
            concurrency_id=QUEUE,
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )

    def _selected(self, expression: str) -> list[str]:
        model = self.service.editor.model
        return [self.labels[s.index] for s in Sites(expression).select(model.sites, model.name)]

    def _preset(self, expression: str) -> tuple[Any, Any]:
        try:
            return self._selected(expression), seen("")
        except FreepromptError as error:
            return gr.update(), seen(str(error))

    def expression(self, strip: Sequence[str]) -> str:
        """Return the site expression of the layers that are switched on."""
        chosen = [str(index) for index, label in self.labels.items() if label in strip]
        return "self:" + ",".join(chosen) if chosen else "none"

    def _redraw(
        self,
        request: gr.Request,
        source: str,
        target: str,
        strip: list[str],
        window: float,
        steps: float,
        seed: float,
    ) -> Iterator[Mapping[Any, Any]]:
        recipe = Recipe(
            model=self.service.model,
            targets=[target],
            source=source,
            steps=int(steps),
            seed=int(seed or 0),
            parameters={"sites": self.expression(strip), "share": round(float(window), 2)},
        )

        def work(callback: Callback) -> EditResult:
            return self.service.editor.edit(recipe.targets, callback=callback, **recipe.arguments())

        for item in self.service.run(work, request.session_hash):
            if isinstance(item, Step):
                yield {self.status: bar(item.text, item.share)}
            elif isinstance(item, Failed):
                sentence = item.sentence
                yield {self.status: bar("There is no result.", 0), self.problem: seen(sentence)}
            else:
                result: EditResult = item.value
                yield {
                    self.status: bar(f"Done in {result.provenance.seconds:.1f} s.", 1),
                    self.slider: (large(result.source), large(result.images[0])),
                    self.command: recipe.command(),
                    self.problem: seen(" ".join(result.provenance.notes)),
                }

    def _curves(self) -> list[tuple[str, str]]:
        """Return the pictures that `freeprompt search` left in the results folder."""
        folder = Path(self.service.results)
        found = sorted(folder.rglob("*search*.png")) if folder.is_dir() else []
        return [(str(path), path.stem) for path in found]


def _label(site: Site, side: int) -> str:
    height, width = site.grid(side, side)
    return f"{site.index}: {site.block} {height}x{width}"
