"""The names that public signatures use, for test_public_names.py."""

from __future__ import annotations

import ast
import inspect
import sys
import types
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any

import ext4img


def unexported() -> set[tuple[str, str]]:
    """(public name, class or alias of this package in its annotations that is not public itself)."""
    found: set[tuple[str, str]] = set()
    for name in ext4img.__all__:
        value = getattr(ext4img, name)
        if inspect.isclass(value):
            pairs = list(_class_annotations(value))
        elif inspect.isfunction(value):
            pairs = [(value.__module__, text) for text in value.__annotations__.values()]
        else:
            continue
        for module, annotation in pairs:
            found |= {(name, used) for used in _names_in(str(annotation)) if _is_hidden(module, used)}
    return found


def _class_annotations(kind: type) -> Iterator[tuple[str, Any]]:
    for base in kind.__mro__:
        if not base.__module__.startswith("ext4img."):
            continue
        for field, annotation in vars(base).get("__annotations__", {}).items():
            if not field.startswith("_"):
                yield base.__module__, annotation
        for member, value in vars(base).items():
            if member.startswith("_") and member not in ("__init__", "__truediv__", "__iter__"):
                continue
            function = value
            if isinstance(value, property):
                function = value.fget
            elif isinstance(value, cached_property):
                function = value.func
            elif isinstance(value, (classmethod, staticmethod)):
                function = value.__func__
            if isinstance(function, types.FunctionType):
                for annotation in function.__annotations__.values():
                    yield function.__module__, annotation


def _names_in(annotation: str) -> set[str]:
    """Names and dotted names in an annotation."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(annotation, mode="eval").body]
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Name, ast.Attribute)):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            continue
        else:
            todo += ast.iter_child_nodes(node)
    return found


def _is_hidden(module: str, name: str) -> bool:
    """Whether a name of this package, as a module knows it, is not public."""
    home = _homes_of(module).get(name.partition(".")[0], "")
    is_ours = home.startswith("ext4img.") or home == "ext4img"
    return is_ours and name not in ext4img.__all__


@cache
def _homes_of(module: str) -> dict[str, str]:
    """What each global name of a module was imported from, for type checking or not; itself for its own."""
    homes: dict[str, str] = {}
    todo: list[ast.stmt] = list(ast.parse(inspect.getsource(sys.modules[module])).body)
    for node in todo:
        if isinstance(node, ast.If):  # TYPE_CHECKING
            todo += node.body
        elif isinstance(node, ast.ImportFrom):
            homes |= {alias.asname or alias.name: node.module or "" for alias in node.names}
        elif isinstance(node, ast.ClassDef):
            homes[node.name] = module
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and "TypeVar" not in ast.unparse(node):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            homes |= {target.id: module for target in targets if isinstance(target, ast.Name)}
    return homes
