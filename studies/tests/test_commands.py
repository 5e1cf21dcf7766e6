"""The studies' commands: help, those that pages name, lists without brackets, mistakes in one line."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from botvision.cli import main
from studies.cli import run
from studies.entropy import entropy
from studies.evidence.sweep import evidence
from studies.paper.page import paper
from studies.reach import reach
from studies.receptive_field import receptive_field
from studies.relations.sweep import relations
from studies.shortcuts import shortcuts
from studies.starts.sweep import starts

ROOT = Path(__file__).parent.parent.parent
STUDIES = {
    study.__name__: study for study in (entropy, evidence, paper, reach, receptive_field, relations, shortcuts, starts)
}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jsonargparse's


@pytest.mark.parametrize("name", STUDIES)
def test_help_of_every_study(name, capsys):
    with pytest.raises(SystemExit) as stop:
        run(STUDIES[name], ["--help"])
    assert stop.value.code == 0
    assert f"usage: python -m studies.{name}" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["studies/README.md", "docs/evidence.md", "docs/relations.md"])
def test_commands_of_the_pages_are_there(page):
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        match shlex.split(line):
            case ["make", target]:
                assert target in targets
            case ["python", "-m", study, *flags]:
                with pytest.raises(SystemExit, match="0"):
                    run(STUDIES[study.removeprefix("studies.")], [*flags, "--print_config"])
            case ["botvision", *flags]:
                with pytest.raises(SystemExit, match="0"):
                    main([*flags, "--print_config"])
            case [_, *_]:
                raise AssertionError(line)


def test_lists_need_no_brackets(capsys):
    flags = ["--worlds", "side", "--variants", "resnet", "relative", "--seeds", "1"]
    with pytest.raises(SystemExit):
        run(evidence, [*flags, "--print_config"])
    said = yaml.safe_load(capsys.readouterr().out)
    assert (said["worlds"], said["variants"], said["seeds"]) == (["side"], ["resnet", "relative"], [1])


def test_a_mistake_is_one_line_and_exit_code_2(capsys):
    assert run(evidence, ["--grid", "cpus"]) == 2
    assert capsys.readouterr().err == "evidence: no grid 'cpus'; give one of cpu, gpu, starts, or a YAML file\n"
