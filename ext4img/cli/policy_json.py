"""An encryption policy in JSON."""

from __future__ import annotations

from typing import Any

from ext4img.crypto.policy import Policy


def policy_record(policy: Policy) -> dict[str, Any]:
    """The JSON of a policy; `key` is its descriptor or identifier."""
    return {
        "policy_version": policy.version,
        "key": policy.key_id_hex,
        "contents": policy.contents_mode_name,
        "filenames": policy.filenames_mode_name,
        "flags": list(policy.flag_names),
        "data_unit_size": 1 << policy.log2_data_unit_size if policy.log2_data_unit_size else None,
    }
