"""Jobs: work on the one model, told step by step, cancelled between two steps."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any

from PIL import Image

from freeprompt.core.loop import Callback, Progress
from freeprompt.errors import FreepromptError
from freeprompt.images import to_images
from freeprompt.models import UNetModel

PREVIEW_SECONDS = 0.7  # between two previews, at least
PREVIEW_SHARE = 10  # and at least so many times what a preview takes
LABELS = {
    "invert": "inverting the image",
    "optimise": "tuning the inversion",
    "source": "drawing the source",
    "edit": "editing",
    "reconstruct": "checking the inversion",
}


class StoppedError(Exception):
    """Raised inside a job, between two steps, to end it."""


@dataclass(frozen=True)
class Step:
    """What the page is told while a job runs.

    Attributes:
        text: What is going on.
        share: How much of the present phase is done, in [0, 1].
        preview: What the target looks like now, or None if there is no newer look.
    """

    text: str
    share: float
    preview: Image.Image | None = None


@dataclass(frozen=True)
class Done:
    """The result of a job."""

    value: Any


@dataclass(frozen=True)
class Failed:
    """A sentence about why there is no result."""

    sentence: str


class Previews:
    """Decodes the target now and then, and never for more than a tenth of the time."""

    def __init__(self, model: UNetModel):
        self._model, self._next = model, 0.0

    def look(self, progress: Progress) -> Image.Image | None:
        """Return a picture of the first target, or None if it is not time yet."""
        began = time.monotonic()
        latent = progress.state.get("target")
        if began < self._next or latent is None or progress.phase != "edit":
            return None
        picture = to_images(self._model.decode(latent[:1]).clamp(-1, 1))[0]
        taken = time.monotonic() - began
        self._next = began + max(PREVIEW_SECONDS, PREVIEW_SHARE * taken)
        return picture


class Desk:
    """Does one job at a time, and knows whose it is.

    A page that is closed or stopped leaves its generator hanging, and the work would go on unseen.
    So a job is ended by its owner's `halt`, or by the next job, which waits for at most one step.

    Args:
        limit: Seconds that a job may take.
    """

    def __init__(self, limit: float):
        self.limit = limit
        self._busy, self._stop, self._owner = threading.Lock(), threading.Event(), ""

    def halt(self, owner: str) -> None:
        """End the present job between two steps, if it is this owner's."""
        if owner == self._owner:
            self._stop.set()

    def run(
        self, work: Callable[[Callback], Any], *, owner: str = "", previews: Previews | None = None
    ) -> Iterator[Step | Done | Failed]:
        """Do work in a thread and tell of it.

        Args:
            work: Called with a progress callback, which raises `StoppedError` to end it.
            owner: Whose it is.
            previews: Makes previews, or None for none.

        Yields:
            Steps, and at the end one `Done` or `Failed`.
        """
        told: Queue[Step | Done | Failed] = Queue()
        self._stop.set()  # whatever still runs has nobody left to look at it

        def whole() -> None:
            with self._busy:
                stop = self._stop = threading.Event()
                self._owner, began = owner, time.monotonic()

                def callback(progress: Progress) -> None:
                    if stop.is_set():
                        raise StoppedError("The job was stopped.")
                    if time.monotonic() > began + self.limit:
                        raise StoppedError(
                            f"The job was stopped: it took longer than {self.limit:g} seconds. "
                            "Use fewer steps, or start the studio with a larger --time-limit."
                        )
                    told.put(_step(progress, previews))

                told.put(_outcome(work, callback))

        threading.Thread(target=whole, daemon=True).start()
        while True:
            item = told.get()
            yield item
            if not isinstance(item, Step):
                return


def _step(progress: Progress, previews: Previews | None) -> Step:
    text = f"{LABELS.get(progress.phase, progress.phase)}: step {progress.step + 1}"
    return Step(
        text=f"{text} of {progress.steps}",
        share=(progress.step + 1) / progress.steps,
        preview=previews.look(progress) if previews else None,
    )


def _outcome(work: Callable[[Callback], Any], callback: Callback) -> "Done | Failed":
    try:
        return Done(work(callback))
    except (FreepromptError, StoppedError) as error:
        return Failed(str(error))
    except Exception as error:
        logging.getLogger(__name__).exception("a job of the studio failed")
        return Failed(
            f"Something broke inside ({type(error).__name__}: {error}). The page goes on working; "
            "the details are in the terminal."
        )
