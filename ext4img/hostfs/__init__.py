"""The host's file system, touched safely: no link followed, no name lost, everything synced."""
