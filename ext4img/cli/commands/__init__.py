"""The commands: each module is the command of its name; Typer shows and calls its function `run`."""
