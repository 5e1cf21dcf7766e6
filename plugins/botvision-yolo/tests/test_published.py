"""What is published of the plug-in runs and is true: README, docs/yolo.md, the filed results."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import ultralytics

from botvision_yolo.cli import main
from botvision_yolo.compare import Run, summary
from botvision_yolo.registry import TESTED
from botvision_yolo.variants import VARIANTS, models

HERE = Path(__file__).parent.parent
ROOT = HERE.parent.parent
PAGES = [HERE / "README.md", ROOT / "docs" / "yolo.md"]
TUTORIAL = ROOT / "docs" / "yolo-fine-tune.md"
RESULTS = ROOT / "benchmarks" / "results"
SMALLER = {"epochs=15": "epochs=1", "imgsz=128": "imgsz=32", "rounds=3": "rounds=0"}


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_readme_commands_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = [line.split(" #")[0] for line in "\n".join(blocks(PAGES[0], "bash")).splitlines() if "yolo " in line]
    assert len(commands) == 5
    for command in commands:
        words = [SMALLER.get(word, word) for word in shlex.split(command)]
        words += ["train=8", "val=4"] if "scenes" in words else []
        words += [f"project={tmp_path}", "plots=False", "workers=0"] if "train" in words else []
        if words[0] == "bot-yolo":
            assert main(words[1:]) == 0, (command, capsys.readouterr().err[-2000:])
            continue
        words[0] = str(Path(sys.executable).parent / words[0])
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr[-2000:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_snippets_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for snippet in blocks(page, "python"):
        exec(compile(snippet, str(page), "exec"), {})


def test_the_tutorial_runs_from_first_to_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in blocks(TUTORIAL, "python"):
        for words, fewer in {
            "train=64": "train=8",
            "val=16": "val=4",
            "imgsz=128": "imgsz=64",
            "epochs=20": "epochs=1",
        }.items():
            snippet = snippet.replace(words, fewer)
        exec(compile(snippet, str(TUTORIAL), "exec"), names)
    assert "attention/entropy" in (names["results"].save_dir / "results.csv").read_text()
    frozen = {name.split(".")[1] for name, p in names["model"].trainer.model.named_parameters() if not p.requires_grad}
    assert {"0", "8", "10"} <= frozen
    assert not {"9", "12"} & frozen
    out = capsys.readouterr().out
    assert all(f"{image.name} " in out for image in Path("my-data/images/val").iterdir())


@pytest.mark.parametrize("page", [*PAGES, TUTORIAL], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_file_is_on_the_map_with_its_first_sentence():
    readme = PAGES[0].read_text()
    for path in sorted((HERE / "src" / "botvision_yolo").glob("*.py")):
        sentence = path.read_text().split('"""')[1].strip()
        assert "\n" not in sentence
        assert f"| `{path.name}` | {sentence} |" in readme or path.name == "__init__.py", path


def test_every_variant_is_explained():
    for name, variant in VARIANTS.items():
        assert f"| `{name}` | {variant.about}" in PAGES[0].read_text()


def test_the_tested_versions_are_those_of_the_page_and_of_the_make_target():
    assert all(version in PAGES[1].read_text() for version in TESTED)
    assert re.search(r"for version in (.+?);", (ROOT / "Makefile").read_text())[1].split() == list(TESTED[:-1])


def test_the_pages_families_are_those_of_the_newest_tested_version():
    page = rows(PAGES[1].read_text())
    assert f"In ultralytics {TESTED[-1]}:" in PAGES[1].read_text()
    if ultralytics.__version__ == TESTED[-1]:
        assert set(rows(models())) <= set(page)


def test_the_pages_tables_are_the_filed_results():
    page = PAGES[1].read_text()
    [variants] = RESULTS.glob("yolo_variants_*.md")
    assert set(rows(variants.read_text())) <= set(rows(page))
    [compared] = RESULTS.glob("yolo_compare_*.json")
    runs = [Run(**run) for run in json.loads(compared.read_text())["runs"]]
    assert set(rows(summary(runs, epochs=1))) <= set(rows(page))
