"""`python -m studies.relations`."""

import sys

from studies.cli import run
from studies.relations.sweep import relations

if __name__ == "__main__":
    sys.exit(run(relations))
