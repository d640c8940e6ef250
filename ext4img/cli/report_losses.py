"""Telling what a backup lacks of the image that it was made of."""

from __future__ import annotations

from typing import Any

from ext4img.archive.loss import Loss, Losses
from ext4img.cli.few_of_each import TOLD_AS_JSON, few_of_each
from ext4img.cli.output import text_fields, warn
from ext4img.cli.units import plural


def report_losses(losses: Losses, label: str) -> bool:
    """Write on stderr what is missing; whether anything is."""
    for loss in few_of_each(losses):
        warn(f"{label}: {loss}")
    if losses.total:
        warn(f"{label}: incomplete: {plural(losses.total, 'loss', 'losses')} when the backup was made")
    return bool(losses.total)


def loss_records(losses: Losses) -> list[dict[str, Any]]:
    """The losses for JSON, at most 100 of a kind."""
    return [
        {
            "what": loss.what,
            **text_fields("path", loss.path),
            "inode": loss.inode,
            "reason": loss.reason,
            "ranges": [list(part) for part in loss.ranges[:TOLD_AS_JSON]],
        }
        for loss in few_of_each(losses, TOLD_AS_JSON)
        if isinstance(loss, Loss)
    ]
