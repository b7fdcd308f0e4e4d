"""Options of a command from the fields of a `Parameters` dataclass: there is no second list."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any

import typer

from freeprompt.cli.options import gives
from freeprompt.core.params import Parameters, Spec


def has_parameters(owner: type[Parameters]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field; it is called with `settings`, an instance.

    A field `class_prompt` becomes `--class-prompt`, a switch becomes `--mirror/--no-mirror`.

    Args:
        owner: The dataclass.
    """
    options = {f.name: _option(f.name, f.default, f.metadata["spec"]) for f in fields(owner)}

    def built(**given: Any) -> Parameters:
        return owner.build({name: value for name, value in given.items() if value is not None})

    return gives("settings", options, built)


def _option(name: str, default: Any, spec: Spec) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    flags = [flag] if not isinstance(default, bool) else [f"{flag}/--no-{flag[2:]}"]
    usual = f"  [default: {'no' if default is False else default}]" if default != "" else ""
    told = f"{spec.help}.{usual}"
    kind = type(default) if isinstance(default, bool | int | float) else str
    made: Any = Annotated  # of a type that is known now, not where this is written
    annotation = made[kind | None, typer.Option(*flags, help=told, show_default=False)]
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=annotation
    )
