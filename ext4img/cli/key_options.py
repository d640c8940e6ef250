"""Keys and passphrases as users give them: a file, an environment variable, a prompt; never an argument."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ext4img.cli.error_report import Failure, explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.quoting import quote
from ext4img.crypto.policy import DESCRIPTOR_SIZE, Policy
from ext4img.errors import Ext4Error, WrongKeyError
from ext4img.fs.filesystem import FileSystem

if TYPE_CHECKING:
    from ext4img.unlocking import CostLimits

STDIN = "-"
_NAMES_THAT_TELL = 2
_MOST_KEY_BYTES = 8192  # more than any form of key has
_MOST_PASSPHRASE_BYTES = (64 << 10) + 2
RAW_PROTECTOR_KEY_BYTES = 32
_NAMED_OTHERWISE = "a version 1 policy may call the key by a name not made from it: --key-descriptor HEX says which"
_LISTS_KEYS = "`ext4img keys IMAGE` lists the keys that the image wants"


class KeyFormatChoice(StrEnum):
    """How a key is written down."""

    auto = "auto"
    raw = "raw"
    hex = "hex"
    recovery = "recovery"


@dataclass(frozen=True)
class GivenKey:
    """A master key, and where it came from, for messages. It does not print itself."""

    label: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True)
class KeyOptions:
    """Master keys."""

    key_file: Annotated[
        list[str] | None,
        typer.Option("--key-file", metavar="FILE", help="A master key, raw or hexadecimal; - is standard input."),
    ] = None
    key_env: Annotated[
        list[str] | None, typer.Option("--key-env", metavar="NAME", help="An environment variable that holds a key.")
    ] = None
    key_prompt: Annotated[bool, typer.Option("--key-prompt", help="Ask for a key.")] = False
    key_format: Annotated[
        KeyFormatChoice, typer.Option("--key-format", help="How keys are written down, where it is not plain to see.")
    ] = KeyFormatChoice.auto
    key_descriptor: Annotated[
        str | None,
        typer.Option("--key-descriptor", metavar="HEX", help="What version 1 policies call the (only) key given."),
    ] = None

    def read(self) -> list[GivenKey]:
        """The keys. Failure where one cannot be read or is none."""
        given = [
            *(self._parsed(_file_label(name), _read_file(name, _MOST_KEY_BYTES)) for name in self.key_file or ()),
            *(self._parsed(f"${name}", _read_variable(name)) for name in self.key_env or ()),
        ]
        if self.key_prompt:
            given.append(self._parsed("the key typed", _ask("Key: ").encode("utf-8", "surrogateescape")))
        if self.key_descriptor is not None and len(given) != 1:
            raise Failure(Exit.USAGE, f"--key-descriptor names one key, and {len(given) or 'none'} is given")
        return given

    @property
    def descriptor(self) -> bytes | None:
        """The descriptor that was given for the key."""
        if self.key_descriptor is None:
            return None
        try:
            descriptor = bytes.fromhex(self.key_descriptor.removeprefix("0x"))
        except ValueError:
            descriptor = b""
        if len(descriptor) != DESCRIPTOR_SIZE:
            digits = 2 * DESCRIPTOR_SIZE
            raise Failure(Exit.USAGE, f"a key descriptor is {digits} hexadecimal digits, not {self.key_descriptor!r}")
        return descriptor

    def _parsed(self, label: str, data: bytes) -> GivenKey:
        from ext4img.unlocking.keyfile import parse_key

        try:
            return GivenKey(label, parse_key(data, self.key_format.value))
        except Ext4Error as error:
            raise explain(error, label) from error


@dataclass(frozen=True)
class PassphraseOptions(KeyOptions):
    """Master keys, and passphrases for what an image or a backup says about its keys."""

    unlock: Annotated[
        bool, typer.Option("--unlock", help="Ask for a passphrase of fscrypt, e4crypt or systemd-homed.")
    ] = False
    passphrase_file: Annotated[
        str | None,
        typer.Option("--passphrase-file", metavar="FILE", help="Its first line is a passphrase; - is standard input."),
    ] = None
    passphrase_env: Annotated[
        str | None,
        typer.Option("--passphrase-env", metavar="NAME", help="An environment variable that holds a passphrase."),
    ] = None
    fscrypt_dir: Annotated[
        list[str] | None,
        typer.Option("--fscrypt-dir", metavar="DIR", help="A .fscrypt, or an image, that has login protectors."),
    ] = None
    salt: Annotated[
        list[str] | None, typer.Option("--salt", metavar="SALT", help="A salt of e4crypt, as its option -S has it.")
    ] = None
    any_cost: Annotated[
        bool, typer.Option("--any-cost", help="Hash passphrases whatever memory and time that takes.")
    ] = False

    def passphrases(self) -> list[tuple[str, bytes]]:
        """(where it came from, passphrase)."""
        found = []
        if self.passphrase_file is not None:
            found.append((_file_label(self.passphrase_file), _read_file(self.passphrase_file, _MOST_PASSPHRASE_BYTES)))
        if self.passphrase_env is not None:
            found.append((f"${self.passphrase_env}", _read_variable(self.passphrase_env)))
        if self.unlock:
            found.append(("the passphrase typed", _ask("Passphrase: ").encode("utf-8", "surrogateescape")))
        return found

    @property
    def given(self) -> bool:
        """Whether there is any key or passphrase."""
        return bool(self.key_file or self.key_env or self.key_prompt or self.has_passphrases)

    @property
    def has_passphrases(self) -> bool:
        """Whether there is any passphrase."""
        return bool(self.unlock or self.passphrase_file is not None or self.passphrase_env is not None)

    @property
    def limits(self) -> CostLimits | None:
        """What hashing may cost; None for the usual."""
        from ext4img.unlocking import NO_LIMITS

        return NO_LIMITS if self.any_cost else None

    def refused(self, error: Ext4Error, label: str, usual: str, untried: bool) -> Failure:
        """The failure of a key or passphrase from `label`; `untried`: a policy has nothing to try it on."""
        if not isinstance(error, WrongKeyError):
            return explain(error, label)
        named = untried and self.key_descriptor is None
        return explain(error, label, usual, *([_NAMED_OTHERWISE] if named else []))


@dataclass(frozen=True)
class ImageKeyOptions(PassphraseOptions):
    """For an image."""

    def add_to(self, fs: FileSystem) -> None:
        """Give the view all keys. Failure if one of them opens nothing."""
        keys = len(self.key_file or ()) + len(self.key_env or ()) + self.key_prompt
        for place, (label, _, failure) in enumerate(self.tried_on(fs)):
            if failure is not None:
                raise self.refused(failure, label, _LISTS_KEYS, place < keys and _has_untried(fs))

    def tried_on(self, fs: FileSystem) -> list[tuple[str, tuple[Policy, ...], Ext4Error | None]]:
        """Give the view all keys: (where each came from, the policies it opened, why none)."""
        results: list[tuple[str, tuple[Policy, ...], Ext4Error | None]] = []
        descriptor = self.descriptor
        for key in self.read():
            try:
                results.append((key.label, self._add(fs, key.raw, descriptor), None))
            except Ext4Error as error:
                results.append((key.label, (), error))
        for label, passphrase in self.passphrases():
            try:
                results.append((label, self._unlock(fs, passphrase), None))
            except Ext4Error as error:
                results.append((label, (), error))
        return results

    def _add(self, fs: FileSystem, raw: bytes, descriptor: bytes | None) -> tuple[Policy, ...]:
        try:
            return fs.add_key(raw, descriptor)
        except WrongKeyError:
            if len(raw) != RAW_PROTECTOR_KEY_BYTES:
                raise
            # It may be the key of one of fscrypt's raw-key protectors, which wraps the master key.
            try:
                return self._unlock(fs, None, raw)
            except Ext4Error:
                pass
            raise

    def _unlock(self, fs: FileSystem, passphrase: bytes | None, *raw_keys: bytes) -> tuple[Policy, ...]:
        return fs.unlock(
            passphrase,
            raw_keys=raw_keys,
            salts=self.salt or (),
            fscrypt_dirs=self.fscrypt_dir or (),
            limits=self.limits,
        )


def _has_untried(fs: FileSystem) -> bool:
    """Whether there are version 1 policies with hardly a name below them that would show whether a key is theirs."""
    for policy, use in fs.policies().items():
        if policy.version == 1:
            directories = (fs.inode(number) for number, _ in use.sample)
            if sum(len(fs.volume.directory(directory)) for directory in directories) < _NAMES_THAT_TELL:
                return True
    return False


def _file_label(name: str) -> str:
    return "standard input" if name == STDIN else name


def _read_file(name: str, most: int) -> bytes:
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(most)
        with open(name, "rb", buffering=0) as file:
            parts = []
            while most and (part := file.read(most)):
                parts.append(part)
                most -= len(part)
            return b"".join(parts)
    except OSError as error:
        raise Failure(Exit.KEY, f"{quote(name)}: {error.strerror}") from error


def _read_variable(name: str) -> bytes:
    value = os.environb.get(os.fsencode(name))
    if value is None:
        raise Failure(Exit.KEY, f"${name}: there is no such environment variable")
    return value


def _ask(prompt: str) -> str:
    import getpass
    import warnings

    with warnings.catch_warnings():
        # Without a terminal getpass would read from standard input, and warn.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(prompt, sys.stderr)
        except (getpass.GetPassWarning, EOFError):
            advice = "--key-file, --key-env, --passphrase-file and --passphrase-env ask nobody"
            raise Failure(Exit.KEY, "there is no terminal to ask on", advice) from None
