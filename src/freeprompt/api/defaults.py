"""Settings that the user left open, filled in with what suits the model."""

from collections.abc import Mapping
from typing import Any

from freeprompt.core import Sites
from freeprompt.methods import METHODS, Method
from freeprompt.models import UNetModel
from freeprompt.models.defaults import Defaults, defaults_of

RULE = Sites("self:below-top")


def filled_in(
    model: UNetModel,
    method: str | Method,
    numbers: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Fill in what is None, and the layers where the model's differ from the paper's rule.

    Layers are filled in for methods given by name whose default is `self:below-top`; an instance
    is the user's as it is. A method made for a number of steps of its own gets that.

    Args:
        model: The model.
        method: Name or instance.
        numbers: `steps` and `guidance`, None for those left open.
        parameters: Of method and inversion, as given.

    Returns:
        The numbers; the parameters; and for provenance what was filled in, with `of`, whose
        defaults they are: empty if the user said everything.
    """
    usual = defaults_of(model)
    cls = METHODS[method] if isinstance(method, str) else type(method)
    own = getattr(cls, "own_steps", None)  # what is no method at all is refused later
    open_ = {name: getattr(usual, name) for name, value in numbers.items() if value is None}
    if "steps" in open_ and own is not None:
        open_["steps"] = own
    layers = own_layers(usual, method, parameters)
    found = {**open_, **layers}
    told = {"of": usual.origin, **found} if found else {}
    return {**numbers, **open_}, {**parameters, **layers}, told


def own_layers(
    usual: Defaults | None, method: str | Method, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the layers of a model for a method that leaves them open; empty for the method's own.

    Args:
        usual: The model's defaults; None where nothing is known of it.
        method: Name or instance.
        parameters: What is given.
    """
    if usual is None or usual.sites is None or not isinstance(method, str):
        return {}
    own = getattr(METHODS.get(method), "sites", None)  # the default of its field
    return {"sites": usual.sites} if own == RULE and "sites" not in parameters else {}
