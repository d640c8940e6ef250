"""Making a new image: its options, checks of the target, the plan, and the report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ext4img.cli.error_report import CommandError, explain
from ext4img.cli.exit_codes import Exit
from ext4img.cli.few_of_each import TOLD_AS_JSON, More, few_of_each
from ext4img.cli.file_magic import describe_device
from ext4img.cli.options import parse_bytes
from ext4img.cli.output import Output, text_fields, warn
from ext4img.cli.progress_bar import progress
from ext4img.cli.quoting import harmless, quote
from ext4img.cli.report_restore import NOUNS
from ext4img.cli.units import plural, size_text
from ext4img.errors import UnsupportedFeatureError

if TYPE_CHECKING:
    from ext4img.mkfs import Plan
    from ext4img.rebuilder.rebuild import Rebuildable, RebuildReport

AUTO: Final = "auto"


class UuidChoice(StrEnum):
    """The UUID of the new file system: the source's, or a new one."""

    keep = "keep"
    new = "new"


def parse_size(text: str) -> int | None:
    """A number of bytes, or None for "auto"."""
    return None if text == AUTO else parse_bytes(text)


@dataclass(frozen=True)
class NewImageOptions:
    """The options of a new image."""

    size: Annotated[
        str,
        typer.Option(
            "--size", metavar="BYTES", help="Size of the new image; auto: as needed plus --spare, or the whole device."
        ),
    ] = AUTO
    spare: Annotated[
        float, typer.Option("--spare", metavar="PERCENT", help="Blocks and inodes to leave free with --size auto.")
    ] = 10.0
    uuid: Annotated[UuidChoice, typer.Option("--uuid", help="The source's UUID, or a new one.")] = UuidChoice.keep
    label: Annotated[str | None, typer.Option("--label", help="Label of the new image. Default: the source's.")] = None
    features: Annotated[
        list[str] | None,
        typer.Option("--features", metavar="NAME,^NAME…", help="As for mke2fs -O: add features, ^ removes them."),
    ] = None
    keep_inodes: Annotated[
        bool, typer.Option("--keep-inodes", help="Keep all inode numbers, not only those that ciphertext depends on.")
    ] = False
    device: Annotated[bool, typer.Option("--device", help="Allow a block device; its contents are overwritten.")] = (
        False
    )
    plan: Annotated[bool, typer.Option("--plan", help="Write nothing, print what would be written where.")] = False

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features, one by one."""
        from ext4img.mkfs.options import parse_features

        return tuple(name for words in self.features or () for name in parse_features(words))


def make_image(
    source: Rebuildable,
    image: str,
    choices: NewImageOptions,
    *,
    block_size: int | None,
    only: Sequence[str],
    salvage: bool | None,
    overwrite: bool,
    json: bool,
    quiet: bool,
) -> int:
    """Rebuild `source` as `image`, or show the plan; the exit code."""
    from ext4img.rebuilder.rebuild import Rebuild, is_device, size_for  # with all that builds: slow to import

    out = Output(json)
    size = parse_size(choices.size)
    _check_features(choices.feature_names)
    on_device = is_device(image)
    if on_device and not choices.plan:
        for line in describe_device(image):
            warn(f"{quote(image)}: {line}")
    if not choices.plan:
        _check_place(image, on_device, choices.device, overwrite)
    with (
        progress(f"Making {quote(image)}", quiet) as show,
        Rebuild(
            source,
            size=size_for(image, AUTO if size is None else size),
            spare_percent=choices.spare,
            uuid=choices.uuid.value,
            label=choices.label,
            features=choices.feature_names,
            block_size=block_size,
            keep_inodes=choices.keep_inodes,
            only=only,
            salvage=salvage,
            progress=show,
        ) as planned,
    ):
        if choices.plan:
            _report_plan(planned.plan, out)
            report = planned.report
        else:
            report = planned.write(image, overwrite=overwrite, allow_device=choices.device)
    for problem in few_of_each(report.problems):
        text = str(problem) if isinstance(problem, More) else explain(problem).text
        warn(f"{quote(image)}: warning: {text}")
    if not choices.plan:
        _report_made(report, planned.plan, image, out)
    if report.incomplete:
        warn(f"{quote(image)}: incomplete: {plural(report.incomplete, 'file')} could not be read in full")
    return Exit.DONE if report.complete and not report.changes else Exit.PARTLY


def _check_features(names: tuple[str, ...]) -> None:
    from ext4img.mkfs.options import FeatureChoice

    try:
        FeatureChoice(names)
    except UnsupportedFeatureError as error:
        raise CommandError(Exit.USAGE, f"--features: {error}") from error


def _check_place(image: str, on_device: bool, device: bool, overwrite: bool) -> None:
    if image == "-":
        raise CommandError(Exit.USAGE, "an image can't be written to standard output", "./- is a file of that name")
    if on_device and not device:
        text = f"{quote(image)}: is a block device, whose contents would be overwritten"
        raise CommandError(Exit.SYSTEM, text, "--device allows that")
    if not on_device and not overwrite and os.path.lexists(image):
        raise CommandError(Exit.SYSTEM, f"{quote(image)}: already exists", "--overwrite replaces it")


def _report_plan(plan: Plan, out: Output) -> None:
    from ext4img.mkfs.regions import RegionKind

    if not out.json:
        for line in plan.lines():
            out.line(harmless(line))
        return
    out.record({"kind": "plan", **plan.summary()})
    for region in plan.placement.regions.in_order():
        record: dict[str, Any] = {
            "kind": "area",
            "block": region.pblk,
            "blocks": region.length,
            "holds": region.kind.name.lower(),
        }
        if region.kind <= RegionKind.INODE_TABLE:
            record["group"] = region.owner
        else:
            record["inode"] = plan.tree.inodes.numbers[region.owner]
            record["from_block"] = region.lblk
            record |= text_fields("path", plan.tree.inodes.show(region.owner))
        out.record(record)


def _report_made(report: RebuildReport, plan: Plan, image: str, out: Output) -> None:
    if out.json:
        out.record(
            {
                **text_fields("image", image),
                **plan.summary(),
                "made": dict(sorted(report.made.items())),
                "left_out": report.left_out,
                "incomplete": report.incomplete,
                "problems": [str(problem) for problem in few_of_each(report.problems, TOLD_AS_JSON)],
                "changes": list(report.changes),
            }
        )
        return
    counted = [plural(report.made[kind], *nouns) for kind, nouns in NOUNS.items() if report.made.get(kind)]
    out.line(f"{quote(image)}: {size_text(report.size)}, UUID {plan.uuid}: {', '.join(counted)}")
    if report.left_out:
        out.line(f"{plural(report.left_out, 'entry', 'entries')} left out")
