"""Completion: bash itself completes commands, flags, choices, recipes and files by the script."""

import shutil
import subprocess

import pytest

from botvision.cli import COMMANDS, completion

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

TRY = """
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMPREPLY=()
_shtab_botvision botvision "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"; echo "${{COMPREPLY[*]}}"
"""
CASES = {
    "''": " ".join(COMMANDS),
    "maskrcnn ''": "train evaluate predict",
    "maskrcnn train --data.tr": "--data.train_annotations --data.train_images",
    "maskrcnn train --model.preset ''": "paper torchvision_v2 tiny nano",
    "maskrcnn train --engine.compile ''": "true false",
    "maskrcnn train --recipe dem": "demo",
    "maskrcnn train --recipe demo --on_existing re": "refuse resume replace",
    "maskrcnn train --optim.milestones 0.5 0.7 --on": "--on_existing",
    "maskrcnn train --print_config --on": "--on_existing",
    "maskrcnn predict here": "here.ckpt",
    "bench detector --si": "--sizes",
    "completion ''": "bash zsh fish",
}


def test_bash_completes(tmp_path):
    if not shutil.which("bash"):
        pytest.skip("no bash")
    (tmp_path / "here.ckpt").touch()
    tries = "".join(TRY.format(words=f"botvision {words}") for words in CASES)
    script = completion("bash") + tries
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert dict(zip(CASES, done.stdout.splitlines(), strict=True)) == CASES


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_their_script(shell):
    script = completion(shell)
    for word in (*COMMANDS, "data.train_annotations", "torchvision_v2", "botnet50-36ep"):
        assert word in script
