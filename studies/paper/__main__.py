"""`python -m studies.paper`."""

import sys

from studies.cli import run
from studies.paper.page import paper

sys.exit(run(paper))
