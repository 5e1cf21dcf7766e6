"""`python -m botvision`: the command line."""

import sys

from botvision.cli import main

if __name__ == "__main__":
    sys.exit(main())
