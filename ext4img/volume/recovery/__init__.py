"""Recovery in memory of a volume that was not unmounted, as mounting would do it: log, fast commits, orphans.

`recover` does it; the result is an `Overlay` over the volume's blocks.
"""
