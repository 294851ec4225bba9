"""`python -m tests.coverage`."""

import sys

from tests.coverage.runner import main

if __name__ == "__main__":
    sys.exit(main())
