"""Jobs: work on the one model, in line, told step by step, stopped between two steps."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from queue import Queue
from typing import Any

from PIL import Image

from freeprompt.core.loop import Callback, Progress
from freeprompt.errors import FreepromptError
from freeprompt.images import to_images
from freeprompt.models import UNetModel

Work = Callable[[Callback], Any]

LONGEST_LINE = 32  # jobs; each holds one of the server's 40 threads while it waits
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


class TooLongError(Exception):
    """Raised inside a job that has had its time."""


@dataclass(frozen=True)
class Step:
    """What the page is told while a job waits or runs.

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


@dataclass(frozen=True)
class Stopped:
    """The end of a job that was stopped."""


News = Step | Done | Failed | Stopped


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


class Job:
    """One piece of work, in line from the moment it is made; iterating it tells how it goes.

    As a context it is stopped at the end: whoever no longer listens has no use for the rest.

    Attributes:
        visitor: Whose it is; empty for a program.
        place: From where on the page it was asked for.
        replaced: Whether the same visitor asked for something else from the same place since.
    """

    def __init__(
        self,
        visitor: str,
        place: str,
        changed: threading.Condition,
        previews: Previews | None = None,
    ):
        self.visitor, self.place, self.replaced = visitor, place, False
        self._changed, self._previews, self._share = changed, previews, 0.0
        self._told: Queue[News] = Queue()
        self._stop = threading.Event()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __iter__(self) -> Iterator[News]:
        """Yield steps and, at the end, one `Done`, `Failed` or `Stopped`.

        Whoever listens slowly hears the latest step: news never pile up behind it.
        """
        while True:
            item = self._latest()
            yield item
            if not isinstance(item, Step):
                return

    def _latest(self) -> News:
        item = self._told.get()
        while isinstance(item, Step) and not self._told.empty():
            newer = self._told.get()
            if isinstance(newer, Step):
                newer = replace(newer, preview=newer.preview or item.preview)
            item = newer
        return item

    @property
    def stopping(self) -> bool:
        """Whether it is to end."""
        return self._stop.is_set()

    def stop(self) -> None:
        """End it: at once if it waits, else after the present step, which is said."""
        with self._changed:
            if not self.stopping:
                self._stop.set()
                self.tell(Step("Stopping after this step", self._share))
                self._changed.notify_all()

    def tell(self, item: News) -> None:
        """Let whoever iterates know."""
        self._told.put(item)

    def callback(self, until: float) -> Callback:
        """Return the callback that tells of the work's progress.

        Args:
            until: Time by `time.monotonic` at which it has taken too long.
        """

        def progressed(progress: Progress) -> None:
            if self.stopping:
                raise StoppedError
            if time.monotonic() > until:
                raise TooLongError
            step = _step(progress, self._previews)
            self._share = step.share
            self.tell(step)

        return progressed


class Desk:
    """Does one job at a time, in the order in which they were asked for.

    A job is known from `start` on, so that whatever comes after it, a `halt` or a newer job, finds
    it: waiting, about to begin, or at work.

    Args:
        limit: Seconds that a job may take once it has begun.
    """

    def __init__(self, limit: float):
        self.limit = limit
        self._line: list[Job] = []  # the first one has the model
        self._changed = threading.Condition()  # reentrant

    def start(
        self, work: Work, *, visitor: str = "", place: str = "", previews: Previews | None = None
    ) -> Job:
        """Put work in line, in place of what the same visitor asked for from the same place.

        Args:
            work: Called with a progress callback, which raises `StoppedError` to end it.
            visitor: Whose it is; empty for a program, which replaces nothing.
            place: From where on the page it is asked for.
            previews: Makes previews, or None for none.
        """
        job = Job(visitor, place, self._changed, previews)
        with self._changed:
            for other in self._of(visitor, place):
                other.replaced = True
                other.stop()
            if len(self._line) >= LONGEST_LINE:
                job.tell(Failed(f"{LONGEST_LINE} jobs are in line already. Try again in a while."))
                return job
            self._line.append(job)
        threading.Thread(target=self._do, args=(job, work), daemon=True).start()
        return job

    def halt(self, visitor: str, place: str | None = None) -> None:
        """Stop a visitor's jobs.

        Args:
            visitor: Whose.
            place: Only those asked for from there; None for all.
        """
        with self._changed:
            for job in self._of(visitor, place):
                job.stop()

    def _of(self, visitor: str, place: str | None) -> list[Job]:
        mine = [job for job in self._line if visitor and job.visitor == visitor]
        return [job for job in mine if place in (None, job.place)]

    def _do(self, job: Job, work: Work) -> None:
        """Wait, work, leave the line, tell how it ended; in a thread of its own."""

        def whole() -> Any:
            self._wait(job)
            return work(job.callback(time.monotonic() + self.limit))

        outcome = self._outcome(whole)
        with self._changed:
            self._line.remove(job)
            self._changed.notify_all()
        job.tell(outcome)

    def _wait(self, job: Job) -> None:
        """Return when the job is the first in line.

        Raises:
            StoppedError: if it was stopped meanwhile.
        """
        said = 0
        with self._changed:
            while (before := self._line.index(job)) and not job.stopping:
                if before != said:
                    job.tell(Step(_waiting(before), 0.0))
                    said = before
                self._changed.wait()
        if job.stopping:
            raise StoppedError

    def _outcome(self, whole: Callable[[], Any]) -> News:
        try:
            return Done(whole())
        except StoppedError:
            return Stopped()
        except TooLongError:
            return Failed(
                f"The job was stopped: it took longer than {self.limit:g} seconds. "
                "Use fewer steps, or start the studio with a larger --time-limit."
            )
        except Exception as error:
            return Failed(sentence(error))


def sentence(error: Exception) -> str:
    """Say what went wrong; what nobody foresaw goes to the log as well, with its traceback."""
    if isinstance(error, FreepromptError):
        return str(error)
    logging.getLogger(__name__).error("a job of the studio failed", exc_info=error)
    return (
        f"Something broke inside ({type(error).__name__}: {error}). The page goes on working; "
        "the details are in the terminal."
    )


def _step(progress: Progress, previews: Previews | None) -> Step:
    text = f"{LABELS.get(progress.phase, progress.phase)}: step {progress.step + 1}"
    return Step(
        text=f"{text} of {progress.steps}",
        share=(progress.step + 1) / progress.steps,
        preview=previews.look(progress) if previews else None,
    )


def _waiting(before: int) -> str:
    jobs = "1 job comes" if before == 1 else f"{before} jobs come"
    return f"Waiting in line: {jobs} first"
