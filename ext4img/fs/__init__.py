"""The file system as a caller sees it: paths, inodes, plaintext, no-key names, ciphertext.

filesystem       FileSystem, what `ext4img.open` returns
path, pure_path  Ext4Path; resolve: following a path; walk: going through a tree
inode, file      Inode and File
protocol         FileTree, on which these modules depend instead of FileSystem
encryption       contexts, policies and ciphers of the volume; policies: which are in use
nokey_names, casefold_lookup, shown_names   how names are shown and found
unlock, protectors, image_metadata          keys by the metadata on the image
verity, accounts, check
"""
