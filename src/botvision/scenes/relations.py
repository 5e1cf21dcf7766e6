"""Relations between digits: classes that only another digit at a distance tells."""

# x, y centre of a digit's square, side its length, all in pixels

from typing import NamedTuple

import numpy as np

from botvision.scenes.material import random_side
from botvision.scenes.world import CATEGORIES, ROW, World

KEYS = (0, 1)  # digits that others are named after; the first is the one that "left" and "right" are told from
STEEPEST = np.deg2rad(60)  # of the line from a digit to its key: a side must be a side
LEVEL = np.deg2rad(10)  # of the line through the keys of "pair"
ATTEMPTS = 200
GAP = 2  # pixels between squares


class Thing(NamedTuple):
    """A digit to draw.

    Attributes:
        x, y, side: its square.
        digit: 0 … 9; -1 for clutter.
        category: its class by name; empty for clutter.
        partner: number of the other digit that its class depends on; none for a key and for clutter.
    """

    x: float
    y: float
    side: int
    digit: int = -1
    category: str = ""
    partner: int | None = None

    def distance(self, other: "Thing") -> float:
        """Between the centres."""
        return float(np.hypot(self.x - other.x, self.y - other.y))

    def is_clear_of(self, other: "Thing") -> bool:
        """Whether the two squares are apart."""
        least = (self.side + other.side) / 2 + GAP
        return max(abs(self.x - other.x), abs(self.y - other.y)) >= least


class Field:
    """The part of an image where centres may stand: the same for all sizes, so that a size tells no place."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.low = world.size * world.scale[1] / 2 + 1
        self.high = world.size - self.low

    def holds(self, *values: float) -> bool:
        """Whether coordinates lie in it."""
        return all(self.low <= value <= self.high for value in values)

    def anywhere(self, rng: np.random.Generator) -> tuple[float, float]:
        """A point of it."""
        x, y = rng.uniform(self.low, self.high, 2)
        return float(x), float(y)

    def step(self, rng: np.random.Generator, *, steepest: float) -> tuple[float, float]:
        """A displacement to the right, of a length within the world's distance."""
        length = self.world.size * rng.uniform(*self.world.distance)
        angle = rng.uniform(-steepest, steepest)
        return float(length * np.cos(angle)), float(length * np.sin(angle))

    def side(self, rng: np.random.Generator) -> int:
        """A digit's side."""
        return random_side(self.world.size, self.world.scale, rng)


def lay_out(world: World, rng: np.random.Generator) -> list[Thing]:
    """An image's digits, then its clutter."""
    field = Field(world)
    things = {"key": key, "match": match, "pair": pair, "side": side}[world.task](field, rng)
    for _ in range(world.clutter):
        for _attempt in range(ATTEMPTS):
            more = Thing(*field.anywhere(rng), field.side(rng))
            if all(more.is_clear_of(old) for old in things):
                things.append(more)
                break
    return things


def match(field: Field, rng: np.random.Generator) -> list[Thing]:
    """Couples of digits at a controlled distance: the same digit twice ("paired"), or two others ("single").

    Places and sizes are drawn first, then a coin says what a couple is, then the digits: nothing but the partner's
    digit depends on the class. No digit stands in two couples.
    """
    fewest, most = field.world.digits
    couples = int(rng.integers(fewest // 2, most // 2 + 1))
    things: list[Thing] = []
    digits = [int(digit) for digit in rng.permutation(10)]
    while not things:
        for _ in range(couples):
            for _attempt in range(ATTEMPTS):
                x, y = field.anywhere(rng)
                right, down = field.step(rng, steepest=np.pi)
                pair = [Thing(x, y, field.side(rng)), Thing(x + right, y + down, field.side(rng))]
                if field.holds(pair[1].x, pair[1].y) and apart([*things, *pair]):
                    things += coupled(pair, digits, is_same=bool(rng.random() < 0.5), number=len(things))
                    break
    return things


def coupled(pair: list[Thing], digits: list[int], *, is_same: bool, number: int) -> list[Thing]:
    """A couple with its digits, taken from those that are left, and its class."""
    first = digits.pop()
    second = first if is_same else digits.pop()
    category = CATEGORIES["match"][0 if is_same else 1]
    return [
        pair[0]._replace(digit=first, category=category, partner=number + 1),
        pair[1]._replace(digit=second, category=category, partner=number),
    ]


def key(field: Field, rng: np.random.Generator) -> list[Thing]:
    """A key, a 0 or a 1 by a coin, and digits at a controlled distance, all "under" it; placed as for `side`."""
    number = int(rng.integers(len(KEYS)))
    first, *others = side(field, rng)
    first = first._replace(digit=KEYS[number], category=CATEGORIES["key"][2 + number])
    name = CATEGORIES["key"][number]
    return [first, *(thing._replace(digit=int(rng.integers(len(KEYS), 10)), category=name) for thing in others)]


def side(field: Field, rng: np.random.Generator) -> list[Thing]:
    """A key, and digits "left" or "right" of it at a controlled distance.

    A digit stands only where the key could stand on its other side as well, at the same distance, and a coin says on
    which it stands: the x of a single digit tells nothing of its side. The key comes with the first digit, the others
    are drawn from the same distribution given the key; only that digits must not overlap disturbs this, a little. One
    that finds no place is left out.

    The key's own place tells everything where `distance` is far: with room for the key on both sides of a digit, a key
    to the digit's right stands beyond the middle of the image once twice the smallest horizontal step and the margin
    reach half of its width (from 0.39 on, at scale 0.22). All digits of an image then have one class.
    """
    fewest, most = field.world.digits
    count = int(rng.integers(fewest, most + 1))
    for _attempt in range(ATTEMPTS * ATTEMPTS):
        x, y = field.anywhere(rng)
        right, down = field.step(rng, steepest=STEEPEST)
        if field.holds(x - right, x + right, y + down):
            break
    else:
        world = field.world
        raise ValueError(
            f"task={world.task!r} finds no room for a key on both sides of a digit at size={world.size}, scale="
            f"{world.scale}, distance={world.distance}; lower distance or scale"
        )
    is_left = bool(rng.random() < 0.5)
    middle = Thing(x + right if is_left else x - right, y + down, field.side(rng), KEYS[0], CATEGORIES["side"][2])
    things = [middle, beside(field, (x, y), rng, is_left=is_left)]
    for _ in range(count - 2):
        for _attempt in range(ATTEMPTS):
            right, down = field.step(rng, steepest=STEEPEST)
            is_left = bool(rng.random() < 0.5)
            x, y = (middle.x - right if is_left else middle.x + right), middle.y - down
            more = beside(field, (x, y), rng, is_left=is_left)
            if field.holds(x - right, x + right, y) and apart([*things, more]):
                things.append(more)
                break
    return things


def beside(field: Field, place: tuple[float, float], rng: np.random.Generator, *, is_left: bool) -> Thing:
    """A digit that is not the key's, with its class."""
    digit = int(rng.integers(KEYS[0] + 1, 10))
    return Thing(*place, field.side(rng), digit, CATEGORIES["side"][0 if is_left else 1], partner=0)


def pair(field: Field, rng: np.random.Generator) -> list[Thing]:
    """Rows of a digit between a 0 and a 1, "0 left" or "1 left" by a coin; and rows of keys alone, their counterparts.

    All places and sizes are drawn first, a digit exactly between its keys, then a coin a digit, then which row of keys
    alone is another row's counterpart, its 0 on the other side. So a digit's own square, its keys' squares and all of
    the other digits with their keys tell nothing; nor does any count or mean over the image, such as on which side of
    it the zeros are: they are as many on each.
    """
    rows = int(rng.integers(field.world.digits[0] // ROW, field.world.digits[1] // ROW + 1))
    placed: list[Thing] = []
    for attempt in range(ATTEMPTS * ATTEMPTS):
        if attempt % (ATTEMPTS // 10) == 0:  # rows that leave too little room for the others are laid anew
            placed = []
        more = row_of_three(field, rng)
        if apart(more) and all(new.is_clear_of(old) for new in more for old in placed):
            placed += more
        if len(placed) == 2 * 3 * rows:
            break
    else:
        world = field.world
        raise ValueError(
            f"task='pair' finds no room for {2 * rows} rows at size={world.size}, scale={world.scale}, distance="
            f"{world.distance}; lower digits or scale, or give a larger size"
        )
    zero_left = [bool(coin < 0.5) for coin in rng.random(rows)]
    sides = zero_left + [not zero_left[number] for number in rng.permutation(rows)]
    things: list[Thing] = []
    for number, is_left in enumerate(sides):
        left, middle, right = placed[3 * number : 3 * number + 3]
        for thing, digit in ((left, KEYS[not is_left]), (right, KEYS[is_left])):
            things.append(thing._replace(digit=digit, category=str(digit)))
        if number < rows:
            digit, name = int(rng.integers(len(KEYS), 10)), CATEGORIES["pair"][not is_left]
            things.append(middle._replace(digit=digit, category=name, partner=len(things) - 2))
    return things


def row_of_three(field: Field, rng: np.random.Generator) -> list[Thing]:
    """Squares left, in the middle and right of a row."""
    right, down = field.step(rng, steepest=LEVEL)
    x = rng.uniform(field.low + right, field.high - right)
    y = rng.uniform(field.low + abs(down), field.high - abs(down))
    return [Thing(float(x + step * right), float(y + step * down), field.side(rng)) for step in (-1, 0, 1)]


def apart(things: list[Thing]) -> bool:
    """Whether no two squares touch."""
    return all(a.is_clear_of(b) for number, a in enumerate(things) for b in things[:number])
