"""Functions of the user, named package.module:function: the only code a configuration can name."""

import importlib
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, field_validator
from pydantic_core import PydanticCustomError

from pipeline.config import FUNCTION, Config
from pipeline.errors import ArchiveError, InputError, WorkError, reason


def find_function(name: str, field: str) -> Callable[..., Any]:
    """Import the function that `field` names as package.module:function.

    The module may be in the working directory. Raises InputError if there is no such function, or
    if importing the module fails.
    """
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    with failures_of(f"{field} names {name}, whose import"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # the user's module exists, something that it imports does not
            raise InputError(
                f"{field} names {name}: there is no module {error.name!r} in {Path.cwd()} or "
                "installed"
            ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise InputError(
            f"{field} names {name}: module {module_name!r} has no function {attribute!r} "
            f"({getattr(module, '__file__', None) or 'a folder without __init__.py'})"
        )
    return function


@contextmanager
def failures_of(what: str) -> Iterator[None]:
    """Turn exceptions of the user's code into an InputError about `what`.

    Errors that are already one sentence pass unchanged.
    """
    try:
        yield
    except (InputError, ArchiveError, WorkError, OSError):
        raise
    except Exception as error:
        raise InputError(
            f"{what} failed with {type(error).__name__}: {reason(error)}; `dwszoo --debug` shows "
            "where"
        ) from error


class Own(Config):
    """An object made by a function of the user, if none of a union's kinds will do."""

    kind: str
    """Your function, as package.module:function."""
    options: dict[str, JsonValue] = Field({})
    """Keyword arguments for the function."""

    @field_validator("kind")
    @classmethod
    def name_a_function(cls, kind: str) -> str:
        if FUNCTION.fullmatch(kind):
            return kind
        raise PydanticCustomError("function", "input should be package.module:function")

    @property
    def module(self) -> str:
        return self.kind.partition(":")[0]

    def make(
        self,
        field: str,
        trusted: Collection[str],
        *parts: str,
        arguments: Sequence[Any] = (),
    ) -> Any:
        """Call the function with `arguments` and the options; return its result, which has `parts`.

        Raises InputError, naming `field` of the configuration, if its module is not one of
        `trusted`, there is no such function, it does not take the options, or the object it
        returns lacks a part.
        """
        if self.module not in trusted:
            raise InputError(
                f"{field} is made by {self.kind}, code that is run only if you trust it: "
                f"read it, then add `--trust {self.module}`"
            )
        function = find_function(self.kind, f"{field}.kind")
        try:
            inspect.signature(function).bind(*arguments, **self.options)
        except (TypeError, ValueError) as error:
            raise InputError(f"{field}.options must suit {self.kind}: {error}") from error
        with failures_of(f"{field} {self.kind}"):
            made = function(*arguments, **self.options)
        if missing := [part for part in parts if not hasattr(made, part)]:
            raise InputError(
                f"{self.kind} must return something with {', '.join(parts)} for {field}, found "
                f"{type(made).__name__} without {', '.join(missing)}"
            )
        return made


def modules_named(config: Config) -> frozenset[str]:
    """Modules of the functions that a configuration names: trusted if the caller wrote it."""
    own: str | None = getattr(config, "module", None)
    values = (getattr(config, name) for name in type(config).model_fields)
    return frozenset([own] if own else []).union(
        *(modules_named(value) for value in values if isinstance(value, Config))
    )
