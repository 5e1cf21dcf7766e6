"""The yaml reader: channels, width and depth reach our blocks; bad rows are named; no file is touched."""

import os
import subprocess
import sys

import pytest
import torch
import ultralytics
from ultralytics.nn import tasks
from ultralytics.nn.modules import C3k2, Conv
from ultralytics.utils import LOGGER

from botvision.attention import MHSA2d
from botvision_yolo import YOLO
from botvision_yolo import registry as plug
from botvision_yolo.blocks import ResidualMHSA2d
from botvision_yolo.reader import reading
from botvision_yolo.variants import write_yaml


def read(*rows, scale="n", scales=None, **more):
    d = {"nc": 3, "scales": scales or {"n": [0.5, 0.25, 1024]}, "scale": scale}
    return tasks.parse_model({**d, "backbone": list(rows), "head": [], **more}, 3, verbose=False)[0]


CONV = [-1, 1, "Conv", [256, 3, 2]]


@pytest.mark.parametrize("scale", ["n", "m", "x"])
def test_channels_width_and_depth_are_those_of_the_block_replaced(scale):
    scales = {"n": [0.5, 0.25, 1024], "m": [0.5, 1.0, 512], "x": [1.0, 1.5, 512]}
    for ours, theirs in (("C3k2BoT", "C3k2"), ("C2BoT", "C2PSA"), ("C3BoT", "C3")):
        rows = [
            [[-1, 1, "Conv", [512, 3, 2]], [-1, 4, name, [512] if ours == "C2BoT" else [512, True]]]
            for name in (ours, theirs)
        ]
        (_, own), (_, other) = (read(*row, scale=scale, scales=scales) for row in rows)
        assert own.cv1.conv.weight.shape == other.cv1.conv.weight.shape
        assert len(own.m) == len(other.m)


@pytest.mark.parametrize(("scale", "inner"), [("n", "BoTBottleneck"), ("m", "C3BoT"), ("x", "C3BoT")])
def test_large_scales_have_c3k_everywhere_as_c3k2_has(scale, inner):
    scales = {"n": [0.5, 0.25, 1024], "m": [0.5, 1.0, 512], "x": [1.0, 1.5, 512]}
    for arguments in ([512], [512, False], [512, False, 0.25]):
        rows = read([-1, 1, "Conv", [512, 3, 2]], [-1, 2, "C3k2BoT", arguments], scale=scale, scales=scales)
        assert type(rows[1].m[0]).__name__ == inner


def test_a_model_of_ours_alone_has_the_head_of_its_family(tmp_path):
    """The reader tells YOLO11's head from YOLOv8's by a C3k2 in the rows."""
    text = write_yaml("yolo11n-botnet.yaml").read_text().replace('"C3k2"', '"C3k2BoT"')
    (tmp_path / "alone.yaml").write_text(text)
    names = [type(row).__name__ for row in YOLO(tmp_path / "alone.yaml").model.model]
    assert ("C3k2" in names, names.count("C3k2BoT")) == (False, 8)
    assert YOLO(tmp_path / "alone.yaml").model.model[-1].legacy is False
    assert tasks.C3k2 is C3k2
    assert "C3k2" in [type(row).__name__ for row in YOLO("yolo11n.yaml").model.model]


def test_a_layer_takes_the_channels_of_the_row_before():
    rows = read(CONV, [-1, 1, "MHSA2d", []], [-1, 1, "Conv", [128, 1]], [-1, 1, "MHSA2d", [2, "absolute"]])
    assert (rows[1].mhsa.dim, rows[3].mhsa.dim, rows[3].mhsa.num_heads) == (64, 32, 2)
    assert rows[3].mhsa.position == "absolute"


@pytest.mark.parametrize(
    ("arguments", "heads", "position"),
    [
        ([14, 14, 4], 4, "relative"),
        ([14, 14], 4, "relative"),
        ([], 4, "relative"),
        ([64, 14, 14, 8], 8, "relative"),
        ([14, 14, 8, True], 8, "relative"),
        ([14, 14, 8, False], 8, "none"),
        ([64, 14, 14, 8, True], 8, "relative"),
        (["14", "14", "2", "True"], 2, "relative"),
    ],
)
def test_the_posts_own_row_is_read_in_every_form(arguments, heads, position, caplog):
    LOGGER.propagate = True
    with caplog.at_level("WARNING"):
        rows = read(CONV, [-1, 1, "MHSA", arguments], [-1, 1, "MHSA", arguments])
    assert (rows[1].mhsa.num_heads, rows[1].mhsa.position) == (heads, position)
    x = torch.randn(1, 64, 9, 13)
    assert torch.equal(rows[1].eval()(x), x)
    [warning] = {message for message in caplog.messages if "MHSA" in message}  # one a model
    assert f"row 1 [-1, 1, MHSA, {arguments}]; row 2" in warning
    assert "The sizes are ignored" in warning
    assert "it becomes residual, x + BN(attention(x)) with a zero-initialised BN" in warning
    assert "[-1, 1, MHSA2d, [4, relative, False]]" in warning
    assert warning.count("WARNING") == 1  # ultralytics' formatter puts it before


def test_the_bare_layer_is_had_as_the_warning_says():
    layer = read(CONV, [-1, 1, "MHSA2d", [4, "relative", False]])[1]
    x = torch.randn(1, 64, 5, 5)
    assert torch.equal(layer(x), layer.mhsa(x))


def test_on_a_patched_ultralytics_the_users_own_mhsa_is_theirs(monkeypatch, caplog):
    class MHSA(torch.nn.Module):
        def __init__(self, *arguments):
            super().__init__()
            self.arguments = arguments

    monkeypatch.setattr(tasks, "MHSA", MHSA, raising=False)
    LOGGER.propagate = True
    with caplog.at_level("INFO"):
        rows = read(CONV, [-1, 1, "MHSA", [14, 14, 4]], [-1, 1, "MHSA2d", []])
    assert type(rows[1]) is MHSA
    assert rows[1].arguments == (14, 14, 4)
    assert isinstance(rows[2], ResidualMHSA2d)
    assert "of your ultralytics; ours is MHSA2d" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "C3k2Bot", [256]], "row 1 names 'C3k2Bot', which ultralytics .* does not know; did you mean C3k2BoT"),
        ([-1, 1, "MHSA2D", []], "did you mean MHSA2d"),
        ([-1, 1, "Wurzel", []], "row 1 names 'Wurzel'.*; ours are MHSA2d"),
        (
            [-1, 1, "C3k2BoT", []],
            r"C3k2BoT takes \[channels, c3k, e, num_heads, position, start, .*\]; got 0 arguments",
        ),
        (
            [-1, 1, "C3k2BoT", [256, True, 0.5, 4, "none", "paper", None, 1, 1]],
            r"row 1 .*C3k2BoT.* takes .*; got 9 arguments",
        ),
        (
            [-1, 1, "MHSA2d", [4, "relative", True, False, "left"]],
            "row 1 .*start='left' is unknown; use one of paper, ",
        ),
        (
            [-1, 1, "C3k2BoT", [256, True, 0.5, 4, "none", "directional"]],
            "start='directional' needs relative positions",
        ),
        ([-1, 1, "C2BoT", [256, -1]], "row 1 .*e, the share of channels inside, must be above 0; got -1; e.g. 0.5"),
        ([-1, 1, "C2BoT", [4]], r"row 1 .*C2BoT takes \[channels, .*; got channels 4, e.g. 1024"),
        ([-1, 1, "MHSA2d", [1024]], r"row 1 \[-1, 1, MHSA2d, \[1024\]\]: num_heads=1024 does not divide dim=64"),
        ([0, 1, "MHSA2d", []], "MHSA2d follows the row before; its from must be -1, got 0"),
        ([[-1, 0], 1, "C2BoT", [256]], "C2BoT reads one row; its from must be a number"),
        ([-1, 1, "C2BoT", [512]], r"row 1 \[-1, 1, C2BoT, \[512\]\]: C2BoT keeps its channels; got 64 in and 128 out"),
        ([-1, 1, "C3k2BoT", [256, False, 0.5, 0, "sideways"]], r"row 1 .*position='sideways' is unknown"),
        (
            [-1, 1, "C3k2BoT", [256, True, 0.5, "relative"]],
            r"row 1 .*: num_heads must be a whole number; got 'relative'",
        ),
        ([-1, 1, "BoTBottleneck", [256, True, 0.01]], r"row 1 .*attention needs at least 1 channel; got 0"),
        ([-1, 1, "MHSA", [4]], r"row 1 \[-1, 1, MHSA, \[4\]\]: MHSA takes \[\], \[width, .*; got 1 arguments"),
        ([-1, 1, "MHSA", [14, 14, 0]], r"row 1 .*whole numbers of at least 1; got 0"),
        ([-1, 1, "MHSA", [14, 14, 4.5]], r"row 1 .*whole numbers of at least 1; got 4.5"),
        ([-1, 1, "MHSA", [14, 14, None]], r"row 1 .*whole numbers of at least 1; got None"),
        ([-1, 1, "MHSA", [14, True]], r"row 1 .*pos_emb stands behind width, height and heads"),
        ([-1, 1, "MHSA", [14, 14, "four"]], r"row 1 .*; got 'four'"),
        ([-1, 1, "MHSA", [[14, 14], 4]], r"row 1 .*; got \[14, 14\]"),
        ([-1, 1, "MHSA", [14, 14, 5]], r"row 1 \[-1, 1, MHSA, \[14, 14, 5\]\]: num_heads=5 does not divide dim=64"),
        ([-1, 1, "MHSA2d"], r"row 1 \[-1, 1, 'MHSA2d'\]: a row is \[from, repeats, module, arguments\]; e.g."),
        ([-1, 1, "MHSA2d", None], "arguments must be a list, got None; write \\[\\] for none"),
        ([-1, 1, 5, []], "row 1 .*; module must be a name, got 5"),
        ([-1, None, "MHSA2d", []], "row 1 .*; repeats must be a number of at least 0, got None"),
        ([-1, -1, "MHSA2d", []], "row 1 .*; repeats must be a number of at least 0, got -1"),
        ([-1, 1, "MHSA2d", [0, "to left"]], "row 1 .*: position must be a word; got 'to left'"),
        ([-1, 1, "C3k2", [256, "a b"]], "row 1 .*invalid syntax"),
        ([None, 1, "MHSA2d", []], "row 1 .*; from must be a row's number or a list of them, got None"),
        ("MHSA2d", "row 1 'MHSA2d': a row is"),
        ([-1, 1, "MHSA2d", [None]], "row 1 .*: num_heads must be a whole number; got None"),
        ([-1, 1, "MHSA2d", [True]], "row 1 .*: num_heads must be a whole number; got True"),
        ([-1, 1, "MHSA2d", [-4]], "row 1 .*num_heads=-4 is negative; use 0 for"),
        ([-1, 1, "C3k2BoT", [None]], "row 1 .*; got channels None, e.g. 1024"),
        ([-1, 1, "MHSA2d", [2, "relative", True, False, "paper", -0.1]], "row 1 .*qkv_std=-0.1 must be a standard"),
        ([-1, 1, "C3k2", [256, True, 0.5, 4, 1, 2, 3, 4]], r"row 1 \[-1, 1, C3k2, .*positional arguments"),
        ([-1, 1, "C2PSA", [512]], r"row 1 \[-1, 1, C2PSA, \[512\]\]: AssertionError"),
    ],
)
def test_a_bad_row_is_named(row, message):
    with pytest.raises(ValueError, match=message):
        read(CONV, row)


def test_quoted_arguments_are_read_as_ultralytics_own_are():
    [_, layer] = read(CONV, [-1, 1, "MHSA2d", ["2", "relative", "True", "False", "paper", "None", "0.1"]])
    assert (layer.mhsa.num_heads, layer.mhsa.position_std, layer.mhsa.qkv.bias) == (2, 0.1, None)


def test_a_bad_row_leaves_the_next_model_its_activation():
    before = Conv.default_act
    with pytest.raises(ValueError, match="num_heads=5 does not divide"):
        read(CONV, [-1, 1, "MHSA2d", [5]], activation="torch.nn.ReLU()")
    assert Conv.default_act is before


def test_older_readers_find_a_scale_in_a_yaml_without_any():
    """They ask for `scale in "mlx"` of every C3k2, which None is not."""
    seen = []
    reading(lambda d, ch, verbose: seen.append(d["scale"] in "mlx"))({"nc": 1, "backbone": [CONV], "head": []}, 3)
    assert seen == [False]


def test_the_readers_input_is_not_changed():
    d = {"nc": 1, "backbone": [CONV, [-1, 1, "MHSA", [14, 14, 4]]], "head": []}
    tasks.parse_model(d, 3, verbose=False)
    assert d["backbone"][1] == [-1, 1, "MHSA", [14, 14, 4]]


def test_registering_twice_changes_nothing():
    before = tasks.parse_model
    plug.register()
    assert tasks.parse_model is before


def test_another_block_by_our_name_is_not_overwritten(monkeypatch):
    monkeypatch.setattr(tasks, "parse_model", lambda *_: None)
    for name in plug.BLOCKS:
        monkeypatch.delattr(tasks, name)
    monkeypatch.setattr(tasks, "C2BoT", torch.nn.Identity, raising=False)
    with pytest.raises(ValueError, match=r"ultralytics has a block C2BoT already"):
        plug.register()
    assert not hasattr(tasks, "MHSA2d")


def test_a_reader_that_fails_its_check_is_left_as_it_was_and_fails_again(monkeypatch):
    def other(d, ch, verbose=True):
        return []

    monkeypatch.setattr(tasks, "parse_model", other)
    for name in plug.BLOCKS:
        monkeypatch.delattr(tasks, name)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"reads a yaml otherwise"):
            plug.register()
        assert tasks.parse_model is other
        assert not hasattr(tasks, "MHSA2d")


def test_a_reader_that_counts_otherwise_is_refused_with_the_tested_versions(monkeypatch):
    read_as_before = tasks.parse_model

    def without_depth(d, ch, verbose=True):
        return read_as_before({**d, "depth_multiple": 1.0}, ch, verbose)

    monkeypatch.setattr(tasks, "parse_model", without_depth)
    with pytest.raises(RuntimeError, match=r"reads a yaml otherwise .*got \[4, 32.*tested are 8.3.203"):
        plug.check_reader()


@pytest.mark.parametrize(
    ("version", "warns"), [("8.3.1", True), ("8.4.60", False), ("9.0.0", True), ("8.4.190", False)]
)
def test_versions_outside_the_tested_ones_are_told(version, warns, caplog):
    LOGGER.propagate = True
    with caplog.at_level("WARNING"):
        plug.warn_outside(version)
    assert (f"this is {version}" in caplog.text) == warns


def test_importing_uses_no_network_installs_nothing_and_leaves_the_core_alone():
    code = """
import socket, sys
import ultralytics
def refuse(*arguments, **options): raise AssertionError("network")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
import botvision_yolo
print([m for m in ("timm", "lightning") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("order", ["ultralytics, botvision_yolo", "botvision_yolo, ultralytics"])
@pytest.mark.parametrize("said", [None, "true"])
def test_nothing_is_installed_silently_unless_the_user_says_so(order, said):
    code = f"import {order}; from ultralytics.utils import checks; print(checks.AUTOINSTALL)"
    environment = {key: value for key, value in os.environ.items() if key != "YOLO_AUTOINSTALL"}
    environment |= {"YOLO_AUTOINSTALL": said} if said else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip().splitlines()[-1] == str(said == "true")


def test_safe_loading_knows_our_blocks():
    assert {*plug.BLOCKS.values(), MHSA2d} <= set(torch.serialization.get_safe_globals())


def test_ultralytics_files_are_untouched():
    import base64
    import hashlib
    from importlib.metadata import files
    from pathlib import Path

    package = Path(ultralytics.__file__).parent
    recorded = [f for f in files("ultralytics") or [] if f.suffix in {".py", ".yaml"} and f.hash]
    seen = [f for f in recorded if Path(f.locate()).is_relative_to(package)]
    for file in seen:
        digest = base64.urlsafe_b64encode(hashlib.sha256(Path(file.locate()).read_bytes()).digest()).rstrip(b"=")
        assert digest.decode() == file.hash.value, file
    assert seen
