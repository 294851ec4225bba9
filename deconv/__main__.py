"""`python -m deconv`: the command `deconv`."""

from __future__ import annotations

import sys

from deconv.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
