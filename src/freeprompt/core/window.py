"""When a control acts: a range of steps, and the one place where a share becomes steps."""

from dataclasses import dataclass
from numbers import Real

from freeprompt.errors import BadFraction


def step_count(steps: int, share: object) -> int:
    """Turn a share of the steps into a number of steps: `int(steps * share)`.

    Truncation, not rounding, is what Prompt-to-Prompt, Plug-and-Play and Free-Prompt-Editing do.

    Args:
        steps: Number of denoising steps, at least 1.
        share: Fraction in [0, 1]; any real number type, so 0 and 1 as integers too.

    Raises:
        BadFraction: if `share` is not a number in [0, 1].

    Example:
        >>> step_count(50, 0.8), step_count(50, 1), step_count(10, 0.25)
        (40, 50, 2)
    """
    if isinstance(share, bool) or not isinstance(share, Real) or not 0 <= float(share) <= 1:
        raise BadFraction(
            f"A share of the steps must be a number from 0 to 1, got {share!r}. "
            f"0.8 of {steps} steps means the first {int(steps * 0.8)}."
        )
    # numpy's by its digits: a float32 0.7 is 0.699999988, which would lose a step
    return int(steps * float(str(share) if hasattr(share, "dtype") else share))


@dataclass(frozen=True)
class Window:
    """Steps `start <= i < stop` in denoising order, 0 being the noisiest."""

    start: int
    stop: int

    @classmethod
    def until(cls, share: float, steps: int) -> "Window":
        """Return the first `int(steps * share)` of `steps` steps."""
        return cls(0, step_count(steps, share))

    def __contains__(self, step: int) -> bool:
        return self.start <= step < self.stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start)
