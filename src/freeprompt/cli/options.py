"""Options that several commands have, handed to each of them as one argument."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

Command = Callable[..., None]


def gives(
    name: str, options: Mapping[str, inspect.Parameter], build: Callable[..., Any]
) -> Callable[[Command], Command]:
    """Give a command options; it is called with one argument that is made from them.

    Args:
        name: The command's argument, which is no option of its own.
        options: The options by name, as typer reads them.
        build: Called with the options' values by name; returns the argument.
    """

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_options(**given: Any) -> None:
            mine = {option: given.pop(option) for option in options}
            command(**given, **{name: build(**mine)})

        own = inspect.signature(command)
        others = [p for p in own.parameters.values() if p.name != name]
        parameters = [*others, *options.values()]
        with_options.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        with_options.__annotations__ = {p.name: p.annotation for p in parameters}
        return with_options

    return decorate
