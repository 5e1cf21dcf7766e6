"""The documentation as a site, what a joining stranger reads, and how a release is made."""

import ast
import json
import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from botvision.classify.sources import Folders
from botvision.cli import main
from botvision.maskrcnn.data import CocoInstances

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
WORKFLOWS = ROOT / ".github" / "workflows"
PROJECTS = {"botvision": ROOT, "botvision-yolo": ROOT / "plugins" / "botvision-yolo"}
PACKAGES = [
    *(
        ROOT / "src" / "botvision" / name
        for name in ("attention", "backbone", "classify", "deploy", "explore", "export", "maskrcnn", "scenes", "serve")
    ),
    PROJECTS["botvision-yolo"] / "src" / "botvision_yolo",
]
TAKEN_OR_GIVEN = {  # by public functions and by `Task`; and a command that is a module of its own
    "botvision.engine.config.DeviceConfig",
    "botvision.engine.loader.Share",
    "botvision.engine.run.Session",
    "botvision.report.report",
}


def public_names(package):
    """A package's `__all__`, without importing it."""
    for node in ast.parse((package / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{package} has no __all__")


def imported_from_modules(path):
    """Names that a file imports from botvision's modules, by their full names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("botvision."):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_reference_has_every_public_name_and_no_other():
    """Public is what `__all__` has, and what examples and a task of one's own (tests/engine/test_task.py) import."""
    page = (DOCS / "api.md").read_text()
    listed = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    dotted = [str(p.relative_to(p.parents[0 if "yolo" in p.name else 1])).replace("/", ".") for p in PACKAGES]
    public = {f"{name}.{own}" for name, path in zip(dotted, PACKAGES, strict=True) for own in public_names(path)}
    for path in [*(ROOT / "examples").glob("*.py"), ROOT / "tests" / "engine" / "test_task.py"]:
        public |= set(imported_from_modules(path))
    assert len(listed) == len(set(listed))
    assert set(listed) == public | TAKEN_OR_GIVEN
    short = set(public_names(ROOT / "src" / "botvision")) - {"__version__"}
    assert short <= {name.rpartition(".")[2] for name in listed}
    assert set(re.findall(r"`(\w+)`", page.split("## ")[0])) == short


def nav_pages(entry):
    """Pages that a part of mkdocs' nav names."""
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in nav_pages(part)]


def test_the_sites_navigation_has_every_page_once():
    pages = nav_pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    records = {path for path in there if re.match(r"decisions/\d", path)}
    assert len(pages) == len(set(pages))
    assert set(pages) == there - records
    assert set(re.findall(r"\]\((\d[^)]+)\)", (DOCS / "decisions/index.md").read_text())) == {
        path.removeprefix("decisions/") for path in records
    }


@pytest.mark.parametrize("page", ["many-gpus", "slurm"])
def test_commands_of_launchers_parse(page, capsys):
    text = (DOCS / "how-to" / f"{page}.md").read_text()
    scripts = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for script in scripts for line in script.replace("\\\n", " ").splitlines() if "botvision " in line]
    assert len(lines) == {"many-gpus": 7, "slurm": 2}[page]
    for line in lines:
        words = shlex.split(line, comments=True)
        with pytest.raises(SystemExit) as stop:
            main([*words[words.index("botvision") + 1 :], "--print_config"])
        assert stop.value.code == 0, capsys.readouterr().err


def test_rare_classes_are_repeated_as_the_page_says(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = json.loads((scenes / "annotations" / "train.json").read_text())
    Path("train.json").write_text(json.dumps(before))
    [snippet] = re.findall(r"```python\n(.*?)```", (DOCS / "how-to/imbalanced-classes.md").read_text(), re.DOTALL)
    exec(compile(snippet, "imbalanced-classes.md", "exec"), {})
    after = json.loads(Path("train-repeated.json").read_text())
    rare = {c["id"] for c in before["categories"] if c["name"] in {"7", "8"}}
    counts = [sum(a["category_id"] in rare for a in document["annotations"]) for document in (before, after)]
    assert counts[1] == 3 * counts[0] > 0
    assert len(CocoInstances(Path("train-repeated.json"), scenes / "train")) == len(after["images"])
    image = next((scenes / "train").glob("*"))
    for name in ("rare", "frequent"):
        Path("classes", name).mkdir(parents=True)
        Path("classes", name, f"a{image.suffix}").symlink_to(image)
    Path("classes/rare", f"again{image.suffix}").symlink_to(image)
    assert len(Folders(Path("classes"))) == 3


def test_snippet_of_gradient_checkpointing_runs():
    [snippet] = re.findall(r"```python\n(.*?)```", (DOCS / "how-to/out-of-memory.md").read_text(), re.DOTALL)
    found = {}
    exec(compile(snippet, "out-of-memory.md", "exec"), found)
    assert found["model"].grad_checkpointing is True


def test_snippet_of_watching_runs():
    [snippet] = re.findall(r"```python\n(.*?)```", (DOCS / "how-to/attention.md").read_text(), re.DOTALL)
    exec(compile(snippet, "attention.md", "exec"), {})


def test_the_live_explorer_is_the_page_as_it_is_now():
    """Where it is not: python docs/explorer.py."""
    made = runpy.run_path(str(DOCS / "explorer.py"))
    assert made["LIVE"].read_text() == made["page"]()
    assert made["LIVE"].stat().st_size < 400_000
    assert "live/explorer.html" in (DOCS / "explore.md").read_text()


def workflow(name):
    return yaml.safe_load((WORKFLOWS / name).read_text())["jobs"]


def test_ci_runs_what_every_change_must_pass():
    [job] = workflow("ci.yml").values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert re.findall(r"^make .*", (ROOT / ".ci" / "run").read_text(), re.MULTILINE) == ["make check", "make test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
    lowest, newer = job["strategy"]["matrix"]["python"]
    for project in PROJECTS.values():
        asked = tomllib.loads((project / "pyproject.toml").read_text())["project"]["requires-python"]
        assert asked == f">={lowest}"
    assert newer > lowest
    [setup] = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/setup-python@")]
    assert setup["cache"] == "pip"
    assert all((ROOT / path).is_file() for path in setup["cache-dependency-path"].split())


def test_a_release_builds_both_distributions_and_only_publishing_may_ask_for_an_identity():
    jobs = workflow("release.yml")
    built = {entry["distribution"]: entry["folder"] for entry in jobs["build"]["strategy"]["matrix"]["include"]}
    assert {name: ROOT / folder for name, folder in built.items()} == PROJECTS
    for name, folder in PROJECTS.items():
        assert tomllib.loads((folder / "pyproject.toml").read_text())["project"]["name"] == name
        job = jobs.pop(f"publish-{name}")
        assert job["permissions"] == {"id-token": "write"}
        assert job["environment"] == "pypi"
        fetched, published = job["steps"]
        assert fetched["with"]["name"] == name
        assert published["uses"] == "pypa/gh-action-pypi-publish@release/v1"
    assert not any("permissions" in job for job in jobs.values())
    assert jobs["build"]["needs"] == ["ci", "audit"]
    assert workflow("audit.yml")["audit"]["steps"][-1] == {"run": "make audit"}


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda p: p.stem)
def test_actions_are_pinned_to_a_major_version(path):
    used = re.findall(r"uses: (\S+)", path.read_text())
    assert used
    assert all(re.search(r"@(v\d+|release/v\d+)$", action) or action.startswith("./") for action in used)


def test_one_version_and_licence_wherever_they_are_said():
    own = [tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in PROJECTS.values()]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {project["version"] for project in own} == {citation["version"]}
    assert citation["license"] == own[0]["license"]


def test_the_paper_is_cited_by_its_authors():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    names = ", ".join(f"{author['given-names']} {author['family-names']}" for author in paper["authors"])
    assert names == "Aravind Srinivas, Tsung-Yi Lin, Niki Parmar, Jonathon Shlens, Pieter Abbeel, Ashish Vaswani"
    assert (paper["year"], paper["url"]) == (2021, "https://arxiv.org/abs/2101.11605")


@pytest.mark.parametrize("name", ["bug", "feature", "question"])
def test_issue_forms_are_forms(name):
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len(asked)
    assert any(part.get("validations", {}).get("required") for part in asked)
