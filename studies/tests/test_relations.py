"""Relations: equal draws, a fair choice, probes that change the keys alone, a page that is what its files give."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ttest_1samp

from botvision.scenes.material import load_material
from botvision.scenes.relations import KEYS
from botvision.scenes.world import build_world
from studies.holm import holm
from studies.relations import probes, sweep, trials
from studies.relations.evidence import UNTRAINED, collect
from studies.relations.images import draw_attention
from studies.relations.page import page_text
from studies.relations.protocol import (
    ATTENTION,
    DRAWS,
    FORMS,
    LARGE,
    OWN,
    SEARCH_SEED,
    SEEDS,
    SHORT,
    VARIANTS,
    WORLDS,
    Form,
    draws,
)
from studies.relations.search import choice, wanted
from studies.relations.sweep import look_before_training, next_trials, relations
from studies.relations.trials import Trial
from studies.starts.reading import SCENES, SIZE, Setting

ROOT = Path(__file__).parent.parent.parent
FILED = ROOT / "benchmarks" / "results" / "relations"
RESULT = {"right": 0.5, "steps": 500, "step_ms": 100.0, "parameters": 10**6, "madds": 1e9, "hardware": "a machine",
          "commit": "abc", "by_distance": []}  # fmt: skip
PROBE = {"right": 0.9, "turned": 0.9, "without_keys": 0.5}


def file_result(one, folder, **given):
    folder.mkdir(exist_ok=True)
    one.file(folder).write_text(json.dumps({**one._asdict(), **RESULT, **given}))


def test_every_variant_gets_the_same_rates_decays_and_gammas():
    shared = {name: [(d.recipe, d.options["zero_init_last"]) for d in draws(name)] for name in VARIANTS}
    assert len(set(map(str, shared.values()))) == 1
    assert len(set(shared["resnet"])) == DRAWS
    assert all(len(draws(name)) == DRAWS for name in VARIANTS)
    assert draws("relative") == draws("relative")
    for name, own in OWN.items():
        for draw in draws(name):
            assert {key: value for key, value in draw.options.items() if key != "zero_init_last"} in own
        assert len({str({**draw.options, "zero_init_last": 0}) for draw in draws(name)}) == len(own)
    assert len({str(d) for d in draws("resnet")}) == DRAWS
    assert SEARCH_SEED not in SEEDS


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_differ_in_the_last_stage_alone(name):
    with torch.device("meta"):
        states = {n: draws(n)[0].contender(n).build(SIZE).state_dict() for n in ("resnet", name)}
    mine, base = ({k: v.shape for k, v in s.items()} for s in (states[name], states["resnet"]))
    changed = {k for k in mine if mine[k] != base.get(k)} | (base.keys() - mine.keys())
    assert all(key.startswith("layer4") or ".se." in key for key in changed)
    assert (not changed) == (name in {"resnet", "dilated"})


def test_the_dilated_control_reaches_farther_at_the_same_size():
    plain, dilated = (VARIANTS[name].build(SIZE).double().eval() for name in ("resnet", "dilated"))
    image = torch.rand(1, 3, SIZE, SIZE, dtype=torch.float64, requires_grad=True)
    ends = []
    for model in (plain, dilated):
        (last,) = model(image)
        assert last.shape[-2:] == (6, 6)
        (gradient,) = torch.autograd.grad(last[..., 3, 3].sum(), image)
        ends.append(int(torch.nonzero(gradient.abs().sum((0, 1, 2))).min()))
    assert ends[1] < ends[0] - 40


def test_the_far_world_chooses_and_the_near_one_where_nothing_is_learnt_far(tmp_path):
    assert [one.draw for one in wanted("se", tmp_path)] == [*range(DRAWS)]
    assert choice("se", tmp_path) is None
    for number in range(DRAWS):
        file_result(Trial("pair_far", "se", SEARCH_SEED, number), tmp_path, right=0.5 + number / 100)
    assert {(one.world, one.draw) for one in wanted("se", tmp_path)} == {("pair_near", n) for n in range(DRAWS)}
    for number in range(DRAWS):
        file_result(Trial("pair_near", "se", SEARCH_SEED, number), tmp_path, right=[0.5, 0.9, 0.6, 0.9, 0.5][number])
    assert choice("se", tmp_path) == (draws("se")[1], "pair_near")
    file_result(Trial("pair_far", "se", SEARCH_SEED, 2), tmp_path, right=0.7)
    assert choice("se", tmp_path) == (draws("se")[2], "pair_far")
    counted = next_trials(("se",), ("pair_far", "match"), SEEDS, tmp_path)
    assert [(one.seed, one.world, one.draw) for one in counted[:3]] == [
        (10, "pair_far", 2), (10, "match", 2), (11, "pair_far", 2),
    ]  # fmt: skip


def test_a_trial_is_searched_chosen_counted_and_skipped(monkeypatch, tmp_path):
    monkeypatch.setitem(FORMS, "cpu", Form(VARIANTS, Setting(images=(18, 8)), steps=2))
    results = tmp_path / "results"
    one = Trial("pair_near", "directional", 10, 1)
    results.mkdir()
    (tmp_path / "scenes").mkdir()
    monkeypatch.setattr(trials, "probe", lambda *told, **more: probes.probe(*told, **more, count=3))
    trials.carry_out(one, results=results, scenes=tmp_path / "scenes", jobs=1)
    filed = json.loads((results / "pair_near_directional_seed10.json").read_text())
    assert filed["recipe"]["rate"] == draws("directional")[1].recipe.rate
    assert sum(part["objects"] for part in filed["by_distance"]) == 8 * 2
    assert filed["probe"].keys() == {"right", "turned", "without_keys", "attention", "even"}
    assert len(filed["probe"]["attention"]) == 4
    page = tmp_path / "docs" / "page.md"
    said = relations(variants=("directional",), worlds=("pair_near",), limit=0, results=results, report=page)
    assert (said.filed, said.failed) == (1, [])
    assert "Not answered yet" in page.read_text()
    assert "| BoT, relative positions, directional start |" in page.read_text()
    assert (page.parent / "images" / "relations_curves.png").stat().st_size > 5000


def test_the_gpus_form_runs_in_small(tmp_path):
    """Large backbones' variants, through search and page; all but the sizes is the GPU's."""
    results, scenes = tmp_path / "toy" / "results", tmp_path / "toy" / "scenes"
    results.mkdir(parents=True)
    scenes.mkdir()
    for variant in ("se", "directional"):
        trials.carry_out(Trial("match", variant, 10, 0), results=results, scenes=scenes, jobs=1, form="toy")
    text = page_text(collect(results, "toy"))
    assert "| BoT50, directional start |" in text
    assert "| ResNet-50 + SE |" in text
    for name, large in LARGE.items():
        assert (large.backbone == "botnet50") == (VARIANTS[name].backbone == "botnet14")
        assert large.dilation == VARIANTS[name].dilation
    draw_attention(draws("directional")[0], tmp_path / "attention.png", folder=scenes, steps=1, form="toy")
    with Image.open(tmp_path / "attention.png") as drawn:
        assert drawn.size[0] > 900  # the image and four heads
    said = relations(form="toy", limit=0, out=tmp_path)
    assert (said.filed, len(said.missing)) == (2, 30)


def test_an_edit_changes_the_keys_pixels_alone():
    world = build_world(size=SIZE, seed=10, clutter=0, **SCENES["pair_far"])
    material = load_material("val")
    first, turned, blind = (
        probes.scene(material, world, 0, edit) for edit in (probes.as_they_are, probes.swapped, probes.taken_away)
    )
    keys = np.zeros((SIZE, SIZE), bool)
    for thing in first.things:
        if thing.digit in KEYS:
            low = [round(middle - thing.side / 2) for middle in (thing.y, thing.x)]
            keys[low[0] : low[0] + thing.side, low[1] : low[1] + thing.side] = True
    for other in (turned, blind):
        differs = (first.image != other.image).any(-1)
        assert differs.any()
        assert not (differs & ~keys).any()
    for before, after in zip(first.things, turned.things, strict=True):
        assert {before.digit, after.digit} == set(KEYS) if before.digit in KEYS else before == after
    assert [thing.digit for thing in blind.things if thing.partner is None] == [-1] * sum(
        thing.partner is None for thing in first.things
    )


def test_a_model_that_reads_the_left_key_turns_and_one_that_does_not_stays(monkeypatch):
    whole, _ = probes.scenes("pair_far", 10, probes.as_they_are, size=SIZE, count=4)

    def oracle(_, objects):
        for edit in (probes.as_they_are, probes.swapped, probes.taken_away):
            seen, there = probes.scenes("pair_far", 10, edit, size=SIZE, count=4)
            if torch.equal(seen.images, objects.images):
                left = [one[t.partner].digit for one in there for t in one if t.partner is not None]
                return torch.tensor([1 if digit == KEYS[1] else 0 for digit in left])
        raise AssertionError

    monkeypatch.setattr(probes, "attention_on_keys", lambda *_: {})
    monkeypatch.setattr(probes, "answers", oracle)
    found = probes.probe(None, "pair_far", 10, size=SIZE, count=4)
    assert (found["right"], found["turned"]) == (1.0, 1.0)
    assert found["without_keys"] == pytest.approx(float((whole.label == 0).float().mean()), abs=1e-3)
    monkeypatch.setattr(probes, "answers", lambda *_: whole.label)
    assert probes.probe(None, "pair_far", 10, size=SIZE, count=4)["turned"] == 0


def test_holm_rejects_what_the_rule_rejects_and_its_intervals_say_the_same():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.normal(rng.choice([0, 1, 3], 4)[:, None], 1, (4, 5))
        tests = ttest_1samp(values, 0, axis=1).pvalue
        found = holm(values.tolist())
        assert np.allclose([one.p for one in found], tests)
        order, rejected = np.argsort(tests), set()
        for place, n in enumerate(order):
            if tests[n] > 0.05 / (4 - place):
                break
            rejected.add(int(n))
        assert {n for n, one in enumerate(found) if one.low > 0 or one.high < 0} == rejected
    with pytest.raises(ValueError, match="at least two paired differences"):
        holm([[1.0]])


NOISE = [0.0, 0.01, -0.01, 0.02, -0.02]
FAR, NEAR, MATCH = "pair_far", "pair_near", "match"


def page_of(folder, means, *, deep_noise=0.0, variants=SHORT["variants"]):
    """The page of made results: a mean for each task and variant, a coin unless given."""
    for name in variants:
        for draw in draws(name):
            file_result(Trial(FAR, name, SEARCH_SEED, draw.number), folder, right=0.6)
        for world in SHORT["worlds"]:
            for noise, seed in zip(NOISE, SEEDS, strict=True):
                right = means.get((world, name), 0.5) + noise * (deep_noise if name == "deep" else 1)
                probe = PROBE | ({"attention": [0.6, 0.1], "even": 0.05} if name in ATTENTION else {})
                file_result(
                    Trial(world, name, seed, 0), folder, right=right, **({} if world == MATCH else {"probe": probe})
                )
    return page_text(collect(folder))


def row(page, start):
    """The cells of the table's row that begins so."""
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(
    ("means", "deep_noise", "says", "never"),
    [
        (
            {(FAR, "deep"): 0.7, (FAR, "directional"): 0.9},
            0,
            ["**pair_far: BoT, relative positions, directional start is better than the strongest of three controls",
             "BoT, relative positions: 50.0 %, -20.0 [-22.8, -17.2] points, below.",
             "**match: nothing was learnt.**"],
            ["No accuracy advantage"],
        ),
        (
            {(FAR, "deep"): 0.9, (FAR, "directional"): 0.9},
            0,
            ["**pair_far: no, the claim fell.** The strongest control, ResNet, deeper, has 90.0 %.",
             "no difference can be told",
             "No accuracy advantage of BoTNet over a ResNet has been shown"],
            ["is better than"],
        ),
        (
            {(FAR, "deep"): 0.9, (FAR, "directional"): 0.7, (MATCH, "relative"): 0.8},
            0,
            ["-20.0 [-22.5, -17.5] points, below.", "**match: BoT, relative positions is better than"],
            ["nothing was learnt", "No accuracy advantage"],
        ),
        ({}, 0, ["**pair_far: nothing was learnt.**", "**match: nothing was learnt.**"], ["the claim fell"]),
        (
            {(FAR, "deep"): 0.7, (FAR, "directional"): 0.75},
            9,
            ["the claim fell", "+5.0 [", "no difference can be told"],
            ["is better than"],
        ),
    ],
)  # fmt: skip
def test_the_headline_says_what_the_registered_comparisons_say(means, deep_noise, says, never, tmp_path):
    page = page_of(tmp_path, means, deep_noise=deep_noise)
    for text in says:
        assert text in page
    for text in never:
        assert text not in page


def test_each_registered_sentence_has_its_verdict(tmp_path):
    every = ("se", "dilated", "deep", "relative", "directional")
    page = page_of(tmp_path, {(FAR, "directional"): 0.9, (FAR, "deep"): 0.6, (NEAR, "directional"): 0.7,
                              (NEAR, "deep"): 0.95})  # fmt: skip
    assert row(page, "It is the distance")[1].startswith("+30.0 points far and -25.0 near")
    assert "far minus near +55.0" in row(page, "It is the distance")[1]
    assert row(page, "It is the distance")[2] == "**stands**"
    assert row(page, "Attention classifies *pair_far*")[2] == "**stands**"
    nothing = "+0.0 [+0.0, +0.0] points, no difference can be told; "
    assert row(page, "Attention classifies *match*")[1:] == [
        f"BoT, relative positions: {nothing}BoT, relative positions, directional start: {nothing}learnt by none",
        "**refuted**",
    ]
    assert row(page, "Positions matter")[1:] == ["", "**not decided**"]
    assert row(page, "The answers of BoT, relative positions, directional start in *pair_far*")[2] == "**stands**"
    assert row(page, "In *pair_far* no difference")[2] == "**fallen**"
    assert row(page, "The ResNet baseline and SE")[2] == "**fallen**"
    assert row(page, "Relative stays at chance")[2] == "**fallen**"  # by the search, where all have 0.6 here
    assert row(page, "*match* is learnt by none")[2] == "**held**"
    assert row(page, "Directional puts more than half")[1:] == [
        "60.0 % of the weight of the head that has most; 90.0 % turn", "**held**",
    ]  # fmt: skip
    same = {(world, name): 0.95 for world in (FAR, NEAR) for name in every}
    page = page_of(tmp_path, same | {(FAR, "se"): 0.5})
    assert "there is no advantage to explain" in row(page, "It is the distance")[1]
    assert row(page, "It is the distance")[2] == "**refuted**"
    assert row(page, "In *pair_far* no difference")[2] == "**held**"
    assert row(page, "The ResNet baseline and SE")[2] == "**held**"
    page = page_of(tmp_path, {(FAR, "content"): 0.5, (FAR, "absolute"): 0.95}, variants=("content", "absolute"))
    assert row(page, "Positions matter")[2] == "**refuted**"
    assert "minus BoT, absolute positions +0.0" in row(page, "Positions matter")[1]
    page = page_of(tmp_path, {}, variants=("absolute",))
    assert row(page, "Positions matter")[2] == "**stands**"


def test_how_often_a_recipe_learns_and_another_recipe_stand_beside_the_means(tmp_path):
    """A control that learnt in two of five runs is no weaker one: the page says so, whatever the intervals say."""
    page_of(tmp_path, {(FAR, "directional"): 0.9})
    for seed, right in zip(SEEDS, (0.5, 0.97, 0.5, 0.95, 0.5), strict=True):
        file_result(Trial(FAR, "deep", seed, 0), tmp_path, right=right, probe=PROBE)
    page = page_text(collect(tmp_path))
    assert "ResNet, deeper in 2 of 5, 96.0 % in these; " in page
    assert "directional start in 5 of 5, 90.0 % in these." in page
    assert "the counted seeds too" not in page
    (tmp_path / "after").mkdir()
    for contender, mean in (("deep", 0.94), ("directional", 0.93)):
        for noise, seed in zip(NOISE, SEEDS, strict=True):
            one = {"world": FAR, "contender": contender, "seed": seed, "right": mean + noise * (contender == "deep")}
            (tmp_path / "after" / f"pair_far_{contender}_seed{seed}.json").write_text(json.dumps(one))
    page = page_text(collect(tmp_path))
    assert "on the counted seeds too, untuned" in page
    assert row(page, "ResNet, deeper | *pair_far* | 94.0 ±")[3] == "94.0, 95.0, 93.0, 96.0, 92.0"
    assert row(page, "directional minus deeper, points")[2:] == ["-1.0 ± 2.0", "no difference can be told"]


def test_answers_that_do_not_turn_are_told(tmp_path):
    page = page_of(tmp_path, {(FAR, "directional"): 0.9})
    assert row(page, "The answers of BoT, relative positions, directional start in *pair_far*")[2] == "**stands**"
    for seed in SEEDS:
        probe = {"right": 0.9, "turned": 0.79, "without_keys": 0.5, "attention": [0.2], "even": 0.1}
        file_result(Trial(FAR, "directional", seed, 0), tmp_path, right=0.9, probe=probe)
    page = page_text(collect(tmp_path))
    answers = row(page, "The answers of BoT, relative positions, directional start in *pair_far*")
    assert answers[1:] == ["79.0 % turn; 50.0 % right without keys", "**refuted**"]
    assert row(page, "Directional puts more than half")[2] == "**fallen**"


def test_untrained_heads_stand_beside_the_trained_ones(monkeypatch, tmp_path):
    """A directional start puts weight on the keys before anything is learnt: told, and measured once."""
    monkeypatch.setattr(probes, "LOOKED_AT", 4)
    page_of(tmp_path, {})
    look_before_training(tmp_path, "cpu")
    filed = json.loads((tmp_path / UNTRAINED).read_text())
    assert len(filed) == 2 * 2 * len(SEEDS)  # with attention, and a probe
    relative, directional = (np.mean([max(filed[f"pair_near_{n}_seed{s}"]) for s in SEEDS]) for n in ATTENTION)
    assert directional > 3 * relative
    page = page_text(collect(tmp_path))
    assert f"| {100 * directional:.1f} ± " in page
    monkeypatch.setattr(sweep, "before_training", None)
    look_before_training(tmp_path, "cpu")
    said = relations(limit=0, results=tmp_path, out=tmp_path)
    assert said.filed == 90 + 30


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"variants": ("vit",)}, "no variant 'vit'; there are resnet"),
        ({"worlds": ("side",)}, "no world 'side'; there are pair_far"),
        ({"seeds": (0,)}, "seed 0 is not registered; the seeds are 10, 11"),
        ({"jobs": 0}, "jobs=0 must be at least 1"),
    ],
)
def test_what_is_not_registered_is_refused(asked, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        relations(**asked, out=tmp_path)


def test_results_that_are_not_there_or_torn_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"results=.*none is no folder; give that of the result files"):
        relations(limit=0, out=tmp_path, results=tmp_path / "none")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "pair_far_se_search0.json").write_text('{"world": "pair')
    with pytest.raises(ValueError, match=r"pair_far_se_search0\.json"):
        relations(limit=0, out=tmp_path)


def test_the_page_is_what_its_files_give():
    picture = (ROOT / "docs" / "images" / "relations_attention.png").is_file()
    page = page_text(collect(FILED), picture=picture)
    assert (ROOT / "docs" / "relations.md").read_text() == page, "run: make relations"


def test_every_filed_trial_is_one_of_the_protocol():
    for path in sorted(FILED.glob("*_*.json")):
        one = json.loads(path.read_text())
        trial = Trial(one["world"], one["variant"], one["seed"], one["draw"])
        assert trial.file(FILED) == path
        assert one["world"] in WORLDS
        assert one["seed"] in (*SEEDS, SEARCH_SEED)
        draw = draws(one["variant"])[one["draw"]]
        assert one["recipe"] == {**draw.recipe._asdict(), **draw.options}
        if one["seed"] in SEEDS:
            chosen = choice(one["variant"], FILED)
            assert chosen is not None
            assert chosen[0].number == one["draw"]
    assert asdict(VARIANTS["dilated"])["dilation"] == 4
