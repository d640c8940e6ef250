"""Key options: keys and passphrases from a file, an environment variable or a prompt, never an argument."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ext4img.cli.error_report import CommandError, explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.quoting import quote
from ext4img.crypto.policy import DESCRIPTOR_SIZE, Policy
from ext4img.errors import Ext4Error, WrongKeyError
from ext4img.fs.filesystem import FileSystem
from ext4img.interruption import deferred, waiting

if TYPE_CHECKING:
    from ext4img.unlocking import CostLimits

STDIN = "-"
_MIN_NAMES_TO_TRY_A_KEY = 2
_MAX_KEY_BYTES = 8192  # more than any key format needs
_MAX_PASSPHRASE_BYTES = (64 << 10) + 2
RAW_PROTECTOR_KEY_BYTES = 32
_OTHER_DESCRIPTOR = (
    "a version 1 policy may use a descriptor not derived from the key: give it with --key-descriptor HEX"
)
_LISTS_KEYS = "`ext4img keys IMAGE` lists the keys that the image needs"


class KeyFormatChoice(StrEnum):
    """The format of a key."""

    auto = "auto"
    raw = "raw"
    hex = "hex"
    recovery = "recovery"


@dataclass(frozen=True)
class GivenKey:
    """A master key, and a label for messages. Its repr does not show the key."""

    label: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True)
class KeyOptions:
    """Options for master keys."""

    key_file: Annotated[
        list[str] | None,
        typer.Option(
            "--key-file", metavar="FILE", help="Read a master key, raw or hexadecimal; - reads standard input."
        ),
    ] = None
    key_env: Annotated[
        list[str] | None, typer.Option("--key-env", metavar="NAME", help="Read a key from this environment variable.")
    ] = None
    key_prompt: Annotated[bool, typer.Option("--key-prompt", help="Ask for a key on the terminal.")] = False
    key_format: Annotated[
        KeyFormatChoice, typer.Option("--key-format", help="Format of the keys, if it cannot be detected.")
    ] = KeyFormatChoice.auto
    key_descriptor: Annotated[
        str | None,
        typer.Option(
            "--key-descriptor", metavar="HEX", help="Descriptor of the one given key, for version 1 policies."
        ),
    ] = None

    def read(self) -> list[GivenKey]:
        """The keys. CommandError if one cannot be read or is malformed."""
        given = [
            *(self._parsed(_file_label(name), _read_file(name, _MAX_KEY_BYTES)) for name in self.key_file or ()),
            *(self._parsed(f"${name}", _read_variable(name)) for name in self.key_env or ()),
        ]
        if self.key_prompt:
            given.append(self._parsed("the key from the prompt", _ask("Key: ").encode("utf-8", "surrogateescape")))
        if self.key_descriptor is not None and len(given) != 1:
            raise CommandError(Exit.USAGE, f"--key-descriptor needs exactly one key, not {len(given)}")
        return given

    @property
    def descriptor(self) -> bytes | None:
        """The descriptor given for the key."""
        if self.key_descriptor is None:
            return None
        try:
            descriptor = bytes.fromhex(self.key_descriptor.removeprefix("0x"))
        except ValueError:
            descriptor = b""
        if len(descriptor) != DESCRIPTOR_SIZE:
            digits = 2 * DESCRIPTOR_SIZE
            raise CommandError(
                Exit.USAGE,
                f"a key descriptor has {digits} hexadecimal digits; this is not one: {self.key_descriptor!r}",
            )
        return descriptor

    def _parsed(self, label: str, data: bytes) -> GivenKey:
        from ext4img.unlocking.keyfile import parse_key

        try:
            return GivenKey(label, parse_key(data, self.key_format.value))
        except Ext4Error as error:
            raise explain(error, label) from error


@dataclass(frozen=True)
class PassphraseOptions(KeyOptions):
    """Options for master keys, and for passphrases that unlock key metadata of an image or backup."""

    unlock: Annotated[
        bool, typer.Option("--unlock", help="Ask for an fscrypt, e4crypt or systemd-homed passphrase.")
    ] = False
    passphrase_file: Annotated[
        str | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help="Read a passphrase from the first line; - reads standard input."
        ),
    ] = None
    passphrase_env: Annotated[
        str | None,
        typer.Option("--passphrase-env", metavar="NAME", help="Read a passphrase from this environment variable."),
    ] = None
    fscrypt_dir: Annotated[
        list[str] | None,
        typer.Option("--fscrypt-dir", metavar="DIR", help="A .fscrypt directory, or an image, with login protectors."),
    ] = None
    salt: Annotated[
        list[str] | None, typer.Option("--salt", metavar="SALT", help="e4crypt salt, in the form `e4crypt -S` takes.")
    ] = None
    any_cost: Annotated[
        bool, typer.Option("--any-cost", help="No limit on memory and time for passphrase hashing.")
    ] = False

    def passphrases(self) -> list[tuple[str, bytes]]:
        """(label for messages, passphrase)."""
        found = []
        if self.passphrase_file is not None:
            found.append((_file_label(self.passphrase_file), _read_file(self.passphrase_file, _MAX_PASSPHRASE_BYTES)))
        if self.passphrase_env is not None:
            found.append((f"${self.passphrase_env}", _read_variable(self.passphrase_env)))
        if self.unlock:
            found.append(("the passphrase from the prompt", _ask("Passphrase: ").encode("utf-8", "surrogateescape")))
        return found

    @property
    def given(self) -> bool:
        """Whether any key or passphrase was given."""
        return bool(self.key_file or self.key_env or self.key_prompt or self.has_passphrases)

    @property
    def has_passphrases(self) -> bool:
        """Whether any passphrase was given."""
        return bool(self.unlock or self.passphrase_file is not None or self.passphrase_env is not None)

    @property
    def limits(self) -> CostLimits | None:
        """The limits on hashing; None for the defaults."""
        from ext4img.unlocking import NO_LIMITS

        return NO_LIMITS if self.any_cost else None

    def key_error(self, error: Ext4Error, label: str, hint: str, untried: bool) -> CommandError:
        """The error for a key or passphrase from `label`; `untried`: a policy has nothing to try it on."""
        if not isinstance(error, WrongKeyError):
            return explain(error, label)
        may_differ = untried and self.key_descriptor is None
        return explain(error, label, hint, *([_OTHER_DESCRIPTOR] if may_differ else []))


@dataclass(frozen=True)
class ImageKeyOptions(PassphraseOptions):
    """Key options for an image."""

    def add_to(self, fs: FileSystem) -> None:
        """Add all keys to the file system. CommandError if one matches no policy."""
        keys = len(self.key_file or ()) + len(self.key_env or ()) + self.key_prompt
        for position, (label, _, error) in enumerate(self.try_on(fs)):
            if error is not None:
                raise self.key_error(error, label, _LISTS_KEYS, position < keys and _has_untried(fs))

    def try_on(self, fs: FileSystem) -> list[tuple[str, tuple[Policy, ...], Ext4Error | None]]:
        """Add all keys to the file system: (label, the policies it unlocks, the error if none)."""
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
            # It may be the key of an fscrypt raw-key protector, which wraps the master key.
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
    """Whether there are version 1 policies with too few encrypted names to try a key on."""
    for policy, use in fs.policies().items():
        if policy.version == 1:
            directories = (fs.inode(number) for number, _ in use.sample)
            if sum(len(fs.volume.directory(directory)) for directory in directories) < _MIN_NAMES_TO_TRY_A_KEY:
                return True
    return False


def _file_label(name: str) -> str:
    return "standard input" if name == STDIN else name


def _read_file(name: str, max_bytes: int) -> bytes:
    try:
        if name == STDIN:
            return sys.stdin.buffer.read(max_bytes)
        with open(name, "rb", buffering=0) as file:
            parts = []
            while max_bytes and (part := file.read(max_bytes)):
                parts.append(part)
                max_bytes -= len(part)
            return b"".join(parts)
    except OSError as error:
        raise CommandError(Exit.KEY, f"{quote(name)}: {error.strerror}") from error


def _read_variable(name: str) -> bytes:
    value = os.environb.get(os.fsencode(name))
    if value is None:
        raise CommandError(Exit.KEY, f"${name}: no such environment variable")
    return value


def _ask(prompt: str) -> str:
    import getpass
    import warnings

    with warnings.catch_warnings():
        # Without a terminal getpass would read from standard input, and warn.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            with deferred(), waiting():  # the terminal gets its echo back
                return getpass.getpass(prompt, sys.stderr)
        except (getpass.GetPassWarning, EOFError):
            hint = "--key-file, --key-env, --passphrase-file and --passphrase-env need no terminal"
            raise CommandError(Exit.KEY, "no terminal to ask on", hint) from None
