"""From an image to an archive: which entries, in which order, read how."""
