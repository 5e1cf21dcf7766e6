"""The paper's tables: docs/paper.md is fresh, our columns are measured or empty, the stated misfits are true."""

import json
from pathlib import Path

import pytest

from botvision.cli import recipe_names
from studies.paper.page import measure, paper
from studies.paper.published import COCO, COUNTS, IMAGENET

SUMMARY = {"box_ap": 0.4312, "mask_ap": 0.381, "seed": 3, "model": "botnet50", "epochs": 24}
PAGE = Path(__file__).parent.parent.parent / "docs" / "paper.md"


@pytest.fixture(scope="module")
def page():
    return paper()


def test_the_page_in_the_docs_is_fresh(page):
    assert PAGE.read_text() == page, "run: make paper"


def test_without_runs_no_score_is_ours(page):
    evaluated = [line.split("|") for line in page.splitlines() if "| not run" in line]
    assert len(evaluated) == len(IMAGENET) + sum(map(len, COCO.values()))


def test_a_finished_run_fills_its_row(tmp_path):
    run = tmp_path / "runs" / "botnet50-24ep"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    text = paper(runs=tmp_path / "runs", out=tmp_path / "page.md")
    assert "| 24 epochs | `botnet50` | 1024 | 42.8 / 38.0 | 43.1 / 38.1 (one run, seed 3) |" in text
    assert (tmp_path / "page.md").read_text() == text
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"epochs": 1}))
    with pytest.raises(
        ValueError, match="of botnet50 after 1 epochs; recipe botnet50-24ep trains botnet50 for 24; move"
    ):
        paper(runs=tmp_path / "runs")
    with pytest.raises(FileNotFoundError, match="no folder of runs at"):
        paper(runs=tmp_path / "gone")


def test_every_recipe_named_is_shipped():
    named = {row.recipe for rows in COCO.values() for row in rows if row.recipe}
    assert named == set(recipe_names("botvision.maskrcnn.recipes")) - {"demo", "finetune"}


@pytest.mark.parametrize("row", [r for r in COUNTS if r.px == 1024 and r.madds], ids=lambda r: r.name)
def test_counts_that_the_paper_prints_for_detection_are_ours(row):
    assert measure(row.name, row.px).madds / 1e9 == pytest.approx(float(row.madds.rstrip("G")), rel=5e-4)


def test_stated_misfits_are_true(page):
    steps = {row.training: row.step_ms for row in IMAGENET}
    assert f"= {steps['RandAugment'] / steps['scaled, 350 epochs (T7)']:.2f}" in page
    se = 2 * 2048 * 128 + 128 + 2048  # of a block with 2048 output channels, ratio 1/16
    for row in COUNTS:
        if row.about[:1] == "T" and row.about[1:].isdigit():
            ours, theirs = measure(row.name, row.px).parameters, float(row.parameters.rstrip("M")) * 1e6
            assert 2.9e6 < theirs - ours < 6.1e6
            blocks = {"botnet_s1_59": 6, "botnet_s1_110": 6, "botnet_s1_128": 12, "botnet_s1_77": 12}[row.name]
            assert 0.1e6 < ours + blocks * se - theirs < 0.45e6
