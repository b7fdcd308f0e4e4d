"""Options of a command from the fields of a `Parameters` dataclass: there is no second list."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any

import typer

from freeprompt.core.params import Parameters, Spec


def has_parameters(owner: type[Parameters]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field; it is called with `settings`, an instance.

    A field `class_prompt` becomes `--class-prompt`, a switch becomes `--mirror/--no-mirror`.

    Args:
        owner: The dataclass.
    """
    options = {f.name: _option(f.name, f.default, f.metadata["spec"]) for f in fields(owner)}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**given: Any) -> None:
            mine = {name: given.pop(name) for name in options}
            chosen = {name: value for name, value in mine.items() if value is not None}
            command(**given, settings=owner.build(chosen))

        own = inspect.signature(command)
        others = [p for p in own.parameters.values() if p.name != "settings"]
        parameters = [*others, *options.values()]
        with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate


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
