"""What differs between an archive and an image."""
