"""What the records mean: superblock, groups, blocks, inodes, mappings, directories, attributes."""
