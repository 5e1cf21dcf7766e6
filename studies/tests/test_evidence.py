"""The evidence: grids read, numbers right, a small sweep from scenes to page, resumed and skipped."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from pycocotools import mask as rle

from botvision.engine.intervals import difference, interval, verdict
from studies.evidence import worker
from studies.evidence.commands import commands
from studies.evidence.page import Evidence, build_page, collect, rows_of
from studies.evidence.runs import Runs, result_of
from studies.evidence.split import distance, in_parts, names, part, steps, thirds
from studies.evidence.sweep import evidence
from studies.grid import as_pairs, build_configs, read_grid

ROOT = Path(__file__).parent.parent.parent
SMALL = {"channels": [8, 16, 32, 64]}
GRID = {
    "baseline": "resnet",
    "seeds": [0, 1],
    "scenes": {"train": 8, "val": 4, "size": 64},
    "worlds": {"side": {"task": "side", "distance": [0.3, 0.6], "digits": [2, 3]}, "plain": {"task": "plain"}},
    "variants": {
        "resnet": {"title": "baseline", "paper": "3×3 convolutions", "backbone": "resnet26",
                   "options": {"layers": [1, 1, 1, 1], **SMALL}},
        "relative": {"title": "ours", "paper": "content + relative", "backbone": "botnet14", "options": SMALL},
        "carried": {"title": "ours, baseline first", "backbone": "botnet14", "options": SMALL, "first": "resnet"},
    },
    "train": {
        "model": {"preset": "nano", "img_size": 64},
        "data": {"jitter": [1, 1], "flip": False, "batch_size": 4, "workers": 0, "on_bad": "skip"},
        "optim": {"optimizer": "adamw", "lr": 0.001, "warmup_steps": 1, "epochs": 2},
        "engine": {"accelerator": "cpu", "devices": 1, "log_every": 1},
    },
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(GRID, sort_keys=False))
    return path


@pytest.fixture
def in_process(monkeypatch):
    """The workers in this process: a new one takes seconds to begin. The trainings that were begun are kept."""
    trained = []

    def work(_self, _run, task, _folder):
        worker.main(task)
        return 0

    def train(**given):
        trained.append(given["out"].name)
        return real(**given)

    real = worker.train
    monkeypatch.setattr(Runs, "work", work)
    monkeypatch.setattr(worker, "train", train)
    return trained


def test_a_small_grid_from_scenes_to_page(grid, in_process, tmp_path):
    """Skips what is done, carries weights over, says what was not run; the page is made of the run files alone."""
    out, results, report = tmp_path / "out", tmp_path / "results", tmp_path / "docs" / "page.md"
    told = {"grid": str(grid), "out": out, "results": results, "worlds": ("side",)}
    first = evidence(**told, limit=1)
    assert (first.done, first.failed, len(first.missing)) == (1, [], 11)
    done = evidence(**told, seeds=(0,), report=report)
    assert in_process == [
        "side_resnet_seed0",
        "side_relative_seed0",
        "side_carried_seed0_first",
        "side_carried_seed0",
    ]
    assert (done.done, len(done.missing)) == (3, 9)
    assert f"python -m studies.evidence --grid {grid} --worlds side --seeds 1" in str(done)
    assert f"python -m studies.evidence --grid {grid} --worlds plain" in str(done)
    found = json.loads((results / "side_carried_seed0.json").read_text())
    assert "fresh: pyramid.body.layer4.0.mhsa" in found["carried"]
    assert found["settings"]["stages"][0]["backbone"] == "resnet26"
    assert [stage["epochs"] for stage in found["settings"]["stages"]] == [1, 1]
    assert sum(p["objects"] for p in found["by_distance"]) == found["whole"]["objects"]
    assert sum(p["objects"] for p in found["by_size"]) == found["whole"]["objects"]
    assert found["control"]["objects"] == 4
    assert sum(found["drawn"]["objects"].values()) >= 16
    assert "step_ms" in found
    page = report.read_text()
    assert page == build_page(collect(read_grid(str(grid)), results), results / "field.json")
    for said in ("| baseline (seed 0) | 42.1 / 37.7 |", "+1.5 / +1.2", "too few seeds to tell", "What was carried over",
                 "`python -m studies.receptive_field", "9 runs: side", "hours = 12.3"):  # fmt: skip
        assert said in page, said
    made = {path.name for path in (tmp_path / "docs" / "images").iterdir()}
    assert made == {f"evidence-mini_{name}" for name in ("side.jpg", "distance.png", "curves.png", "found.jpg")}
    content = yaml.safe_load(grid.read_text())
    content["train"]["optim"]["lr"] = 1.0
    grid.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(
        ValueError, match=r"side_resnet_seed0\.json comes from other settings .* give another --results"
    ):
        evidence(**told)


def test_a_run_that_fails_is_named_and_the_others_go_on(grid, in_process, tmp_path):
    content = yaml.safe_load(grid.read_text())
    content["variants"]["relative"]["options"] = {"position": "nowhere"}
    grid.write_text(yaml.safe_dump(content, sort_keys=False))
    told = {"worlds": ("plain",), "variants": ("relative", "resnet"), "seeds": (0,)}
    done = evidence(grid=str(grid), out=tmp_path, jobs=1, **told)
    assert done.done == 1
    assert "plain_relative_seed0: position='nowhere'" in done.failed[0]
    assert "failed: plain_relative_seed0" in str(done)


def test_a_worker_that_dies_is_named_and_the_others_go_on(grid, in_process, monkeypatch, tmp_path):
    def work(self, run, task, folder):
        return -9 if run.variant == "relative" else whole(self, run, task, folder)

    whole = Runs.work
    monkeypatch.setattr(Runs, "work", work)
    told = {"worlds": ("plain",), "variants": ("relative", "resnet"), "seeds": (0,)}
    done = evidence(grid=str(grid), out=tmp_path, **told)
    assert done.done == 1
    assert "plain_relative_seed0: its process ended with -9 (all that it said: " in done.failed[0]


@pytest.mark.slow
def test_runs_in_processes_of_their_own(grid, tmp_path):
    done = evidence(grid=str(grid), out=tmp_path, worlds=("plain",), variants=("resnet", "relative"), jobs=2)
    assert (done.done, done.failed) == (4, [])
    assert "2 runs at a time" in json.loads((tmp_path / "mini/results/plain_resnet_seed1.json").read_text())["hardware"]


@pytest.mark.slow
def test_sigterm_ends_the_workers_and_the_same_command_goes_on(grid, tmp_path):
    content = yaml.safe_load(grid.read_text())
    content["train"]["optim"]["epochs"] = 8
    content["train"]["engine"]["evaluate_every"] = 8
    grid.write_text(yaml.safe_dump(content, sort_keys=False))
    flags = [
        "--grid",
        str(grid),
        "--out",
        str(tmp_path / "out"),
        "--worlds",
        "plain",
        "--variants",
        "resnet",
        "--jobs",
        "2",
    ]
    command = [sys.executable, "-W", "ignore", "-m", "studies.evidence", *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.getenv("PYTHONPATH")])])}
    begun = [tmp_path / f"out/mini/runs/plain_resnet_seed{seed}" for seed in (0, 1)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as sweep:
        for _ in range(1200):
            if all(worker.metrics(folder) for folder in begun):
                break
            time.sleep(0.1)
        sweep.terminate()
        _, said = sweep.communicate(timeout=60)
    assert sweep.returncode == 143, said
    assert "the same command goes on with what was begun" in said
    for folder in begun:
        assert "stopped by SIGTERM, saved at step" in folder.with_suffix(".log").read_text()
    behind = worker.metrics(begun[0])
    done = evidence(grid=str(grid), out=tmp_path / "out", worlds=("plain",), variants=("resnet",), seeds=(0,))
    assert (done.done, done.failed) == (1, [])
    rows = worker.metrics(begun[0])
    losses = [[(row["step"], row["train/loss"]) for row in some] for some in (behind, rows)]
    assert losses[1][: len(behind)] == losses[0]
    assert len(behind) < len(rows)
    assert rows[-1]["step"] == "16"


@pytest.mark.parametrize("name", ["cpu", "gpu", "starts"])
def test_shipped_grids_build_and_differ_in_the_backbone_alone(name):
    import torch

    from botvision.backbone import create_model
    from botvision.scenes.world import build_world

    grid = read_grid(name)
    assert len(grid.seeds) >= 3
    tasks = {options.get("task") for options in grid.worlds.values()}
    own = {"starts": {"plain", "match", "pair"}, "gpu": {"plain", "key", "match", "pair"}}
    assert tasks == own.get(name, {"plain", "key", "match", "side"})
    usual = {"resnet", "content", "relative_only", "absolute", "relative", "carried"}
    assert (usual if name != "starts" else {"resnet", "paper", "directional"}) <= set(grid.variants)
    assert ({"se", "deep"} <= set(grid.variants)) == (grid.name != "gpu")
    assert grid.train["model"].get("auxiliary", False) == (name != "starts")
    for options in grid.worlds.values():
        build_world(**{"clutter": 0, **as_pairs(options)}, size=grid.scenes["size"], seed=0)
    with torch.device("meta"):
        models = {name: create_model(v.backbone, **v.options).state_dict() for name, v in grid.variants.items()}
    for name, state in models.items():
        fresh = set(state) - set(models[grid.baseline])
        more = {"se": (".se.",), "deep": (".layer4.1.", ".layer4.2."), "dilated": (".layer4.1.",)}
        own = more.get(name.removesuffix("_auxiliary"), (".mhsa.", ".extra."))
        assert all(any(part in f".{key}" for part in own) for key in fresh), name
        assert {key: t.shape for key, t in state.items() if key not in fresh}.items() <= {
            key: t.shape for key, t in models[grid.baseline].items()
        }.items()
    settings = grid.runs()[0].settings
    model = build_configs(settings, settings["stages"][-1], Path(), what="it").model
    assert worker.counts(model).parameters > 0
    assert ("nothing was tuned for the baseline" in grid.note) == (grid.name == "cpu")


def test_a_variant_may_have_settings_of_its_own():
    grid = read_grid("cpu")
    by_name = {run.variant: run for run in grid.runs(worlds=("side",), seeds=(0,))}
    assert by_name["resnet"].settings["train"] == grid.train
    own = by_name["resnet_alone"].settings["train"]
    assert (grid.train["model"]["auxiliary"], own["model"].pop("auxiliary")) == (True, False)
    assert {**own, "model": {**own["model"], "auxiliary": True}} == grid.train
    short = replace(grid.variants["resnet"], train={"optim": {"epochs": 2}})
    run = replace(grid, variants={**grid.variants, "resnet": short}).runs(variants=("resnet",))[0]
    assert [epochs for _, epochs in run.stages] == [2]


def recipe(**parts):
    return {"train": {**GRID["train"], **parts}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "vit"}, r"baseline names variant 'vit'; it has resnet, relative, carried"),
        ({"seed": [1]}, r"has an unknown key 'seed'; it takes"),
        (
            {
                "variants": {
                    **GRID["variants"],
                    "resnet": {"title": "x", "backbone": "resnet26", "train": {"engines": {}}},
                }
            },
            r"resnet\.train has an unknown key 'engines'; it takes",
        ),
        ({"variants": {"resnet": {"title": "x"}}}, r"variant resnet lacks 'backbone'; add it"),
        ({"remarks": {"sides": "x"}}, r"remarks has an unknown key 'sides'; it takes plain, side"),
        (
            recipe(optim={"epochs": 2, "lrr": 1}),
            r"train\.optim has an unknown key 'lrr'; it takes backbone_lr, clip, ema, epochs, ",
        ),
        (recipe(optim={"epochs": 2, "lr": "fast"}), r"resnet, train\.optim: .*lr.* fast; mend the grid"),
        (recipe(optim={}), r"train\.optim lacks 'epochs'; add it"),
        (recipe(optim={"epochs": 1}), r"carried has a stage without an epoch; raise train\.optim\.epochs"),
        (recipe(optimiser={}), r"train has an unknown key 'optimiser'; it takes data, engine, model, optim"),
        ({"scenes": {"valid": 8}}, r"scenes has an unknown key 'valid'; it takes clutter, digits,"),
        ({"seeds": 0}, r"seeds: whole numbers of at least 0 are needed; got 0; mend the grid"),
        ({"seeds": []}, r"seeds: whole numbers of at least 0 are needed; got \[\]"),
        ({"scenes": {"train": "x"}}, r"scenes\.train: whole numbers of at least 1 are needed; got 'x'; mend"),
        ({"worlds": {"side": {"tsak": "side"}}}, r"side has an unknown key 'tsak'; it takes"),
    ],
)
def test_what_is_no_grid_is_said(grid, change, message):
    grid.write_text(yaml.safe_dump({**GRID, **change}, sort_keys=False))
    with pytest.raises(ValueError, match=message):
        read_grid(str(grid))


def test_what_is_not_there_is_said(grid, tmp_path):
    with pytest.raises(FileNotFoundError, match="no grid 'cpus'; give one of cpu, gpu, starts, or a YAML file"):
        read_grid("cpus")
    with pytest.raises(ValueError, match="grid mini has no variant 'vit'; it has resnet, relative, carried"):
        evidence(grid=str(grid), variants=("vit",), out=tmp_path)
    with pytest.raises(ValueError, match="jobs=0 must be at least 1"):
        evidence(grid=str(grid), jobs=0)
    grid.write_text("- a")
    with pytest.raises(ValueError, match="is no mapping; it takes the keys"):
        read_grid(str(grid))


def test_commands_are_as_few_as_say_it(grid):
    runs = read_grid(str(grid)).runs()
    assert commands(runs, "mini") == ["python -m studies.evidence --grid mini"]
    some = [run for run in runs if run.variant == "carried" or run.seed == 1]
    assert commands(some, "mini") == [
        "python -m studies.evidence --grid mini --variants carried",
        "python -m studies.evidence --grid mini --variants resnet relative --seeds 1",
    ]


def test_intervals_are_students():
    found = interval([0.50, 0.52, 0.57])
    assert found.mean == pytest.approx(0.53)
    assert found.half == pytest.approx(4.302653 * np.std([0.50, 0.52, 0.57], ddof=1) / np.sqrt(3), rel=1e-5)
    assert found.text() == "53.0 ± 9.0"
    assert interval([0.5]).text() == "50.0"
    assert interval([0.5, 0.6]).text() == "50.0, 60.0"
    assert interval([0.5, -0.6]).text(sign=True) == "+50.0, -60.0"
    with pytest.raises(ValueError, match="at least one value"):
        interval([])
    apart = difference({0: 0.6, 1: 0.7, 2: 0.8}, {0: 0.5, 1: 0.61, 2: 0.69, 3: 0.1})
    assert (round(apart.mean, 3), apart.seeds) == (0.1, 3)
    assert verdict(apart) == "above"
    assert verdict(interval([-0.1, -0.11, -0.12])) == "below"
    assert verdict(interval([-0.1, 0.1, 0.0])) == "no difference can be told"
    assert verdict(interval([0.1, 0.1])) == verdict(interval([0.1])) == verdict(None) == "too few seeds to tell"
    assert difference({0: 1.0}, {1: 1.0}) is None


def test_a_row_of_fewer_seeds_names_them_and_has_the_baseline_over_the_same_before_it():
    whole = read_grid("cpu")
    box = {"resnet": 0.5, "relative": 0.6, "carried": 0.6, "se": 0.6}
    some = {"resnet": whole.seeds, "relative": whole.seeds, "carried": [0, 1, 2], "se": [3]}
    found = {
        "side": {
            variant: {seed: {"whole": {"box": box[variant] + seed / 100}} for seed in seeds}
            for variant, seeds in some.items()
        }
    }
    rows = [row for row in rows_of(Evidence(whole, found), "side") if row[1]]
    assert rows == [
        ("resnet", [0, 1, 2, 3, 4]),
        ("relative", [0, 1, 2, 3, 4]),
        ("resnet", [3]),
        ("se", [3]),
        ("resnet", [0, 1, 2]),
        ("carried", [0, 1, 2]),
    ]
    assert whole.label("relative", whole.seeds) == "content + relative"
    assert whole.label("carried", [2, 0, 1]) == "content + relative, ResNet first (seeds 0, 1, 2)"
    assert whole.label("se", [3]) == "ResNet + SE (seed 3)"


@pytest.fixture
def judged():
    """Four digits: two near, two far; the near ones are found by the right name, the far ones by the other."""
    boxes = {
        1: ("left", 10, [2, 2, 20, 20]),
        2: ("right", 12, [40, 2, 20, 20]),
        3: ("left", 30, [2, 60, 20, 20]),
        4: ("right", 32, [40, 60, 20, 20]),
        5: ("key", None, [75, 75, 15, 15]),
    }
    ids = {"left": 1, "right": 2, "key": 3}
    annotations, results = [], []
    for number, (name, apart, box) in boxes.items():
        dense = np.zeros((96, 96), np.uint8)
        dense[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
        code = rle.encode(np.asfortranarray(dense))
        form = {"size": code["size"], "counts": code["counts"].decode()}
        own = {"image_id": 1, "bbox": [float(v) for v in box], "segmentation": form}
        about = {} if apart is None else {"distance": float(apart)}
        annotations.append(
            {**own, **about, "id": number, "category_id": ids[name], "area": float(box[2] * box[3]), "iscrowd": 0}
        )
        said = 3 - ids[name] if apart and apart > 20 else ids[name]
        results.append({**own, "category_id": said, "score": 0.9})
    document = {"images": [{"id": 1, "height": 96, "width": 96, "file_name": "a.jpg"}], "annotations": annotations,
                "categories": [{"id": i, "name": n} for n, i in ids.items()]}  # fmt: skip
    return document, results


def test_parts_by_distance_leave_the_others_out_of_account(judged):
    document, results = judged
    near, far = in_parts(document, results, ("left", "right"), [10, 20, 32], distance)
    assert near[2:] == pytest.approx((2, 1.0, 1.0, 1.0, 1.0))
    assert far == pytest.approx((20, 32, 2, 0.0, 0.0, 1.0, 0.0))
    whole = part(document, results, ("left", "right"))
    assert (whole.objects, whole.named) == (4, 0.5)
    assert 0 < whole.box < 1
    assert part(document, results, ("key",)).box == pytest.approx(1)
    assert names(document["annotations"], []) == (0.0, None)
    assert part(document, [], ("left", "right")).named is None


def test_a_steps_time_leaves_scoring_out():
    assert worker.typical([0.4, 0.4, 0.5, 3.0]) == 433.3
    assert worker.typical([]) is worker.typical([0.0]) is None


def test_edges_hold_every_object():
    values = list(np.random.default_rng(0).uniform(20, 60, 300))
    edges = thirds(values)
    assert edges[0] <= min(values) <= max(values) <= edges[-1]
    assert all(90 <= sum(a <= v < b for v in values) <= 110 for a, b in pairwise(edges))
    assert steps(76.8, 115.2) == [76.8, 89.6, 102.4, 115.2]


FILED = sorted((ROOT / "benchmarks" / "results").glob("evidence_*"))


@pytest.mark.parametrize("folder", FILED, ids=lambda f: f.name)
def test_the_evidence_page_is_what_its_run_files_give(folder):
    grid = read_grid(folder.name.removeprefix("evidence_"))
    page = ROOT / "docs" / ("evidence.md" if grid.name == "cpu" else f"evidence-{grid.name}.md")
    assert page.read_text() == build_page(collect(grid, folder), folder / "field.json")


@pytest.mark.parametrize("folder", FILED, ids=lambda f: f.name)
def test_every_filed_run_has_the_settings_that_its_grid_says(folder):
    grid = read_grid(folder.name.removeprefix("evidence_"))
    ran = [run for run in grid.runs() if result_of(run, folder) is not None]
    assert {run.name for run in ran} == {path.stem for path in folder.glob("*_seed*.json")}


@pytest.mark.skipif(not FILED, reason="nothing filed yet")
def test_the_page_says_what_side_is_and_what_earlier_recipes_gave():
    """The README's plain statement first; the controls in the same table; no verdict on the paper's claim."""
    page = (ROOT / "docs" / "evidence.md").read_text()
    assert page.split("\n\n")[1].startswith(
        "**No accuracy advantage of BoTNet over a ResNet has been shown by this project.**"
    )
    table = page.split("### side\n")[1].split("By distance")[0]
    for row in (
        "| ResNet baseline |",
        "| ResNet + SE",
        "| ResNet, deeper",
    ):
        assert row in table
        assert "not run" not in table.split(row)[1].splitlines()[0]
    for said in (
        *("prove nothing about attention", "92,109", "59.2 %", "68.1 %", "2, 3 and 4 in 50, 47 and 3 %"),
        *("53.6 box AP", "35.6", "46.0 and 51.4", "+4.4", "+7.1", "-3.3 ± 3.3"),
    ):
        assert said in page, said
    for variant in ("resnet", "se", "deep", "relative"):  # the prose says what the run files say
        runs = [json.loads((FILED[0] / f"side_{variant}_seed{seed}.json").read_text())["whole"] for seed in (1, 3)]
        for what in ("box", "named") if variant != "resnet" else ("box",):
            assert " and ".join(f"{100 * run[what]:.1f}" for run in runs) in read_grid("cpu").remarks["side"], variant
    for taken in ("reproduces", "Reproduces", "the contrary", "must be seen too", "where it should"):
        assert taken not in page, taken
