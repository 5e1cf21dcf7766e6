"""What is published runs: README and docs commands, Python snippets, examples."""

import re
import runpy
import shlex
import shutil
import unicodedata
from pathlib import Path

import pytest
import torch
from PIL import Image

from botvision import create_model
from botvision.cli import main, recipe_path

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("maskrcnn", "classify", "backbone", "backends", "directional-start")),
]
SHIPPED = [ROOT / "docs" / "export.md", ROOT / "docs" / "serve.md", *sorted((ROOT / "docs" / "targets").glob("*.md"))]
TUTORIALS = [ROOT / "docs" / f"{name}.md" for name in ("fine-tune", "fine-tune-classifier")]
HOW_TO = sorted((ROOT / "docs" / "how-to").glob("*.md"))
SMALL = {  # the same commands, made small enough for a test
    "scenes": "--train 16 --val 4 --digits [3,4]",
    "digits": "--size 32",
    "classify train": "--optim.epochs 1 --model.name botnet14 --model.img_size 32 --engine.progress false "
    "--data.workers 0 --engine.report false --model.options '{channels: [8, 16, 32, 64]}'",
    "maskrcnn train": "--optim.epochs 1 --model.backbone botnet14 --model.img_size 128 --model.preset nano "
    "--model.backbone_options '{channels: [16, 32, 64, 128]}' --data.on_bad skip --data.workers 0 "
    "--engine.progress false --engine.report false",
    "bench attention": "--sides [4] --rounds 1",
    "classify evaluate": "--workers 0",
    "classify predict": "",
    "maskrcnn evaluate": "--workers 0",
    "maskrcnn predict": "",
}
RESNET = "resnet26.bt_in1k"  # whose weights a tutorial downloads

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def commands(page):
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    return [line.split(" #")[0].strip() for line in text.splitlines() if line.strip()]


def run_small(command, capsys):
    """A command of a page as a test has time for it, on weights of a small ResNet where it names a large one's."""
    if command == "python examples/shapes.py":
        runpy.run_path(str(ROOT / "examples" / "shapes.py"))["make_shapes"](Path("shapes"), train=16, val=2)
        return
    arguments = shlex.split(command)[1:]
    name = next(words for words in SMALL if " ".join(arguments).startswith(words))
    if RESNET in arguments:
        channels = (16, 32, 64, 128) if name.startswith("maskrcnn") else (8, 16, 32, 64)
        torch.save(create_model("resnet26", layers=(1, 1, 1, 1), channels=channels).state_dict(), "resnet.pt")
        arguments[arguments.index(RESNET)] = "resnet.pt"
    assert main([*arguments, *shlex.split(SMALL[name])]) == 0, (command, capsys.readouterr().err)


@pytest.mark.usefixtures("few_digits")
def test_readme_commands_run_in_their_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (90, 60), "grey").save(tmp_path / "your-image.jpg")
    runpy.run_path(str(ROOT / "examples" / "shapes.py"))["make_shapes"](Path("YOUR_FOLDER"), train=8, val=2)
    own = [c for c in commands(PAGES[0]) if c.startswith("botvision")]
    assert len(own) >= 8
    for command in own:
        run_small(command, capsys)
    assert (tmp_path / "runs/maskrcnn/demo/summary.json").is_file()
    assert (tmp_path / "predictions/your-image.jpg").is_file()


@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda p: p.stem)
def test_tutorials_run_from_the_first_command_to_the_last(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = commands(page)
    assert len(own) >= 5
    for command in own:
        run_small(command, capsys)
    assert len(list(tmp_path.glob("runs/*/*/summary.json"))) >= 2


def test_other_readme_commands_are_make_targets_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    others = [c for c in commands(PAGES[0]) if not c.startswith("botvision")]
    assert {c.split()[1] for c in others if c.startswith("make ")} <= targets
    assert all(c.startswith(("make ", "git clone ", "cd ", "pip install ")) for c in others)


def test_docs_commands_parse(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for page in [*PAGES[1:], *HOW_TO, *SHIPPED]:
        for command in [c for c in commands(page) if page not in SHIPPED or c.startswith("botvision ")]:
            words = shlex.split(command)[1:]
            if "--config" in words:  # that of a run, which would be there
                config = Path(words[words.index("--config") + 1])
                config.parent.mkdir(parents=True, exist_ok=True)
                config.write_text(recipe_path("demo", f"botvision.{words[0]}.recipes").read_text())
            with pytest.raises(SystemExit) as stop:
                main([*words, "--print_config"])
            assert stop.value.code == 0, command


@pytest.mark.parametrize("page", [*PAGES, TUTORIALS[0]], ids=lambda p: p.stem)
def test_python_snippets_run(page, untrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/maskrcnn/mine/checkpoints").mkdir(parents=True)
    shutil.copy(untrained, tmp_path / "runs/maskrcnn/mine/checkpoints/last.ckpt")
    (tmp_path / "photos").mkdir()
    for name in ("1.jpg", "2.png"):
        Image.new("RGB", (90, 60), "grey").save(tmp_path / "photos" / name)
    snippets = blocks(page, "python")
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, str(page), "exec"), {})


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.stem)
def test_examples_run(example, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out


def test_every_file_of_the_package_says_what_it_is_in_one_sentence():
    for path in sorted((ROOT / "src" / "botvision").rglob("*.py")):
        sentence = path.read_text().split('"""')[1].strip()
        assert "\n" not in sentence, path
        assert len(sentence) <= 95, path


def test_the_architecture_page_and_its_drawing_are_what_the_files_give():
    """After a change: python docs/architecture.py."""
    made = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    assert made["PAGE"].read_text() == made["page"]()
    assert made["DRAWING"].read_text() == made["drawing"]()
    assert "`maskrcnn/model.py`" in made["page"]()
    assert {("cli", "explore"), ("explore", "classify"), ("maskrcnn", "engine"), ("backbone", "attention")} <= made[
        "arrows"
    ]()


def test_parameter_table_of_the_docs_is_true():
    from botvision import create_model

    rows = re.findall(r"\| `(botnet\w+)` \| [\d, ]+ \| \d \| ([\d,]+) \|", (ROOT / "docs/backbone.md").read_text())
    assert len(rows) == 11
    for name, count in rows:
        with torch.device("meta"):
            assert sum(p.numel() for p in create_model(name).parameters()) == int(count.replace(",", "")), name


def test_every_claim_of_the_correctness_page_names_a_test_that_exists():
    rows = re.findall(r"^\| (?!claim|port|weights|---).*\|$", (ROOT / "docs/correctness.md").read_text(), re.MULTILINE)
    assert len(rows) >= 20
    for row in rows:
        named = re.search(r"\| `(tests/\S+\.py)::(test_\w+)` \|$", row)
        assert named, row
        assert f"def {named[2]}(" in (ROOT / named[1]).read_text(), row


TAKEN_BACK = (
    "98.8 %",
    "where it should",
    "must be seen too",
    "demo's scenes there is no difference",
    "verything timm does with a ResNet",
    "verything that timm",
    "YOLOv5 to 26",
    "ResNet with three convolutions swapped",
    "last three 3×3 convolutions",
)


def test_no_page_claims_what_was_taken_back():
    readme = (ROOT / "README.md").read_text()
    assert "**No accuracy advantage of BoTNet over a ResNet has been shown by this project.**" in readme
    assert "evidence_distance.png" not in readme
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "src").rglob("*.py")]
    texts += [*HOW_TO, ROOT / "studies" / "README.md", *(ROOT / "studies").rglob("*.jinja")]
    for path in [*texts, *(ROOT / "plugins").glob("*/README.md"), *(ROOT / "plugins").glob("*/pyproject.toml")]:
        said = " ".join(path.read_text().split())
        for claim in TAKEN_BACK:
            assert claim not in said or (claim == "98.8 %" and path.name == "evidence.md"), (path, claim)


def test_decisions_and_changelog_say_what_was_taken_back():
    decisions = {path.name[:4]: path.read_text() for path in (ROOT / "docs" / "decisions").glob("*.md")}
    for number in ("0014", "0016"):
        head = decisions[number].split("**Situation.**")[0]
        assert "Taken back in part by [decision 19](0019-side-is-degenerate.md)" in head
    assert len(decisions["0019"].splitlines()) <= 30
    assert "**Taken back:**" in (ROOT / "CHANGELOG.md").read_text()


def test_no_botnet_has_pretrained_weights():
    """So "what timm does with a ResNet" leaves `pretrained` out."""
    import timm

    with pytest.raises(RuntimeError, match="No pretrained weights exist for botnet26"):
        timm.create_model("botnet26", pretrained=True)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/maskrcnn.md", "docs/classify.md", "docs/yolo.md", "docs/backbone.md"]
)
def test_users_of_small_data_are_told_that_attention_begins_as_an_average(page):
    text = " ".join((ROOT / page).read_text().split())
    assert "plain average over" in text
    assert "directional-start.md)" in text


def slugs(page):
    """Anchors of a page's headings and names, as the repository's host makes them and as the site does."""
    text = re.sub(r"^(`{3,})\w*\n.*?^\1", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", title).strip().lower() for title in titles]
    hosted = {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}
    ascii_only = [unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode() for title in plain]
    on_site = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip()) for title in ascii_only}
    named = {*re.findall(r'id="([^"]+)"', text), *re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    return hosted | named, on_site | named


LINKED = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / ".github").rglob("*.md")),
    *sorted((ROOT / "plugins").glob("*/README.md")),
    ROOT / "studies" / "README.md",
    *sorted((ROOT / "benchmarks").glob("**/README.md")),
]


@pytest.mark.parametrize("page", LINKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """To a file and a heading that are there; from a page of the site to one of the site."""
    docs = ROOT / "docs"
    text = re.sub(r"^(`{3,})\w*\n.*?^\1|`[^`\n]+`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        where, _, anchor = link.partition("#")
        target = (page.parent / where).resolve() if where else page
        assert target.exists(), link
        assert target.is_relative_to(docs) or not page.is_relative_to(docs), f"{link} leads out of the site"
        if anchor:
            hosted, on_site = slugs(target)
            assert anchor in hosted, link
            assert anchor in on_site or not page.is_relative_to(docs), link
