"""Groups of options: a command's parameter may be a dataclass whose fields are options.

A command is a function. For Typer, `for_typer` replaces each such parameter by the fields of its
dataclass, and it builds the dataclass from their values when the command is called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from typing import Any, get_type_hints

import typer


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


def _keyword(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _is_argument(hint: Any) -> bool:
    return any(isinstance(extra, typer.models.ArgumentInfo) for extra in getattr(hint, "__metadata__", ()))
