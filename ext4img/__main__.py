"""The command `ext4img`, and `python -m ext4img`."""

import _signal  # type: ignore[import-not-found]  # the built-in part of `signal`, which takes longer to import
import sys


def main() -> int:
    """Handle signals, then import and run the command: in this order."""
    # Until there is a handler, Ctrl-C ends the process as it does others: without a traceback.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from ext4img.cli.signals import handler

    handler.install()
    from ext4img.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
