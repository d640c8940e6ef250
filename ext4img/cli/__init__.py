"""The command `ext4img`: one module a command in `commands/`, docs/cli.md describes them."""
