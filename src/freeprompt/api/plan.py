"""What an edit is asked to do, checked before any work is done."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from freeprompt.api.checks import check_model, check_sites, checked_guidance, resolve, whole
from freeprompt.api.defaults import filled_in
from freeprompt.api.pairs import check_pair
from freeprompt.api.source import checked_seed
from freeprompt.core import Tape
from freeprompt.inversion import Inversion
from freeprompt.methods import Method
from freeprompt.models import UNetModel


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Method, inversion and the numbers of an edit.

    Attributes:
        method: The method.
        inversion: The inversion that a real image would get.
        asked: Whether the user asked for this inversion, by its name or its parameters.
        steps: Number of denoising steps.
        guidance: Guidance scale.
        negative: Prompt of the unconditional rows.
        seed: Of all that is drawn.
        defaults: What the user left open and the model's defaults decided, and whose they are.
    """

    method: Method
    inversion: Inversion
    asked: bool
    steps: int
    guidance: float
    negative: str
    seed: int
    defaults: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        model: UNetModel,
        *,
        image: Any,
        source: str | None,
        method: str | Method,
        inversion: str | Inversion | None,
        parameters: Mapping[str, Any],
        steps: Any,
        guidance: Any,
        negative: str,
        seed: Any,
    ) -> "Plan":
        """Check everything that can be known to be wrong; see `Editor.edit` for the arguments.

        Raises:
            FreepromptError: saying what is wrong.
        """
        given = {"steps": steps, "guidance": guidance}
        numbers, parameters, defaults = filled_in(model, method, given, parameters)
        how, via = resolve(method, inversion, parameters)
        plan = cls(
            method=how,
            inversion=via,
            asked=inversion is not None or bool(set(via.specs()) & set(parameters)),
            steps=whole("The number of steps", numbers["steps"]),
            guidance=checked_guidance(numbers["guidance"]),
            negative=negative,
            seed=checked_seed(seed),
            defaults=defaults,
        )
        check_model(how, model)
        model.schedule(plan.steps)
        how.check_steps(plan.steps)
        check_sites(how, model)
        check_pair(how, via, image, plan.asked, source, plan.guidance, negative)
        return plan

    @property
    def rules(self) -> dict[str, Any]:
        """Return what an inversion must know of the edit to come."""
        return {
            "steps": self.steps,
            "guidance": self.guidance,
            "negative": self.negative,
            "seed": self.seed,
        }

    @property
    def records(self) -> bool:
        """Whether the method plays back what it recorded during the inversion."""
        return bool(self.method.while_inverting(Tape(), self.steps))
