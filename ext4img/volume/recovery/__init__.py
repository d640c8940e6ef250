"""What mounting would do to a volume that was not unmounted, done in memory: the log, fast commits, orphans.

`recover` is where it begins; the result is an `Overlay` over the volume's blocks.
"""
