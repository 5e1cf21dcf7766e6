"""The benchmarks run, their contenders compute the same, and their figures are what they say."""

import importlib
import json
import time
from pathlib import Path

import pytest
import torch
from timm.layers.bottleneck_attn import BottleneckAttn

from botvision.backbone.blocks import BoTBlock
from botvision.bench.attention import CPU_BACKENDS, FLEX, LUCIDRAINS, SDPA, TIMM, WITHOUT, core, layer
from botvision.bench.backbone import build, prepared
from botvision.bench.commands import attention, backbone, classify, deploy, detector
from botvision.bench.detector import grid
from botvision.bench.race import Engine, Report, Row, Setting, peak_alone, race, ratio

CORES = [SDPA, *(f"attend {name}" for name in CPU_BACKENDS), LUCIDRAINS]
LAYERS = [WITHOUT, *(f"MHSA2d {name}" for name in CPU_BACKENDS), TIMM]


def setting(size=5, *, batch=1, train=False, engine=None):
    return Setting(size, batch, train, engine or Engine())


@pytest.mark.parametrize("train", [False, True])
def test_a_small_race_fills_every_row(tmp_path, train):
    report = attention(sides=(4, 16), rounds=2, train=train, out=tmp_path / "a.md")
    ending = ", training" if train else ""
    heats = [f"core, 8 × 4²{ending}", f"layer, 8 × 4²{ending}", f"core, 1 × 16²{ending}", f"layer, 1 × 16²{ending}"]
    assert list(dict.fromkeys(row.heat for row in report.rows)) == heats
    assert [row.name for row in report.rows] == [*CORES, *LAYERS] * 2
    assert all(len(row.seconds) == 2 and row.ratio > 0 and row.peak_mb is None for row in report.rows)
    assert [row.ratio for row in report.rows if row.name in (SDPA, WITHOUT)] == [1.0] * 4
    assert "| timm BottleneckAttn |" in (tmp_path / "a.md").read_text()
    assert len(json.loads((tmp_path / "a.json").read_text())["rows"]) == len(report.rows)
    assert (tmp_path / "a.png").stat().st_size > 10_000


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_every_core_computes_the_same_but_the_baseline():
    results = {name: core(name, setting(batch=2))() for name in [*CORES, FLEX]}
    same = {name for name, out in results.items() if torch.allclose(out, results["attend explicit"], atol=1e-4)}
    assert same == {*CORES, FLEX} - {SDPA}


def test_every_layer_gives_a_map_of_the_same_shape_in_the_engines_precision():
    engine = Engine(precision="bfloat16")
    for name in LAYERS:
        with torch.no_grad():
            out = layer(name, setting(engine=engine))()
        assert (tuple(out.shape), out.dtype) == ((1, 512, 5, 5), torch.bfloat16)


def test_a_ratio_is_taken_within_a_round():
    assert ratio([2, 20, 6], [1, 10, 2]) == 2
    row = Row("core, 1 × 4²", "ours", [0.002, 0.004, 0.003], 1.5, 80.2)
    assert str(row) == "| core, 1 × 4² | ours | 3.0 | 2.0 … 4.0 | 1.50 | 80 |"


def test_memory_tells_n_by_n_logits_from_a_block():
    """At 40×40 the explicit layer holds 2 × 41 MB of logits; the position-free one only its maps."""
    explicit, without = (peak_alone(layer, name, setting(40)) for name in ("MHSA2d explicit", WITHOUT))
    assert explicit > 2 * 4 * 40**4 * 4 / 1e6 * 0.9
    assert without < explicit / 2


def test_a_contender_that_the_system_ends_has_no_peak(contenders):
    assert peak_alone(contenders.killed, "any", setting()) is None


@pytest.fixture
def contenders(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return importlib.import_module("contenders")


@pytest.mark.parametrize(("sides", "rounds"), [((4,), 0), ((0,), 2)])
def test_nothing_to_run_is_refused(sides, rounds):
    with pytest.raises(ValueError, match=f"at least 1; got rounds={rounds}, size={sides[0]}"):
        attention(sides=sides, rounds=rounds)


def test_rounds_run_every_contender_once_in_an_order_of_their_own():
    calls = []

    def build(name, _):
        return lambda: time.sleep(0.02) or calls.append(name)

    rows = race(build, ["a", "b"], setting(), what="x", rounds=6)
    pairs = [tuple(calls[number : number + 2]) for number in range(4, 16, 2)]
    assert calls[:4] == ["a", "a", "b", "b"]  # warm
    assert set(pairs) == {("a", "b"), ("b", "a")}
    assert [len(row.seconds) for row in rows] == [6, 6]


def test_short_steps_are_repeated_within_a_reading():
    calls = []
    (row,) = race(lambda *_: lambda: time.sleep(0.002) or calls.append(1), ["a"], setting(), what="x", rounds=2)
    assert 2 + 2 * 2 <= len(calls) <= 2 + 2 * 10
    assert all(0.002 <= seconds < 0.01 for seconds in row.seconds)


def test_a_contender_that_cannot_run_says_why_and_the_others_go_on(tmp_path):
    def build(name, _):
        if name == "b":
            raise ValueError("b needs a GPU; use a")
        return lambda: None

    rows = race(build, ["a", "b", "c"], setting(), what="x", rounds=1)
    assert [row.why_not for row in rows] == ["", "b needs a GPU; use a", ""]
    report = Report("T", "n", "e", rows)
    report.save(tmp_path / "t.md")
    assert "| b | b needs a GPU; use a | | | |" in str(report)
    assert json.loads((tmp_path / "t.json").read_text())["rows"][1]["ratio"] is None
    with pytest.raises(ValueError, match="b needs a GPU"):
        race(build, ["b"], setting(), what="x", rounds=1)
    with pytest.raises(ValueError, match="accelerator='quantum' is unknown"):
        race(build, ["a"], setting(engine=Engine(accelerator="quantum")), what="x", rounds=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ("resnet26", "botnet62")}, "unknown model 'botnet62'; did you mean botnet26"),
        ({"models": ("botnet14", "botnet14")}, "'botnet14' is named twice"),
        ({"engine": Engine(threads=0)}, r"engine\.threads=0 must be at least 1"),
        ({"out": Path("b.json")}, r"out='b\.json' must be a Markdown file"),
        ({"out": Path()}, r"out='\.' must be a Markdown file"),
    ],
)
def test_what_cannot_be_timed_or_written_is_refused_before_it_is(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=said):
        backbone(**{"models": ("resnet26", "botnet26"), "sizes": (64,), "rounds": 1, **options})


def test_memory_of_a_size_whose_quarter_is_too_small():
    small = setting(64, train=True)
    assert 0 < peak_alone(build, "botnet14", small) < 500


def test_memory_does_not_hide_what_was_held_and_freed_before(contenders):
    assert 70 < peak_alone(contenders.forgetful, "any", setting()) < 100


def test_no_size_is_refused():
    for bench, word in ((attention, "side"), (backbone, "size"), (detector, "size")):
        with pytest.raises(ValueError, match=f"needs at least one {word}; e.g. --{word}s"):
            bench(**{f"{word}s": ()})


def test_backbones_fused_and_with_timms_layer(tmp_path):
    names = ("resnet26", "botnet26", "botnet26 with timm's layer", "botnet26 fused")
    report = backbone(models=names, sizes=(64,), rounds=1, out=tmp_path / "b.md")
    assert [row.name for row in report.rows] == list(names)
    assert 0 < peak_alone(build, "botnet26", setting(320)) < 500
    fused = prepared("botnet26 fused", setting(64))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.modules())
    theirs = prepared("botnet26 with timm's layer", setting(64))
    assert [type(b.mhsa) for b in theirs.modules() if isinstance(b, BoTBlock)] == [BottleneckAttn] * 2


def test_backbones_to_train_leave_fused_ones_out():
    report = backbone(models=("botnet26", "botnet26 fused"), sizes=(64,), rounds=1, batch=2, train=True)
    assert [row.name for row in report.rows] == ["botnet26"]
    with pytest.raises(ValueError, match="'botnet26 fused' cannot be trained and is the baseline"):
        backbone(models=("botnet26 fused",), train=True)
    with pytest.raises(ValueError, match="only a BoTNet has attention to put timm's layer for"):
        backbone(models=("resnet26 with timm's layer",), sizes=(64,))
    with pytest.raises(ValueError, match="bench backbone needs at least one model"):
        backbone(models=())


@pytest.mark.parametrize(
    ("train", "preset", "names"),
    [
        (True, "tiny", ("resnet26", "botnet26")),
        (False, "tiny", ("botnet26", "torchvision maskrcnn_resnet50_fpn")),
        pytest.param(True, "paper", ("resnet26", "torchvision maskrcnn_resnet50_fpn"), marks=pytest.mark.slow),
    ],
)
def test_detectors_train_and_predict(train, preset, names):
    report = detector(models=names, sizes=(128,), rounds=1, train=train, preset=preset)
    assert [row.name for row in report.rows] == list(names)
    assert report.rows[0].heat == "Mask R-CNN, 1 × 128²" + (", training" if train else "")


def test_the_detectors_objects_have_masks_on_the_image_or_over_the_box():
    on_image, over_box = grid(64, 64), grid(64, 112)
    assert on_image["masks"].shape == (16, 64, 64)
    assert on_image["masks"][5].nonzero().amin(0).tolist() == [16, 16]
    assert on_image["masks"][5].sum() == 12 * 12
    assert over_box["masks"].shape == (16, 112, 112)
    assert over_box["masks"].all()
    with pytest.raises(ValueError, match="bench detector needs at least one model"):
        detector(models=())


@pytest.mark.parametrize("train", [True, False])
def test_classifiers_race_at_their_own_sizes(train, tmp_path):
    models = ("tf_efficientnet_b0@96", "botnet26@64")
    report = classify(models=models, batch=2, rounds=1, train=train, out=tmp_path / "c.md")
    assert [row.name for row in report.rows] == list(models)
    assert "Published top-1, for orientation: none of these" in (tmp_path / "c.md").read_text()
    with pytest.raises(ValueError, match=r"'botnet26' must say its image size, e\.g\. botnet26@224"):
        classify(models=("botnet26",))
    with pytest.raises(ValueError, match="bench classify needs at least one model"):
        classify(models=())


def test_ways_to_run_a_model_are_timed_beside_eager(tmp_path):
    models, ways = ("botnet14@32", "detector:botnet14@64"), ("channels_last", "fused")
    report = deploy(models=models, ways=ways, preset="nano", rounds=1, out=tmp_path / "deploy.md")
    heats = ["botnet14, 1 × 32²", "detector:botnet14, 1 × 64²"]
    assert [(row.heat, row.name) for row in report.rows] == [(h, w) for h in heats for w in ("eager", *ways)]
    assert [row.ratio for row in report.rows if row.name == "eager"] == [1.0, 1.0]
    assert not [row.why_not for row in report.rows if row.why_not]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ()}, "needs at least one model"),
        ({"models": ("botnet14",)}, "must say its image size"),
        ({"models": ("botnet14@²",)}, "must say its image size"),
        ({"ways": ("tensorrt",)}, "way 'tensorrt' is unknown"),
        ({"engine": Engine(precision="bfloat16")}, "has precision and compile among its ways"),
        ({"engine": Engine(accelerator="gpu")}, "runs on the CPU; got accelerator='gpu'"),
    ],
)
def test_deployments_that_cannot_be_timed_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        deploy(**options)
