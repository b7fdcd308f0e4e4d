"""`freeprompt finetune`: teach a model one subject from a few pictures.

Its options are made from the fields of dataclasses, for which torch has to be imported. So the
commands are built when they are asked for: `freeprompt --help` stays quick.
"""

from functools import cache
from typing import Any

import typer
from typer.core import TyperGroup


class _Later(TyperGroup):
    """A group whose commands are read on first use."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, without reading the commands."""
        return ["lora", "embedding"]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; None for a name that does not exist."""
        return _commands().get(cmd_name) if cmd_name in self.list_commands(ctx) else None


@cache
def _commands() -> dict[str, Any]:
    from freeprompt.cli.finetuning import app as read

    built: Any = typer.main.get_command(read)
    return dict(built.commands)


app = typer.Typer(
    cls=_Later,
    help="Teach a model one subject from a few pictures: `lora` (DreamBooth) or `embedding` "
    "(textual inversion).",
    no_args_is_help=True,
)


@app.callback()
def group() -> None:
    """Teach a model one subject from a few pictures."""
