"""Result files of trials."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All that are filed."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*_seed*.json"))]


def by_seed(found: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[int, float]]:
    """(contender, world) → seed → share named right."""
    shares: dict[tuple[str, str], dict[int, float]] = {}
    for one in sorted(found, key=lambda each: each["seed"]):
        shares.setdefault((one["contender"], one["world"]), {})[one["seed"]] = one["right"]
    return shares
