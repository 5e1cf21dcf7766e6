"""The Triton kernels' arithmetic, in a process that interprets them; and why they refuse to run in this one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from botvision.attention import attend, why_not
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
    assert run.stdout.startswith("." * 13), run.stdout[:300]  # none is skipped


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


def test_tiles_are_powers_of_two_that_cover():
    assert [tile_side(size) for size in (0, 1, 16, 17, 64, 65, 128)] == [16, 16, 16, 32, 64, 128, 128]
