"""`python -m studies.starts`."""

import sys

from studies.cli import run
from studies.starts.sweep import starts

if __name__ == "__main__":
    sys.exit(run(starts))
