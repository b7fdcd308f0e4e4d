"""`freeprompt train`."""

import typer

app = typer.Typer(help="Train emoji-sd.", no_args_is_help=True)
