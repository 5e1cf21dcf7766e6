"""Checkpoints of forks with the shared MHSA snippet: exact where it can be, refused by name where not."""

import sys
from functools import partial

import pytest
import torch
import ultralytics
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import conv

from botvision_yolo import YOLO
from botvision_yolo.convert import convert


class MHSA(nn.Module):
    """The snippet's arithmetic, written anew: unscaled q·k with biases, and absolute positions, transposed."""

    def __init__(self, dim, side=14, heads=4, positions=False):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Conv2d(dim, dim, 1) for _ in range(3))
        if positions:
            self.rel_h_weight = nn.Parameter(torch.randn(1, heads, dim // heads, 1, side))
            self.rel_w_weight = nn.Parameter(torch.randn(1, heads, dim // heads, side, 1))
        self.positions = positions

    def forward(self, x):
        q, k, v = (layer(x).flatten(2).unflatten(1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        logits = q.transpose(2, 3) @ k
        if self.positions:
            logits = logits + (self.rel_h_weight + self.rel_w_weight).flatten(3).transpose(2, 3) @ q
        return (v @ logits.softmax(-1).transpose(2, 3)).flatten(1, 2).unflatten(2, x.shape[2:])


def outputs_of(model, image, places):
    """What the rows at these places give."""
    found = []
    hooks = [model.model[place].register_forward_hook(lambda *given: found.append(given[2])) for place in places]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()
    return found


@pytest.fixture
def old(tmp_path, monkeypatch, calibrated):
    """A function that writes a checkpoint as a fork would, whose ultralytics has the class; here it is gone again."""

    def make(second=None, **options):
        made = type("MHSA", (MHSA,), {"__module__": conv.__name__, "__qualname__": "MHSA"})
        monkeypatch.setattr(conv, "MHSA", made, raising=False)
        d = YOLO("yolo11n-mhsa.yaml").model.yaml
        if second:
            d["head"][0] = [-1, 1, "MHSA2d", []]  # where the size is doubled otherwise: of no use, but a second row
            d["head"] = [d["head"][0], [-1, 1, "Conv", [64, 3, 1]], [[-1], 1, "Detect", ["nc"]]]
        model = tasks.DetectionModel(d, verbose=False).eval()
        places = {10: options} | ({12: {"heads": second}} if second else {})
        for place, given in places.items():
            ours = model.model[place]
            layer = made.__new__(made)
            MHSA.__init__(layer, ours.mhsa.dim, **given)
            layer.i, layer.f, layer.np, layer.type = ours.i, ours.f, 0, "ultralytics.nn.modules.conv.MHSA"
            model.model[place] = layer
            rows = d["backbone"] if place < 12 else d["head"]
            rows[place if place < 12 else place - 12] = [-1, 1, "MHSA", [14, 14, given.get("heads", 4)]]
        model.yaml = {**model.yaml, "backbone": d["backbone"], "head": d["head"]}
        model = calibrated(model, (448, 448)).half().float()  # ultralytics saves halves
        path = tmp_path / "old.pt"
        torch.save({"model": model, "ema": None, "epoch": 3, "train_args": {"imgsz": 64}}, path)
        image = torch.rand(1, 3, 448, 448)
        out = outputs_of(model, image, places)
        monkeypatch.undo()
        return path, image, out

    return make


@pytest.mark.parametrize("second", [None, 2])
def test_the_content_term_is_converted_exactly(second, old, tmp_path):
    path, image, before = old(second=second, heads=8)
    with pytest.raises(Exception, match=r"MHSA"):
        ultralytics.YOLO(path)
    line = convert(path, tmp_path / "new.pt")
    layers = (
        "1 MHSA converted, exactly: model.10;" if second is None else "2 MHSA converted, exactly: model.10, model.12;"
    )
    assert line.startswith(layers)
    model = ultralytics.YOLO(tmp_path / "new.pt")
    after = outputs_of(model.model.eval(), image, [10, 12] if second else [10])
    for ours, theirs in zip(after, before, strict=True):
        assert (ours - theirs).abs().max() < 1e-2 * (theirs - theirs.mean((2, 3), keepdim=True)).abs().max()
    model.model(torch.rand(1, 3, 320, 96))
    rebuilt = type(model.model)(model.model.yaml, verbose=False)
    assert {k: v.shape for k, v in rebuilt.state_dict().items()} == {
        k: v.shape for k, v in model.model.state_dict().items()
    }
    assert rebuilt.model[10].mhsa.num_heads == 8
    assert second is None or rebuilt.model[12].mhsa.num_heads == second


def test_the_layer_itself_is_exact_in_float64():
    from botvision_yolo.convert import SnippetLayer, converted

    theirs = MHSA(32, heads=8).double()
    layer = SnippetLayer()
    layer.__dict__.update(theirs.__dict__)
    ours = converted(layer, "layer", content_only=False)
    x = torch.randn(2, 32, 5, 7, dtype=torch.float64)
    assert (ours.double()(x) - theirs(x)).abs().max() < 1e-6  # weights pass through float32


def test_positions_are_refused_by_name_or_left_out_when_asked(old, tmp_path):
    path, *_ = old(positions=True)
    with pytest.raises(
        ValueError, match=r"model.10 cannot be converted exactly: rel_h_weight: the port's position term"
    ):
        convert(path, tmp_path / "new.pt")
    assert not (tmp_path / "new.pt").exists()
    assert "their position terms left out: train it on" in convert(path, tmp_path / "new.pt", content_only=True)
    ultralytics.YOLO(tmp_path / "new.pt").model(torch.rand(1, 3, 64, 64))


def test_what_is_no_such_checkpoint_is_refused(tmp_path, trained):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at"):
        convert(tmp_path / "gone.pt", tmp_path / "new.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"is no checkpoint of ultralytics: .*; is the file whole"):
        convert(tmp_path / "text.pt", tmp_path / "new.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"holds a list; give a .pt"):
        convert(tmp_path / "list.pt", tmp_path / "new.pt")
    trained().save(tmp_path / "plain.pt")
    with pytest.raises(ValueError, match=r"has no MHSA in it; it needs no conversion"):
        convert(tmp_path / "plain.pt", tmp_path / "new.pt")


def test_another_class_that_is_gone_is_named(tmp_path):
    module = type(sys)("ultralytics.nn.fork")
    module.Fancy = type("Fancy", (nn.Module,), {"__module__": module.__name__, "__qualname__": "Fancy"})
    sys.modules[module.__name__] = module
    torch.save({"model": module.Fancy()}, tmp_path / "fancy.pt")
    del sys.modules[module.__name__]
    with pytest.raises(ValueError, match=r"wants ultralytics.nn.fork.Fancy, which is no layer .*; trust=True opens it"):
        convert(tmp_path / "fancy.pt", tmp_path / "new.pt")
    with pytest.raises(ValueError, match=r"holds a class that is not here: .*fork.*; only MHSA can be converted"):
        convert(tmp_path / "fancy.pt", tmp_path / "new.pt", trust=True)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class Builds:
    """A model made by its constructor, which evaluates the activation that its yaml names."""

    def __init__(self, path):
        code = f"__import__('pathlib').Path({str(path)!r}).touch() or __import__('torch').nn.ReLU()"
        self.content = {"activation": code, "nc": 1, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": []}

    def __reduce__(self):
        return (tasks.DetectionModel, (self.content,))


@pytest.mark.parametrize("kind", [Payload, Builds])
def test_converting_runs_nothing_that_a_file_pickles_unless_it_is_trusted(kind, tmp_path, monkeypatch):
    path, mark = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"model": kind(mark)}, path)
    with pytest.raises(ValueError, match=r"evil.pt (wants .*trust=True|holds no model|is no checkpoint|has no MHSA)"):
        convert(path, tmp_path / "new.pt")
    assert not mark.exists()
    monkeypatch.setenv("ULTRALYTICS_SAFE_LOAD", "1")
    with pytest.raises(ValueError, match=r"trust=True runs what .* pickles, which ULTRALYTICS_SAFE_LOAD forbids"):
        convert(path, tmp_path / "new.pt", trust=True)
    assert not mark.exists()


def test_a_forks_checkpoint_points_to_its_conversion_wherever_it_is_opened(old, data, small, tmp_path):
    path, *_ = old()
    by_file = partial(YOLO("yolo11n.yaml").train, data=str(data), project=str(tmp_path), epochs=1, **small)
    for open_it in (YOLO, YOLO("yolo11n.yaml").load, lambda path: by_file(pretrained=str(path))):
        with pytest.raises(ValueError, match=r"was written by a fork .*; convert it: bot-yolo convert .*old.pt new.pt"):
            open_it(path)
