"""The tab that sets all methods side by side on one source."""

from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from freeprompt.api.compare import Comparison, compare
from freeprompt.core.loop import Callback
from freeprompt.methods import METHODS
from freeprompt.studio.jobs import Failed, Step
from freeprompt.studio.parts import BUTTONS, QUEUE, bar, problem, seen
from freeprompt.studio.service import Service

FIRST = ("fpe", "p2p", "masactrl", "sdedit")


class CompareTab:
    """Controls and the grid of the compare tab.

    Args:
        service: The model.
    """

    def __init__(self, service: Service):
        self.service = service
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                self.source = gr.Textbox("a red car on the street", label="Source prompt")
                self.image = gr.File(
                    label="Or an image", file_types=["image"], type="filepath", height=110
                )
                self.target = gr.Textbox("a blue car on the street", label="Target prompt")
                self.methods = gr.CheckboxGroup(
                    list(METHODS), value=list(FIRST), label="Methods", elem_id="compare-methods"
                )
                everything = gr.Button("Choose all", size="sm")
                with gr.Row():
                    self.steps = gr.Slider(
                        1, 200, value=50, step=1, label="Steps", elem_id="compare-steps"
                    )
                    self.guidance = gr.Slider(0, 20, value=7.5, step=0.1, label="Guidance")
                    self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                self.problem = problem("compare-problem")
                with gr.Row():
                    go = gr.Button("Compare", variant="primary", elem_id="compare-go")
                    stop = gr.Button("Stop", variant="stop")
            with gr.Column(scale=3, min_width=320):
                self.status = gr.HTML(bar("Nothing has been compared yet.", 0))
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
        everything.click(lambda: list(METHODS), None, self.methods, api_visibility="private")
        running = go.click(
            self._compare,
            [
                self.source,
                self.image,
                self.target,
                self.methods,
                self.steps,
                self.guidance,
                self.seed,
            ],
            [self.status, self.grid, self.costs, self.problem],
            concurrency_limit=1,
            concurrency_id=QUEUE,
            show_progress="minimal",
            show_progress_on=self.status,
            api_visibility="private",
        )
        stop.click(
            self._stopped,
            None,
            self.status,
            cancels=[running],
            api_visibility="private",
        )

    def _stopped(self, request: gr.Request) -> str:
        self.service.halt(request.session_hash)
        return bar("Stopped.", 0)

    def _compare(
        self,
        request: gr.Request,
        source: str,
        image: str | None,
        target: str,
        methods: list[str],
        steps: float,
        guidance: float,
        seed: float,
    ) -> Iterator[Mapping[Any, Any]]:
        yield {self.status: bar("Starting", 0), self.problem: seen("")}
        now = {"method": ""}

        def work(callback: Callback) -> Comparison:
            def begin(method: str) -> Callback:
                now["method"] = f"{method} ({methods.index(method) + 1} of {len(methods)}), "
                return callback

            return compare(
                self.service.editor,
                target,
                source=source.strip() or None,
                image=image,
                methods=methods,
                steps=int(steps),
                guidance=float(guidance),
                seed=int(seed or 0),
                begin=begin,
            )

        for item in self.service.run(work, request.session_hash):
            if isinstance(item, Step):
                yield {self.status: bar(now["method"] + item.text, item.share)}
            elif isinstance(item, Failed):
                sentence = item.sentence
                yield {self.status: bar("There is no result.", 0), self.problem: seen(sentence)}
            else:
                done: Comparison = item.value
                yield {
                    self.status: bar("Done.", 1),
                    self.grid: done.picture(columns=3),
                    self.costs: [
                        [e.method, e.sample_forwards, round(e.seconds, 1), e.refused]
                        for e in done.entries
                    ],
                }
