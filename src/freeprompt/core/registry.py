"""Named classes of parameters: the one list that command line, page and grid are derived from."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from freeprompt.core.params import Parameters
from freeprompt.errors import ConfigError, unknown

T = TypeVar("T", bound=Parameters)


class Registry(Mapping[str, type[T]]):
    """Classes by name.

    Args:
        noun: What they are, for messages.
        error: What to raise for an unknown name.
    """

    def __init__(self, noun: str, error: type[ConfigError]):
        self._noun, self._error = noun, error
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a decorator that enters a class under `name`."""

        def enter(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ValueError(f"{self._noun} {name!r} is registered twice")
            self._classes[name] = cls
            return cls

        return enter

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._classes:
            raise unknown(self._error, self._noun, str(name), self._classes)
        return self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def get(self, name: str, default: Any = None) -> Any:
        """Return the class registered under `name`, or `default`."""
        return self._classes.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def name_of(self, thing: Parameters) -> str:
        """Return the name that the class of `thing` is registered under.

        Raises:
            ConfigError: if it is not registered.
        """
        for name, cls in self._classes.items():
            if type(thing) is cls:
                return name
        raise self._error(
            f"{type(thing).__name__} is no registered {self._noun}. Enter it with "
            f"@{self._noun.upper()}S.register(name)."
        )
