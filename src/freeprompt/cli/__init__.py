"""The command line. Importing it imports no torch; a command loads what it needs when it runs."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from freeprompt.errors import FreepromptError, FreepromptWarning


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the work failed, 2 wrong usage.

    Errors of freeprompt's own are one paragraph on stderr; `--debug`, anywhere on the line, shows
    the traceback.
    """
    from freeprompt.cli.app import app

    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    _quieten(debug)
    try:
        app(args=[arg for arg in args if arg != "--debug"], prog_name="freeprompt")
    except FreepromptError as error:
        if debug:
            raise
        print(f"freeprompt: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _quieten(debug: bool) -> None:
    """Show our own warnings as one line each, and those of the libraries only with `--debug`."""
    if debug:
        return
    for library in ("TRANSFORMERS", "DIFFUSERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", FreepromptWarning)

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        print(f"note: {message}", file=sys.stderr)

    warnings.showwarning = show
