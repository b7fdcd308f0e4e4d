"""Running a job from a tab: the button that starts it, the one that stops it, what they say."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from freeprompt.studio.jobs import Failed, News, Step, Stopped, Work, sentence
from freeprompt.studio.parts import PRIVATE, bar, problem, seen
from freeprompt.studio.service import Service

Updates = dict[Any, Any]
AT_ONCE: dict[str, Any] = {
    **PRIVATE,
    "trigger_mode": "multiple",  # "once" drops a click as long as an earlier one is not settled
    "concurrency_limit": None,  # the desk keeps the line
    "show_progress": "hidden",  # the status shows it
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a tab wants done, and what it shows of it.

    Attributes:
        work: The work.
        shown: Makes of its result the last line of the status and the other updates.
        stepped: Makes updates of a step, beside the status.
        after: Updates at the end, however it ends.
        beside: Finds the place nearest to the control that a sentence is about; None for the
            tab's own.
    """

    work: Work
    shown: Callable[[Any], tuple[str, Updates]]
    stepped: Callable[[Step], Updates] = lambda step: {}
    after: Updates = field(default_factory=dict)
    beside: Callable[[str], Any] = lambda sentence: None


class Runner:
    """The buttons, the status and the place for problems of a tab that runs jobs.

    The status is written by the job alone, so that "Stopped." is only ever said of a job that has
    ended. Every click starts a job: one that still runs from the same tab makes way for it. So no
    click is lost, and none needs to wait for another.

    Args:
        service: The model.
        name: Name of the tab; the elements' ids begin with it.
    """

    def __init__(self, service: Service, name: str):
        self.service, self.name = service, name
        self._clean: Updates = {}

    def buttons(self, label: str) -> None:
        """Make the place for problems, the button that starts a job and the one that stops it."""
        self.problem = problem(f"{self.name}-problem")
        with gr.Row():
            self.go = gr.Button(label, variant="primary", elem_id=f"{self.name}-go")
            self.stop = gr.Button(
                "Stop", variant="stop", interactive=False, elem_id=f"{self.name}-stop"
            )

    def bar(self, text: str) -> None:
        """Make the status, which says `text` until there is a job."""
        self.status = gr.HTML(bar(text, 0), elem_id=f"{self.name}-status")

    def wire(
        self,
        order: Callable[..., Order],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        problems: Sequence[Any] = (),
        triggers: Sequence[Any] = (),
        follows: Sequence[Any] = (),
    ) -> None:
        """Connect the buttons.

        Args:
            order: Called with the inputs' values; may raise, which is shown as a problem.
            inputs: Components it reads.
            outputs: Components that orders update.
            problems: Further places for problems.
            triggers: Events that start a job, besides the button.
            follows: Events after whose success a job starts.
        """
        places = [self.problem, *problems]
        self._clean = {place: seen("") for place in places}

        def run(request: gr.Request, *values: Any) -> Iterator[Updates]:
            yield from self._run(order, request.session_hash or "", values)

        wiring: dict[str, Any] = {
            "fn": run,
            "inputs": list(inputs),
            "outputs": [self.status, self.stop, *places, *outputs],
            **AT_ONCE,
        }
        gr.on([self.go.click, *triggers], **wiring)
        for event in follows:
            event.success(**wiring)
        self.stop.click(self._halt, **AT_ONCE)

    def _halt(self, request: gr.Request) -> None:
        self.service.halt(request.session_hash or "", self.name)

    def _run(
        self, make: Callable[..., Order], visitor: str, values: Sequence[Any]
    ) -> Iterator[Updates]:
        try:
            order = make(*values)
        except Exception as error:
            yield self._clean | self._failed(sentence(error))
            return
        with self.service.start(order.work, visitor=visitor, place=self.name) as job:
            yield self._going("Starting", 0.0) | self._clean
            for item in job:
                if not job.replaced:  # the newer job has the word
                    yield self._told(item, order)

    def _told(self, item: News, order: Order) -> Updates:
        """Return what the page shows of a piece of news."""
        if isinstance(item, Step):
            return self._going(item.text, item.share) | order.stepped(item)
        if isinstance(item, Failed):
            return self._failed(item.sentence, order.beside(item.sentence)) | order.after
        if isinstance(item, Stopped):
            return self._ended("Stopped.", 0.0) | order.after
        try:
            text, updates = order.shown(item.value)
        except Exception as error:
            return self._failed(sentence(error)) | order.after
        return self._ended(text, 1.0) | order.after | updates

    def _going(self, text: str, share: float) -> Updates:
        return {self.status: bar(text, share), self.stop: gr.update(interactive=True)}

    def _ended(self, text: str, share: float) -> Updates:
        return {self.status: bar(text, share), self.stop: gr.update(interactive=False)}

    def _failed(self, said: str, beside: Any = None) -> Updates:
        return self._ended("There is no result.", 0.0) | {beside or self.problem: seen(said)}
