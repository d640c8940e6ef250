"""ext4img: read ext2/3/4 off raw images, and back up encrypted files without their key."""
