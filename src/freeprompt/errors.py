"""Every error freeprompt raises on purpose.

    FreepromptError
    ├── ConfigError (ValueError)      a value the user gave is not usable
    │   ├── UnknownMethod             no method of that name
    │   ├── UnknownInversion          no inversion of that name
    │   ├── UnknownModel              neither a catalogue name, folder, file nor Hub id
    │   ├── BadSiteExpression         a site expression that cannot be read
    │   └── BadFraction               a share of the steps outside [0, 1]
    ├── ImageError (ValueError)       a file that is not a usable image
    ├── ModelError                    a model that cannot be loaded or does not do what is asked
    │   └── UnsupportedModel          e.g. attention that bypasses SDPA, no sites of the kind
    ├── ControlNeverFired             a selection is empty, or nothing was edited in the run
    ├── MissingSource                 a control needs source tensors that nobody recorded
    ├── PromptAlignmentError          two prompts that a method cannot align
    ├── AlreadyAttached               a second set of controls on one model at one time
    ├── OutOfMemory (MemoryError)     an edit that does not fit, whatever was tried
    ├── SaveError (OSError)           a result that could not be written
    └── MissingDependency (ImportError)   names the extra to install

A message says what happened, quotes the user's own value, says what is allowed and what to do.
`freeprompt` the command prints that message alone and exits with 2 (`ConfigError`, `ImageError`)
or 1 (all others).
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FreepromptError(Exception):
    """Base of every error that freeprompt raises on purpose."""

    exit_code = 1


class ConfigError(FreepromptError, ValueError):
    """A value the user gave is not usable."""

    exit_code = 2


class UnknownMethod(ConfigError):
    """No editing method of that name."""


class UnknownInversion(ConfigError):
    """No inversion of that name."""


class UnknownModel(ConfigError):
    """Neither a catalogue name, a folder, a file nor a Hub id."""


class BadSiteExpression(ConfigError):
    """A site expression that cannot be read."""


class BadFraction(ConfigError):
    """A share of the steps outside [0, 1]."""


class ImageError(FreepromptError, ValueError):
    """A file that is not a usable image."""

    exit_code = 2


class ModelError(FreepromptError):
    """A model that cannot be loaded, or does not do what is asked of it."""


class UnsupportedModel(ModelError):
    """A model whose architecture freeprompt cannot edit."""


class ControlNeverFired(FreepromptError):
    """A selection matched nothing, or nothing was edited in the run."""


class MissingSource(FreepromptError):
    """A control needs source tensors, and nobody recorded them."""


class PromptAlignmentError(FreepromptError):
    """Two prompts that a method cannot align."""


class AlreadyAttached(FreepromptError):
    """A second set of controls on one model at one time."""


class OutOfMemory(FreepromptError, MemoryError):
    """An edit does not fit into the memory there is, and nothing is left to try."""


class SaveError(FreepromptError, OSError):
    """A result that could not be written."""


class MissingDependency(FreepromptError, ImportError):
    """An optional dependency is not installed."""


class FreepromptWarning(UserWarning):
    """Something the user should know; the work goes on."""


def unknown(kind: type[ConfigError], noun: str, given: object, known: Iterable[str]) -> ConfigError:
    """Build the error for a name that is not in a list, with the nearest name as a hint."""
    names = sorted(known)
    close = get_close_matches(str(given), names, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return kind(f"Unknown {noun} {given!r}{hint}. Available: {', '.join(names)}.")
