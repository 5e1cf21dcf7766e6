"""Options of the synthetic dataset, and the ranges that they must lie in."""

from typing import Any, Literal, NamedTuple

TaskName = Literal["plain", "key", "match", "pair", "side"]
CATEGORIES: dict[str, list[str]] = {
    "plain": [str(digit) for digit in range(10)],
    "key": ["under 0", "under 1", "0", "1"],
    "match": ["paired", "single"],
    "pair": ["0 left", "1 left", "0", "1"],
    "side": ["left", "right", "key"],
}
RELATION = {
    "key": ("under 0", "under 1"),
    "match": ("paired", "single"),
    "pair": ("0 left", "1 left"),
    "side": ("left", "right"),
}  # classes that need the partner
ROW = 5  # digits of "pair" that come together: one between its two keys, and two keys alone
CROWD = 0.72  # of the height that the rows of "pair" may fill
MOST = 10  # digits of a relation image: singles are of different digits


class World(NamedTuple):
    """Kept in the annotation files. See `make_scenes` for each number."""

    size: int
    digits: tuple[int, int]
    scale: tuple[float, float]
    overlap: float
    seed: int
    task: str = "plain"
    distance: tuple[float, float] = (0.0, 0.0)
    clutter: int = 0


USUAL: dict[str, dict[str, Any]] = {  # what a task takes where nothing is said
    "plain": {"digits": (2, 7), "scale": (0.2, 0.5), "overlap": 0.1, "distance": (0.0, 0.0)},
    "key": {"digits": (2, 4), "scale": (0.15, 0.22), "overlap": 0.0, "distance": (0.3, 0.6)},
    "match": {"digits": (4, 6), "scale": (0.15, 0.22), "overlap": 0.0, "distance": (0.3, 0.6)},
    "pair": {"digits": (10, 10), "scale": (0.12, 0.16), "overlap": 0.0, "distance": (0.22, 0.3)},
    "side": {"digits": (2, 4), "scale": (0.15, 0.22), "overlap": 0.0, "distance": (0.3, 0.6)},
}


def build_world(task: str, *, size: int, seed: int, clutter: int, **given: Any) -> World:
    """The world of a task: what was given, and the task's own where it was not.

    Raises:
        ValueError: an unknown task, a number that it has no use for, or one out of its range.
    """
    if task not in USUAL:
        raise ValueError(f"task={task!r} is unknown; use one of {', '.join(USUAL)}")
    for name, only in (("overlap", "plain"), ("distance", "relation")):
        if given.get(name) is not None and (task == "plain") != (only == "plain"):
            raise ValueError(f"{name}={given[name]} is for {only} scenes, not for task={task!r}; leave it out")
    chosen = {name: value for name, value in given.items() if value is not None}
    world = World(size=size, seed=seed, task=task, clutter=clutter, **{**USUAL[task], **chosen})
    check_world(world)
    return world


def check_world(world: World) -> None:
    """Refuse numbers out of their range."""
    if world.size < 32:
        raise ValueError(f"size={world.size} must be at least 32 pixels; e.g. 128")
    if not 0 < world.scale[0] <= world.scale[1] <= 0.9:
        raise ValueError(f"scale={world.scale} must be 0 < smallest ≤ largest ≤ 0.9; e.g. [0.2, 0.5]")
    if not 1 <= world.digits[0] <= world.digits[1]:
        raise ValueError(f"digits={world.digits} must be 1 ≤ fewest ≤ most; e.g. [2, 7]")
    if not 0 <= world.overlap < 1:
        raise ValueError(f"overlap={world.overlap} must be 0 ≤ overlap < 1; e.g. 0.1")
    if world.clutter < 0:
        raise ValueError(f"clutter={world.clutter} must be at least 0; e.g. 2")
    if world.task != "plain":
        check_relation(world)


def check_relation(world: World) -> None:
    """Refuse a relation that has no room in the image."""
    low, high = world.distance
    room = 1 - world.scale[1]  # the farthest that two centres can stand apart along a side
    if not world.scale[1] <= low < high <= room:
        raise ValueError(
            f"distance={world.distance} must be {world.scale[1]:g} ≤ nearest < farthest ≤ {room:g} with "
            f"scale={world.scale}: closer ones overlap, farther ones leave the image; e.g. [0.3, 0.6]"
        )
    if world.digits[0] < 2 or world.digits[1] > MOST:
        raise ValueError(f"digits={world.digits} must be 2 ≤ fewest, most ≤ {MOST} in a relation; e.g. [4, 6]")
    if world.task == "match" and any(number % 2 for number in world.digits):
        raise ValueError(f"digits={world.digits} must be even: matches are drawn in couples; e.g. [4, 6]")
    if world.task == "pair":
        check_pair(world)


def check_pair(world: World) -> None:
    """Refuse rows that have no room in the image."""
    fewest, most = world.digits
    if fewest % ROW or most % ROW:
        raise ValueError(f"digits={world.digits} must be 5 or 10: a digit, its two keys and two more; e.g. [10, 10]")
    least, most_distant = (1 - world.scale[1]) / 4, (1 - world.scale[1]) / 2 - 2 / world.size
    if not least <= world.distance[0] <= world.distance[1] <= most_distant:
        raise ValueError(
            f"distance={world.distance} must lie within {least:.2f} and {most_distant:.2f} with scale={world.scale}: a "
            "digit has a key to either side, each in its half of the image; e.g. [0.22, 0.3]"
        )
    if most // ROW * 2 * world.scale[1] > CROWD:
        raise ValueError(
            f"scale={world.scale} must be at most {CROWD * ROW / most / 2:.2f} with digits={world.digits}: "
            "the rows stand below each other; e.g. [0.12, 0.16]"
        )
