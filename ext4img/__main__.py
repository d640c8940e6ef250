"""`python -m ext4img` is the command `ext4img`."""

import sys

from ext4img.cli.main import main

sys.exit(main())
