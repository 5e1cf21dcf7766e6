"""`python -m studies.evidence`."""

import sys

from studies.cli import run
from studies.evidence.sweep import evidence

sys.exit(run(evidence))
