"""What takes the place of lost structures, in a volume whose problems are reported instead of raised."""
