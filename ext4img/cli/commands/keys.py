"""`ext4img keys`."""

from __future__ import annotations

from typing import Any

from ext4img.cli.error_report import explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.image_options import ImageOptions
from ext4img.cli.key_options import ImageKeyOptions
from ext4img.cli.key_value import KeyValues, write_key_values
from ext4img.cli.open_image import open_image
from ext4img.cli.options import Json
from ext4img.cli.output import Output, text_fields, warn
from ext4img.cli.policy_json import policy_record
from ext4img.cli.quoting import quote
from ext4img.cli.units import plural, size_text
from ext4img.crypto.policy import Policy
from ext4img.fs.policies import PolicyUse
from ext4img.fs.protectors import Protector


def run(image: ImageOptions, keys: ImageKeyOptions, json: Json = False) -> int:
    """List encryption policies, and which given keys unlock them.

    For each policy: the number of encrypted files, the protectors that the image stores for it,
    and which of the given keys and passphrases unlock it. A key that matches no policy is reported.
    """
    out = Output(json)
    code = Exit.DONE
    with open_image(image) as fs:
        unlocked_by: dict[Policy, list[str]] = {}
        for label, policies, error in keys.try_on(fs):
            for policy in policies:
                unlocked_by.setdefault(policy, []).append(label)
            if error is not None:
                warn(explain(error, label).text)
                code = Exit.KEY
        used = fs.policies()
        protectors = fs.protectors(keys.fscrypt_dir or ())
        if not json:
            out.line(f"{quote(image.image)}: {plural(len(used), 'encryption policy', 'encryption policies')} in use")
        for policy, use in used.items():
            found = protectors.get(policy, ())
            if json:
                out.record(_record(policy, use, found, unlocked_by.get(policy, [])))
            else:
                out.line("")
                write_key_values(out, _key_values(policy, use, found, unlocked_by.get(policy, [])))
    return code


def _key_values(policy: Policy, use: PolicyUse, protectors: tuple[Protector, ...], labels: list[str]) -> KeyValues:
    kind = "descriptor" if policy.version == 1 else "identifier"
    key_values = [
        ("Policy", f"version {policy.version}, key {kind} {policy.key_id_hex}"),
        ("Modes", f"{policy.contents_mode_name} contents, {policy.filenames_mode_name} names"),
        ("Flags", ", ".join(policy.flag_names)),
        (
            "Encrypted",
            f"{plural(use.files, 'file')} of {size_text(use.bytes)},"
            f" {plural(use.directories, 'directory', 'directories')}, {plural(use.symlinks, 'symlink')}",
        ),
    ]
    if policy.log2_data_unit_size:
        key_values.append(("Data units", f"{1 << policy.log2_data_unit_size} bytes"))
    problem = policy.unsupported()
    if problem:
        key_values.append(("Problem", f"not supported: {problem}"))
    key_values += [("Protector", _protector_text(protector)) for protector in protectors]
    key_values.append(("Unlocked by", ", ".join(quote(label) for label in labels) or "none of the given keys"))
    return key_values


def _protector_text(protector: Protector) -> str:
    parts = [part for part in (protector.descriptor, protector.kind) if part]
    if protector.name:
        parts.append(quote(protector.name))
    if protector.uid is not None:
        parts.append(f"of uid {protector.uid}")
    if protector.costs is not None:
        costs = protector.costs
        parts.append(f"(Argon2id: {plural(costs.time, 'pass', 'passes')} over {size_text(costs.memory_kib * 1024)})")
    text = " ".join(parts) or quote(protector.where)
    return f"{text}: {protector.problem}" if protector.problem else text


def _record(policy: Policy, use: PolicyUse, protectors: tuple[Protector, ...], labels: list[str]) -> dict[str, Any]:
    return {
        **policy_record(policy),
        "files": use.files,
        "directories": use.directories,
        "symlinks": use.symlinks,
        "bytes": use.bytes,
        "supported": policy.unsupported() is None,
        "opened_by": labels,
        "protectors": [
            {
                "descriptor": protector.descriptor,
                "kind": protector.kind,
                **text_fields("name", protector.name),
                "uid": protector.uid,
                "where": protector.where,
                "problem": protector.problem,
            }
            for protector in protectors
        ],
    }
