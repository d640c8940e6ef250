"""The archive format and its readers and writers. Nothing here sees an image. docs/archive-format.md has the bytes."""
