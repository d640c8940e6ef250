"""From a backup's members to a directory of the host, where each gets its name when it is whole."""
