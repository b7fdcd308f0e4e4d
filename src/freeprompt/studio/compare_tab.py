"""The tab that sets all methods side by side on one source."""

from typing import Any

import gradio as gr

from freeprompt.api.compare import Comparison, compare, fitting_methods
from freeprompt.core.loop import Callback
from freeprompt.models.defaults import defaults_of
from freeprompt.studio.parts import BUTTONS, PRIVATE, bar, number, whole
from freeprompt.studio.runs import Order, Runner, Updates
from freeprompt.studio.service import Service

FIRST = ("fpe", "p2p", "masactrl", "sdedit")


class CompareTab:
    """Controls and the grid of the compare tab.

    Args:
        service: The model.
    """

    def __init__(self, service: Service):
        self.service, self.runner = service, Runner(service, "compare")
        usual = defaults_of(self.service.editor.model)
        fitting = list(fitting_methods(self.service.editor.model))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.source = gr.Textbox("a red car on the street", label="Source prompt")
                self.image = gr.File(
                    label="Or an image", file_types=["image"], type="filepath", height=110
                )
                self.target = gr.Textbox("a blue car on the street", label="Target prompt")
                self.methods = gr.CheckboxGroup(
                    fitting,
                    value=[name for name in fitting if name in FIRST],
                    label="Methods",
                    elem_id="compare-methods",
                )
                everything = gr.Button("Choose all", size="sm")
                with gr.Row():
                    self.steps = gr.Slider(
                        1, 200, value=usual.steps, step=1, label="Steps", elem_id="compare-steps"
                    )
                    self.guidance = gr.Slider(
                        0, 20, value=usual.guidance, step=0.1, label="Guidance"
                    )
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                self.runner.buttons("Compare")
            with gr.Column(scale=3, min_width=320):
                self.runner.bar("Nothing has been compared yet.")
                self.grid = gr.Image(
                    buttons=BUTTONS,
                    alt_text="Every method on the same source",
                    label="Every method on the same source",
                    interactive=False,
                    format="png",
                    elem_id="compare-grid",
                )
                self.costs = gr.Dataframe(
                    headers=["method", "sample-forwards", "seconds", "refused"],
                    label="Cost, inversion included",
                    interactive=False,
                    wrap=True,
                )
        everything.click(lambda: fitting, None, self.methods, trigger_mode="multiple", **PRIVATE)
        self.runner.wire(
            self._order,
            [
                self.source,
                self.image,
                self.target,
                self.methods,
                self.steps,
                self.guidance,
                self.seed,
            ],
            [self.grid, self.costs],
        )

    def _order(
        self,
        source: str,
        image: str | None,
        target: str,
        methods: list[str],
        steps: float,
        guidance: float,
        seed: float,
    ) -> Order:
        now = {"method": ""}
        wishes: dict[str, Any] = {
            "source": source.strip() or None,
            "image": image,
            "methods": methods,
            "steps": whole(steps, "Steps"),
            "guidance": number(guidance, "Guidance"),
            "seed": whole(seed, "Seed"),
        }

        def work(callback: Callback) -> Comparison:
            def begin(method: str) -> Callback:
                now["method"] = f"{method} ({methods.index(method) + 1} of {len(methods)}), "
                return callback

            return compare(self.service.editor, target, begin=begin, **wishes)

        return Order(
            work=work,
            shown=self._shown,
            stepped=lambda step: {
                self.runner.status: bar(now["method"] + step.text, step.share),
            },
        )

    def _shown(self, done: Comparison) -> tuple[str, Updates]:
        return "Done.", {
            self.grid: done.picture(columns=3),
            self.costs: [
                [e.method, e.sample_forwards, round(e.seconds, 1), e.refused] for e in done.entries
            ],
        }
