"""What differs between a backup and an image."""
