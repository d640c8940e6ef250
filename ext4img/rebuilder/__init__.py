"""From an archive or an image to a new ext4 image."""
