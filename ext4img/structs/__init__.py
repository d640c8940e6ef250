"""What the bytes are: Construct declarations in kernel names, one record family a file."""
