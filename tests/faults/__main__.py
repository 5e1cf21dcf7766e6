"""All cases, each in a process with limits: `python -m tests.faults`; a table, and exit code 1 where one was lost."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import images, jsons, loads, shards
from tests.faults.harness import apart, table

FAMILIES = {jsons.family: 4500, images.family: 4500, loads.family: 360, shards.family: 1000}


def main() -> int:
    """Run every family, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases")
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args()
    tallies, begun = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number, (build, count) in enumerate(FAMILIES.items()):
            family = build(Path(folder) / str(number), round(count * options.share))
            tallies.append(apart(family, range(family.count)))
            print(f"{family.name}: {time.monotonic() - begun:.0f} s", file=sys.stderr)
    text = table(tallies)
    print(text)
    if options.out is not None:
        options.out.write_text(f"{text}\n", encoding="utf-8")
    lost = [line for tally in tallies for line in tally.lost]
    print("\n".join(lost), file=sys.stderr)
    return min(len(lost), 1)


if __name__ == "__main__":
    sys.exit(main())
