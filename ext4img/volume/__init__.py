"""The meaning of the records: superblock, groups, blocks, inodes, mappings, directories, attributes."""
