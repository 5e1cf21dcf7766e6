"""The Triton kernels' arithmetic, in a process that interprets them; and why they refuse to run in this one."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from botvision.attention import attend, tiled, why_not
from botvision.attention.tiled import tile_side


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch for this platform brings no Triton")
def test_arithmetic_in_tritons_interpreter():
    suite = Path(__file__).with_name("interpret_tiled.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(suite)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
    assert run.stdout.startswith("." * 16), run.stdout[:300]  # none is skipped


def test_it_says_why_it_cannot(monkeypatch):
    q, rel = torch.randn(1, 1, 4, 8), torch.randn(1, 1, 4, 2)
    with pytest.raises(ValueError, match=r"'tiled' cannot run: tiled is a Triton kernel for GPUs.*on cpu; use chunked"):
        attend(q, q, q, rel, rel, scale=1.0, backend="tiled")
    assert why_not("tiled", q) == "tiled adds position logits, but rel_h or rel_w is missing; use plain"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert (
        why_not("tiled", q, rel, rel) == "tiled needs Triton, which is not installed; pip install triton, or use onehot"
    )


def test_tiles_fit_the_gpu(monkeypatch):
    """By its shared memory, and by its multiprocessors: a small map must not leave most of them without work."""

    def chosen(memory, processors, dtype=torch.bfloat16, batch=8, tokens=4096, row=64, major=9):
        monkeypatch.setattr(tiled, "on_chip", lambda _: (memory, processors, major))
        found = tiled.tiles(torch.empty(batch, 4, tokens, 128, dtype=dtype, device="meta"), row)
        return found["BLOCK"], found["ROWS"], found["num_warps"], found["num_stages"]

    assert chosen(232_448, 132) == (128, 1, 8, 2)
    assert chosen(232_448, 132, tokens=1024, row=32) == (128, 2, 8, 2)
    assert chosen(232_448, 132, batch=1, tokens=1024, row=32) == (64, 2, 4, 2)
    assert chosen(232_448, 148, major=10) == chosen(232_448, 148, major=11) == (64, 1, 4, 2)
    assert chosen(166_912, 108) == (64, 1, 4, 2)
    assert chosen(101_376, 84) == (64, 1, 4, 1)
    assert chosen(232_448, 132, row=128) == (32, 1, 8, 2)
    assert chosen(232_448, 132, dtype=torch.float32) == (32, 1, 8, 1)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(tiled, "on_chip", lambda _: (101_376, 84, 8))
    q, rel_h, rel_w = torch.empty(1, 1, 80, 8), torch.empty(1, 1, 80, 2), torch.empty(1, 1, 80, 40)
    assert why_not("tiled", q, rel_h, rel_w) == (
        "tiled needs 164 KB of shared memory for 40 columns in float32; use onehot"
    )
    many = torch.empty(70_000, 1, 2, 8, device="meta")
    assert "images × heads; got 70000" in why_not("tiled", many, many[..., :1], many[..., :2])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="torch for this platform brings no Triton")
def test_kernels_compile_for_compute_capabilities_9_and_10_and_fit():
    """Without a GPU: what the compiler says of shared memory and of products by warp groups, at the raced sizes."""
    suite = Path(__file__).with_name("compile_tiled.py")
    run = subprocess.run([sys.executable, str(suite)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    assert len(found) == 2 * 3 * 3 + 3
    for name, kernel in found.items():
        if "capability 100" in name:
            assert kernel["shared"] <= 232_448, name
            continue
        assert kernel["shared"] <= (232_448 if "BLOCK 128" in name else 117_000), name
        assert kernel["warp_group_dots"] == {"forward": 2, "query_gradient": 3, "key_gradient": 4}[name.split()[0]], (
            name
        )
        assert kernel["other_dots"] == 0, name  # which a row shorter than a warp group's 64 would fall back to


def test_tiles_are_powers_of_two_that_cover():
    assert [tile_side(size) for size in (0, 1, 16, 17, 64, 65, 128)] == [16, 16, 16, 32, 64, 128, 128]
