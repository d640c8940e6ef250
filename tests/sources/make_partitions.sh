#!/usr/bin/env bash
# Makes tests/sources/partitions anew: disks partitioned by sfdisk, sgdisk and parted, and what
# sfdisk says of each of them. Needs root for the disk with sectors of 4,096 bytes (a loop device).
# Made with util-linux 2.38.1, gdisk 1.0.9 and parted 3.5.
set -euo pipefail
kept=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/partitions
mkdir -p "$kept"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

keep() { # NAME [DEVICE]
    sfdisk --json "${2:-$1.img}" >"$kept/$1.json"
    xz --stdout "$1.img" >"$kept/$1.img.xz"
}

truncate -s 16M mbr.img
sfdisk --quiet mbr.img <<'TABLE'
label: dos
label-id: 0x12345678
start=2048, size=4096, type=83, bootable
start=6144, size=16384, type=5
start=22528, size=2048, type=82
start=8192, size=2048, type=83
start=12288, size=4096, type=8e
start=18432, size=2048, type=7
TABLE
keep mbr

# Deleting a logical partition renumbers those after it.
cp mbr.img mbr-deleted.img
sfdisk --quiet --delete mbr-deleted.img 5
keep mbr-deleted

truncate -s 16M gpt.img
sfdisk --quiet gpt.img <<'TABLE'
label: gpt
label-id: 01234567-89AB-CDEF-0123-456789ABCDEF
1 : start=2048, size=2048, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid=11111111-1111-1111-1111-111111111111, name="EFI"
3 : start=8192, size=8192, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, uuid=33333333-3333-3333-3333-333333333333, name="Wörk"
7 : start=4096, size=2048, type=933AC7E1-2EB4-4F13-B844-0E14E2AEF915, uuid=77777777-7777-7777-7777-777777777777
TABLE
keep gpt

# A protective MBR that also lists a partition, as some installers make it.
cp gpt.img gpt-hybrid.img
sgdisk --hybrid 3 gpt-hybrid.img >/dev/null
keep gpt-hybrid

truncate -s 8M parted.img
parted --script parted.img mklabel msdos mkpart primary ext4 1MiB 2MiB mkpart extended 2MiB 7MiB \
    mkpart logical ext4 3MiB 4MiB mkpart logical ext4 5MiB 7MiB
keep parted

truncate -s 32M gpt-4k.img
loop=$(losetup --find --show --sector-size 4096 gpt-4k.img)
trap 'losetup --detach "$loop"; rm -rf "$work"' EXIT
sfdisk --quiet --no-reread "$loop" <<'TABLE'
label: gpt
label-id: 01234567-89AB-CDEF-0123-456789ABCDEF
start=256, size=1024, uuid=11111111-1111-1111-1111-111111111111, name="four"
start=2048, size=2048, uuid=22222222-2222-2222-2222-222222222222
TABLE
keep gpt-4k "$loop"
losetup --detach "$loop"

# An MBR does not say what it counts in; that the second partition holds a file system, and the chain of logical
# partitions, show it.
truncate -s 32M mbr-4k.img
loop=$(losetup --find --show --sector-size 4096 mbr-4k.img)
sfdisk --quiet --no-reread "$loop" <<'TABLE'
label: dos
label-id: 0x12345678
start=256, size=1024, type=83
start=2048, size=512, type=83
start=4096, size=4000, type=5
start=4352, size=256, type=83
start=5120, size=512, type=83
TABLE
mke2fs -q -t ext4 -O ^has_journal -E offset=$((2048 * 4096)) -F mbr-4k.img 2M
keep mbr-4k "$loop"
