"""The public names: one sorted list, and what it says is there."""

from __future__ import annotations

import inspect

import ext4img
from ext4img import errors


def test_all_is_sorted_and_unique():
    assert list(ext4img.__all__) == sorted(set(ext4img.__all__))


def test_all_is_real():
    missing = [name for name in ext4img.__all__ if not hasattr(ext4img, name)]
    assert not missing


def test_public_names_are_documented():
    bare = [
        name
        for name in ext4img.__all__
        if (inspect.isclass(value := getattr(ext4img, name)) or inspect.isroutine(value)) and not inspect.getdoc(value)
    ]
    assert not bare


def test_every_exception_is_public():
    raised = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert raised <= set(ext4img.__all__)


def test_dir_shows_the_public_names():
    assert set(ext4img.__all__) <= set(dir(ext4img))
