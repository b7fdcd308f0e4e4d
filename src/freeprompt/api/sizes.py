"""At which size a model works on a picture."""

from freeprompt.api.checks import integer
from freeprompt.errors import ConfigError
from freeprompt.images import fit
from freeprompt.models import UNetModel
from freeprompt.picture import Picture


def working_size(model: UNetModel, picture: Picture) -> tuple[int, int]:
    """Return (width, height) at which a model works on a real image."""
    return fit(
        picture.size,
        area=model.native_size**2,
        multiple=model.granularity,
        shortest=model.shortest_side,
    )


def generated_size(model: UNetModel, width: int | None, height: int | None) -> tuple[int, int]:
    """Return (width, height) of a generated image; None takes the model's own.

    Raises:
        ConfigError: for a side that the model cannot make.
    """
    native, unit = model.native_size, model.granularity
    size = []
    for name, given in (("width", width), ("height", height)):
        value = native if given is None else integer(given)
        if value is None or value % unit or value < model.shortest_side:
            raise ConfigError(
                f"{name} must be a multiple of {unit} pixels, at least "
                f"{model.shortest_side}; got {given!r}. The model's own is {native}."
            )
        size.append(value)
    return size[0], size[1]
