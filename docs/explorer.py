"""Puts the explorer's page as it is now around the data of docs/live/explorer.html: python docs/explorer.py."""

import json
import re
from pathlib import Path

from botvision.explore.page import wrapped

LIVE = Path(__file__).parent / "live" / "explorer.html"


def page() -> str:
    """The file as the explorer would write it now, with its models and images as they are."""
    found = re.search(r'id="data">(.*?)</script>', LIVE.read_text(), re.DOTALL)
    assert found is not None
    return wrapped(json.loads(found[1]))


if __name__ == "__main__":
    LIVE.write_text(page())
