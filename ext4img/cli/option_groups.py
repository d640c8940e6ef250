"""Groups of options: a command's parameter may be a dataclass whose fields are options.

A command is a function. For Typer, `for_typer` replaces each such parameter by the fields of its
dataclass, and it builds the dataclass from their values when the command is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial
from typing import Any, get_type_hints

import typer


@dataclass(frozen=True)
class BareValue:
    """In the annotation of an option: its value where it is given without one. Any other value follows a "="."""

    value: str


def for_typer(run: Callable[..., Any]) -> Callable[..., Any]:
    """The function that Typer sees in place of `run`; see the module's docstring.

    Arguments come first, then the command's own options, then those of its groups. The function
    returns a callable: the command itself runs outside of Typer, which handles exceptions its own way.
    """
    arguments: list[inspect.Parameter] = []
    own: list[inspect.Parameter] = []
    common: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Any], list[str]]] = {}
    hints = get_type_hints(run, include_extras=True)
    for name, parameter in inspect.signature(run).parameters.items():
        hint = hints[name]
        if not is_dataclass(hint):
            (arguments if _is_argument(hint) else own).append(_keyword(name, hint, parameter.default))
            continue
        assert isinstance(hint, type)
        inner = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            keyword = _keyword(field.name, inner[field.name], default)
            (arguments if _is_argument(keyword.annotation) else common).append(keyword)
        groups[name] = hint, [field.name for field in fields(hint)]

    def call(**values: Any) -> Any:
        for name, (group, names) in groups.items():
            values[name] = group(**{key: values.pop(key) for key in names})
        return partial(run, **values)

    parameters = arguments + own + common
    call.__name__ = run.__name__
    call.__doc__ = run.__doc__
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(call)["__signature__"] = inspect.Signature(parameters)
    return call


def with_bare_values(run: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """A command line in which each option that may lack its value has it, for `BareValue`."""
    bare = {}
    for hint in get_type_hints(run, include_extras=True).values():
        extras = getattr(hint, "__metadata__", ())
        values = [extra.value for extra in extras if isinstance(extra, BareValue)]
        for option in extras if values else ():
            if isinstance(option, typer.models.OptionInfo):
                # In an annotation the first name stands where the default is elsewhere.
                bare.update(dict.fromkeys((option.default, *(option.param_decls or ())), values[0]))
    end = words.index("--") if "--" in words else len(words)
    return [f"{word}={bare[word]}" if word in bare else word for word in words[:end]] + list(words[end:])


def _keyword(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _is_argument(hint: Any) -> bool:
    return any(isinstance(extra, typer.models.ArgumentInfo) for extra in getattr(hint, "__metadata__", ()))
