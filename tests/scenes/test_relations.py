"""Relations: a digit's own pixels, place and size tell nothing of its class; the partner tells all of it."""

import json

import numpy as np
import pytest
from PIL import Image

from botvision.scenes import Material, load_material, make_scenes
from botvision.scenes.make import draw_scene
from botvision.scenes.relations import KEYS, lay_out
from botvision.scenes.world import CATEGORIES, MOST, RELATION, build_world

SIZE = 96
TASKS = ["key", "match", "pair", "side"]
ROOMY = {"pair": {"digits": (5, 5), "distance": (0.28, 0.36)}}  # for digits as large as elsewhere


@pytest.fixture(scope="module")
def relation(tmp_path_factory):
    """Folders of 240 + 80 scenes a task."""
    folder = tmp_path_factory.mktemp("relations")
    for task in TASKS:
        room = ROOMY.get(task, {})
        make_scenes(folder / task, task=task, train=240, val=80, size=SIZE, scale=(0.16, 0.22), clutter=1, **room)
    return folder


def entries(folder, split="train"):
    document = json.loads((folder / "annotations" / f"{split}.json").read_text())
    names = {c["id"]: c["name"] for c in document["categories"]}
    return document, [{**a, "name": names[a["category_id"]]} for a in document["annotations"]]


def layouts(task, count=2500, size=SIZE, **options):
    world = build_world(task, size=size, seed=0, clutter=options.pop("clutter", 0), **options)
    rng = np.random.default_rng(0)
    return [lay_out(world, rng) for _ in range(count)]


def crops(folder, split, wanted):
    """Pixels (16 × 16 × 3) of each object's box and its class; and the box itself."""
    document, annotations = entries(folder, split)
    files = {image["id"]: image["file_name"] for image in document["images"]}
    pixels, classes, boxes = [], [], []
    for annotation in annotations:
        if annotation["name"] in wanted:
            x, y, width, height = annotation["bbox"]
            with Image.open(folder / split / files[annotation["image_id"]]) as image:
                crop = image.crop((x, y, x + width, y + height)).resize((16, 16))
            pixels.append(np.asarray(crop, np.float32).ravel() / 255)
            classes.append(annotation["name"])
            boxes.append([x, y, width, height, annotation["area"]])
    return np.array(pixels), np.array(classes), np.array(boxes)


@pytest.mark.parametrize("task", TASKS)
def test_a_classifier_on_the_crops_alone_stays_at_chance(relation, task):
    """With pixels, and with place and size, of forests that tell a digit from its crop well."""
    from sklearn.ensemble import ExtraTreesClassifier

    train, val = (crops(relation / task, split, RELATION[task]) for split in ("train", "val"))
    limit = 0.5 + 3 * np.sqrt(0.25 / 80)  # digits of an image may share their class
    for number in (0, 2):
        forest = ExtraTreesClassifier(200, min_samples_leaf=3, random_state=0).fit(train[number], train[1])
        assert forest.score(val[number], val[1]) < limit


def test_the_same_classifier_tells_what_a_crop_does_show(relation):
    """The key from the other digits: the forest is no straw man."""
    from sklearn.ensemble import ExtraTreesClassifier

    train, val = (crops(relation / "side", split, CATEGORIES["side"]) for split in ("train", "val"))
    forest = ExtraTreesClassifier(200, random_state=0).fit(train[0], train[1] == "key")
    usual = max((val[1] == "key").mean(), (val[1] != "key").mean())
    assert forest.score(val[0], val[1] == "key") > usual + 0.5 * (1 - usual)


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_oracle_that_sees_the_partner_is_always_right(relation, split):
    _, annotations = entries(relation / "side", split)
    by_id = {a["id"]: a for a in annotations}
    for annotation in annotations:
        if annotation["name"] == "key":
            assert "partner" not in annotation
            continue
        own, key = (a["bbox"][0] + a["bbox"][2] / 2 for a in (annotation, by_id[annotation["partner"]]))
        assert annotation["name"] == ("left" if own < key else "right")
    for key, *others in layouts("key", 300):
        assert key.category == str(key.digit)
        assert {thing.category for thing in others} == {f"under {key.digit}"}
        assert not {thing.digit for thing in others} & set(KEYS)
    for things in layouts("match", 300):
        digits = [thing.digit for thing in things]
        for number, thing in enumerate(things):
            assert thing.category == ("paired" if digits.count(thing.digit) == 2 else "single")
            assert things[thing.partner].partner == number
    for things in layouts("pair", 200):
        for number, thing in enumerate(things):
            if thing.partner is not None:
                assert thing.partner == number - 2  # left key, right key, digit
                left, right = things[number - 2], things[number - 1]
                assert thing.category == f"{left.digit} left"
                assert {left.digit, right.digit} == set(KEYS)
                assert left.x < right.x
                assert ((left.x + right.x) / 2, (left.y + right.y) / 2) == pytest.approx((thing.x, thing.y))


@pytest.mark.parametrize("task", TASKS)
def test_classes_are_balanced_and_independent_of_digit_size_count_and_place(task):
    things = [(thing, len(layout)) for layout in layouts(task) for thing in layout if thing.partner is not None]
    is_first = np.array([thing.category == RELATION[task][0] for thing, _ in things])
    assert abs(is_first.mean() - 0.5) < 0.02
    columns = {
        "digit": [t.digit for t, _ in things],
        "side": [t.side for t, _ in things],
        "count": [n for _, n in things],
        "y": [int(6 * t.y / SIZE) for t, _ in things],
    }
    if task in {"match", "pair"}:
        columns["x"] = [int(6 * t.x / SIZE) for t, _ in things]
    for name, values in columns.items():
        for value in set(values):
            chosen = is_first[np.array(values) == value]
            assert abs(chosen.mean() - 0.5) < 4 * np.sqrt(0.5 / len(chosen)) + 0.01, (name, value)


@pytest.mark.parametrize("distance", [(0.3, 0.6), (0.4, 0.6)])
def test_a_place_tells_no_side(distance):
    """Exact with one digit and its key; with more, that they may not overlap leaves a little."""
    for digits, allowed in (((2, 2), 0.0), ((3, 4), 0.06)):
        things = [t for layout in layouts("side", 1200, digits=digits, distance=distance) for t in layout]
        things = sorted((t for t in things if t.partner is not None), key=lambda t: t.x)
        for fifth in np.array_split(np.array([t.category == "left" for t in things]), 5):
            assert abs(fifth.mean() - 0.5) < allowed + 4 * np.sqrt(0.25 / len(fifth))


FAR = {"digits": (10, 10), "scale": (0.1, 0.13), "distance": (0.37, 0.42)}


@pytest.mark.parametrize("options", [{}, FAR])
def test_neither_geometry_nor_counts_nor_the_other_rows_tell_a_pair(options):
    """Boosted trees on all places and sizes and on the other digits' answers; rules on where the zeros are."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows, classes, rules = [], [], []
    for things in layouts("pair", 3000, size=192, **options):
        middles = [number for number, thing in enumerate(things) if thing.partner is not None]
        zeros = [thing.x for thing in things if thing.digit == KEYS[0]]
        ones = [thing.x for thing in things if thing.digit == KEYS[1]]
        assert len(zeros) == len(ones) == 4
        for number in middles:
            own = {number, number - 1, number - 2}
            order = sorted(own) + [n for n in range(len(things)) if n not in own]
            boxes = [value for n in order for value in (things[n].x, things[n].y, things[n].side)]
            (other,) = (things[n].category == "0 left" for n in middles if n != number)
            assert sum(x < 96 for x in zeros) == sum(x < 96 for x in ones) == 2
            rules.append(np.mean(zeros) < np.mean(ones))
            rows.append([*boxes, other])
            classes.append(things[number].category == "0 left")
    table, is_left, train = np.array(rows), np.array(classes), np.arange(len(rows)) < 4000  # whole images are held out
    allowed = 3 * np.sqrt(0.25 / (len(rows) - 4000))
    trees = HistGradientBoostingClassifier(max_iter=25, random_state=0).fit(table[train], is_left[train])
    assert abs(trees.score(table[~train], is_left[~train]) - 0.5) < allowed
    assert abs((np.array(rules) == is_left).mean() - 0.5) < allowed


GRID = {"digits": (3, 4), "distance": (0.4, 0.6), "scale": (0.16, 0.22)}  # of `studies/grids/cpu.yaml`


def test_one_bit_of_an_image_answers_all_of_side():
    """Why its runs prove nothing about attention: the key's half of the image is the class of every digit in it."""
    for key, *others in layouts("side", 1500, **GRID):
        assert {thing.category for thing in others} == {"left" if key.x > SIZE / 2 else "right"}


@pytest.mark.parametrize("task", ["key", "side"])
def test_digits_that_find_no_place_are_left_out_as_the_docstring_says(task):
    held = np.bincount([len(layout) for layout in layouts(task, 3000, size=192, **GRID)])
    assert held[:2].sum() == 0
    assert held[2:] / held.sum() == pytest.approx([0.50, 0.47, 0.03], abs=0.03)
    for share in ("50 % hold 2", "47 % hold 3", "3 % hold 4"):
        assert share in make_scenes.__doc__


def few_samples(each):
    """Training material with so few samples of a digit that the same one would often be drawn twice."""
    material = load_material("train")
    kept = np.concatenate([np.flatnonzero(material.labels == digit)[:each] for digit in range(10)])
    return material._replace(images=material.images[kept], labels=material.labels[kept])


def test_a_couple_of_match_is_never_the_same_sample_twice(monkeypatch):
    """ "By another hand": two samples at least."""
    chosen, plainly = [], Material.specimen

    def specimen(self, digit, rng, **rest):
        chosen.append(plainly(self, digit, rng, **rest))
        return chosen[-1]

    monkeypatch.setattr(Material, "specimen", specimen)
    material, rng = few_samples(2), np.random.default_rng(0)
    world = build_world("match", size=SIZE, seed=0, clutter=1)
    same = 0
    for _ in range(60):
        chosen.clear()
        draw_scene(material, world, rng)
        for first, second in zip(chosen[::2], chosen[1::2], strict=True):
            assert first != second
            same += material.labels[first] == material.labels[second]
    assert same > 30


@pytest.mark.parametrize("task", ["plain", "key", "side"])
def test_scenes_of_the_other_tasks_are_drawn_as_before(task, monkeypatch):
    def images():
        rng, world = np.random.default_rng(0), build_world(task, size=SIZE, seed=0, clutter=1)
        return [draw_scene(few_samples(1), world, rng)[0] for _ in range(20)]

    ours = images()
    monkeypatch.setattr(
        Material, "specimen", lambda self, digit, rng, **_: int(rng.choice(np.flatnonzero(self.labels == digit)))
    )
    np.testing.assert_array_equal(ours, images())


@pytest.mark.parametrize("task", TASKS)
def test_distances_lie_in_their_range_and_nothing_overlaps_or_leaves_the_image(relation, task):
    near, far = (0.33, 0.37) if task == "pair" else (0.35, 0.5)
    for layout in layouts(task, 300, distance=(near, far), clutter=2):
        for number, thing in enumerate(layout):
            assert thing.side / 2 < min(thing.x, thing.y, SIZE - thing.x, SIZE - thing.y)
            assert all(thing.is_clear_of(other) for other in layout[:number])
            if thing.partner is not None:
                assert near * SIZE - 1e-6 <= thing.distance(layout[thing.partner]) <= far * SIZE + 1e-6
    document, annotations = entries(relation / task)
    low, high = document["info"]["world"]["distance"]
    assert all(low * SIZE - 0.1 <= a["distance"] <= high * SIZE + 0.1 for a in annotations if "partner" in a)
    keys = sum(a["name"] in {"key", "0", "1"} for a in annotations)
    assert keys == {"match": 0, "pair": 4 * 240}.get(task, 240)
    assert all(thing.digit != KEYS[0] for layout in layouts("side", 50) for thing in layout[1:])


def test_the_same_seed_draws_the_same_relation(tmp_path):
    def images(name, seed):
        make_scenes(tmp_path / name, task="match", train=2, val=1, size=64, seed=seed)
        return [(tmp_path / name / "train" / f"00000{i}.jpg").read_bytes() for i in (1, 2)]

    assert images("a", 0) == images("b", 0) != images("c", 1)
    assert "already" in make_scenes(tmp_path / "a", task="match", train=2, val=1, size=64, seed=0)
    with pytest.raises(ValueError, match="holds something else"):
        make_scenes(tmp_path / "a", task="side", train=2, val=1, size=64, seed=0)


def test_clutter_is_drawn_and_not_annotated(tmp_path):
    for name, clutter in (("without", 0), ("with", 3)):
        make_scenes(tmp_path / name, task="side", train=1, val=1, size=128, digits=(2, 2), clutter=clutter)
        assert len(entries(tmp_path / name)[1]) == 2
    images = [(tmp_path / name / "train" / "000001.jpg").read_bytes() for name in ("without", "with")]
    assert images[0] != images[1]
    make_scenes(tmp_path / "plain", train=1, val=1, digits=(1, 1), clutter=2)
    assert len(entries(tmp_path / "plain")[1]) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"size": 32, "scale": (0.18, 0.18)},
        {"digits": (5, 5), "scale": (0.29, 0.3), "distance": (0.3, 0.3001)},
    ],
)
def test_rows_that_find_no_room_end_in_a_line_and_leave_nothing(tmp_path, options):
    with pytest.raises(ValueError, match=r"no room for [24] rows at size=.*; lower digits or scale, or give a larger"):
        make_scenes(tmp_path / "x", task="pair", train=1, val=1, **options)
    assert not list(tmp_path.iterdir())


def test_a_key_that_finds_no_room_ends_in_a_line(tmp_path):
    with pytest.raises(ValueError, match="finds no room for a key on both sides of a digit at size=128"):
        make_scenes(tmp_path / "x", task="side", train=1, val=1, size=128, distance=(0.77, 0.78))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "sid"}, "task='sid' is unknown; use one of plain, key, match, pair, side"),
        ({"task": "side", "overlap": 0.1}, "overlap=0.1 is for plain scenes, not for task='side'; leave it out"),
        ({"distance": (0.3, 0.5)}, r"distance=\(0.3, 0.5\) is for relation scenes, not for task='plain'; leave it out"),
        ({"task": "side", "distance": (0.6, 0.3)}, r"distance=\(0.6, 0.3\) must be 0.22 ≤ nearest < farthest ≤ 0.78"),
        ({"task": "side", "distance": (0.1, 0.3)}, "closer ones overlap, farther ones leave the image"),
        ({"task": "side", "digits": (1, 3)}, f"must be 2 ≤ fewest, most ≤ {MOST} in a relation"),
        ({"task": "match", "digits": (3, 4)}, r"digits=\(3, 4\) must be even: matches are drawn in couples"),
        ({"task": "pair", "digits": (3, 6)}, r"digits=\(3, 6\) must be 5 or 10"),
        ({"task": "pair", "distance": (0.3, 0.45)}, r"distance=\(0.3, 0.45\) must lie within 0.21 and 0.40 with scale"),
        ({"task": "pair", "scale": (0.15, 0.2)}, r"scale=\(0.15, 0.2\) must be at most 0.18 with digits=\(10, 10\)"),
        ({"clutter": -1}, "clutter=-1 must be at least 0"),
    ],
)
def test_relations_out_of_range_are_refused_and_nothing_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_scenes(tmp_path / "x", **options)
    assert not list(tmp_path.iterdir())
