"""The commands: each module is one, by its name; its function `run` is what Typer shows and calls."""
