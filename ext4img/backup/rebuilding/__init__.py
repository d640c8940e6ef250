"""From a backup's members, or an image's, to the nodes of a new file system. `build` makes the image of them."""
