"""From an image to an archive."""
