"""Checkpoints and files: whole or as they were, whatever the disk; the newest whole one is gone on with."""

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from PIL import Image

from botvision.engine.checkpoint import TornCheckpointError, newest_whole, put_back, read_checkpoint
from botvision.engine.folder import check_folder, clear_unfinished
from botvision.engine.saving import WholeCheckpointIO
from botvision.engine.settings import built, check_same, completed, plain
from botvision.files import UNFINISHED, check_free, clear_leftovers, whole_file, whole_folder, write_text


def content(step):
    about = {"house": "maskrcnn", "model": {}, "categories": []}
    return {"botvision": about, "global_step": step, "epoch": 0, "state_dict": {"w": torch.full((8,), 7.0)}}


def save(path, step):
    path.parent.mkdir(exist_ok=True, parents=True)
    WholeCheckpointIO().save_checkpoint(content(step), path)


def test_a_checkpoint_never_passes_through_another_disk(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "full"))  # lightning would write there, then move
    opened = []
    original = torch.save
    monkeypatch.setattr(torch, "save", lambda what, stream: (opened.append(stream.name), original(what, stream)))
    save(tmp_path / "runs" / "last.ckpt", 3)
    assert os.path.dirname(opened[0]) == str(tmp_path / "runs")  # noqa: PTH120
    assert read_checkpoint(tmp_path / "runs" / "last.ckpt", task="maskrcnn")["global_step"] == 3
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["last.ckpt"]


def test_the_file_is_on_the_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(os, "fsync", lambda handle: done.append(os.path.realpath(f"/proc/self/fd/{handle}")))
    replace = type(tmp_path).replace
    monkeypatch.setattr(type(tmp_path), "replace", lambda self, to: (done.append("renamed"), replace(self, to))[1])
    write_text(tmp_path / "a.txt", "x")
    assert UNFINISHED in done[0]
    assert done[1:] == ["renamed", str(tmp_path)]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX's")
def test_a_full_disk_leaves_the_old_checkpoint_and_is_named(tmp_path):
    """A limit on the size of files ends a write in the middle, as a full disk does."""
    save(tmp_path / "last.ckpt", 1)
    script = f"""
        import resource, signal, sys, torch
        from pathlib import Path
        from botvision.engine.saving import WholeCheckpointIO
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        big = {{"botvision": {{}}, "state_dict": {{"w": torch.zeros(1_000_000)}}}}
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            WholeCheckpointIO().save_checkpoint(big, Path({str(tmp_path / "last.ckpt")!r}))
        except OSError as error:
            print(error)
    """
    assert resource.RLIMIT_FSIZE is not None
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert f"no room to write {tmp_path / 'last.ckpt'}: its disk has" in said.stdout, said
    assert "what was there before is as it was; make room and go on" in said.stdout
    assert read_checkpoint(tmp_path / "last.ckpt", task="maskrcnn")["global_step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_is_no_full_disk_is_not_said_to_be_one(tmp_path, monkeypatch):
    save(tmp_path / "last.ckpt", 1)

    def fails(*_):
        raise RuntimeError("cannot write this tensor")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(RuntimeError, match="cannot write this tensor"):
        save(tmp_path / "last.ckpt", 2)
    assert read_checkpoint(tmp_path / "last.ckpt", task="maskrcnn")["global_step"] == 1


@pytest.mark.parametrize("torn", ["empty", "cut", "text"])
def test_a_torn_checkpoint_is_named_and_the_newest_whole_one_taken(tmp_path, capsys, torn):
    for name, step, age in (("best", 4, 50), ("older", 2, 10), ("last", 6, 100)):
        save(tmp_path / f"{name}.ckpt", step)
        os.utime(tmp_path / f"{name}.ckpt", (age, age))
    assert newest_whole(tmp_path, task="maskrcnn")[0].name == "last.ckpt"
    whole = (tmp_path / "last.ckpt").read_bytes()
    spoilt = {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"hello"}[torn]
    (tmp_path / "last.ckpt").write_bytes(spoilt)
    with pytest.raises(
        ValueError, match=r"last\.ckpt is not a whole checkpoint .*; beside it: best\.ckpt, older\.ckpt"
    ):
        read_checkpoint(tmp_path / "last.ckpt", task="maskrcnn")
    newest = newest_whole(tmp_path, task="maskrcnn")
    assert (newest.path.name, newest.content["global_step"], newest.torn) == ("best.ckpt", 4, ["last.ckpt"])
    assert (tmp_path / "last.ckpt").read_bytes() == spoilt  # nothing is changed by looking
    put_back(newest)
    assert (tmp_path / "last.ckpt.torn").read_bytes() == spoilt
    assert "last.ckpt in" in (said := capsys.readouterr().err)
    assert "is torn; going on from best.ckpt, step 4, epoch 0" in said
    assert read_checkpoint(tmp_path / "last.ckpt", task="maskrcnn")["global_step"] == 4  # whole again
    for name in ("best", "older", "last"):
        (tmp_path / f"{name}.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole \(.*\); begin anew with --on_existing replace"):
        newest_whole(tmp_path, task="maskrcnn")


def test_the_checkpoint_before_the_last_is_kept_and_taken_where_the_last_is_altered(tmp_path, capsys):
    """One write a save: the old one is renamed. A kill between the two renamings leaves the old one alone."""
    for step in (2, 4, 6):
        save(tmp_path / "last.ckpt", step)
    save(tmp_path / "best.ckpt", 1)
    assert read_checkpoint(tmp_path / "previous.ckpt", task="maskrcnn")["global_step"] == 4
    assert len(list(tmp_path.iterdir())) == 3
    bits = bytearray((tmp_path / "last.ckpt").read_bytes())
    place = bits.index(torch.full((8,), 7.0).numpy().tobytes())
    bits[place] ^= 1  # torch.load reads it without a word
    (tmp_path / "last.ckpt").write_bytes(bits)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 6
    newest = newest_whole(tmp_path, task="maskrcnn")
    assert newest.content["global_step"] == 4
    put_back(newest)
    assert "last.ckpt in" in (said := capsys.readouterr().err)
    assert "going on from previous.ckpt, step 4" in said
    (tmp_path / "last.ckpt").unlink()
    newest = newest_whole(tmp_path, task="maskrcnn")
    assert newest.content["global_step"] == 4
    put_back(newest)
    assert "has no last.ckpt; going on from previous.ckpt, step 4" in capsys.readouterr().err
    assert read_checkpoint(tmp_path / "last.ckpt", task="maskrcnn")["global_step"] == 4


def test_a_byte_altered_anywhere_is_noticed_or_changes_nothing(tmp_path):
    save(tmp_path / "a.ckpt", 3)
    whole = (tmp_path / "a.ckpt").read_bytes()
    noticed = 0
    for place in range(0, len(whole), 7):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1 << place % 8
        (tmp_path / "a.ckpt").write_bytes(spoilt)
        try:
            read = read_checkpoint(tmp_path / "a.ckpt", task="maskrcnn")
        except TornCheckpointError:
            noticed += 1
        else:
            assert torch.equal(read.pop("state_dict")["w"], content(3)["state_dict"]["w"])
            assert read == {key: value for key, value in content(3).items() if key != "state_dict"}
    assert noticed > 50


@pytest.mark.parametrize(
    "trouble",
    [
        OSError(errno.ESTALE, "Stale file handle"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_no_torn_one(trouble, tmp_path, monkeypatch):
    """Going on from the one before it would lose what a network disk had only not given."""
    for step in (2, 4):
        save(tmp_path / "last.ckpt", step)

    def fails(*_, **__):
        raise trouble

    with monkeypatch.context() as patched:
        patched.setattr(torch, "load", fails)
        with pytest.raises(OSError, match=r"last\.ckpt cannot be read now: .*it may be whole: try again"):
            newest_whole(tmp_path, task="maskrcnn")
    assert newest_whole(tmp_path, task="maskrcnn").content["global_step"] == 4


def test_a_file_that_is_being_written_is_not_locked_itself(tmp_path):
    """On a Windows share nobody could write it; what is locked is a file beside it."""
    with whole_file(tmp_path / "a.txt") as unfinished:
        with unfinished.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write("whole")
        clear_leftovers(tmp_path, stale=0)
        assert unfinished.exists()
    assert (tmp_path / "a.txt").read_text() == "whole"
    (tmp_path / f"{UNFINISHED}abc.txt.lock").touch()  # of a process that was killed between two steps
    clear_leftovers(tmp_path, stale=0)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_without_a_checkpoint_begins_anew(tmp_path):
    assert newest_whole(tmp_path / "none", task="maskrcnn") is None


def test_leftovers_of_a_killed_run_are_cleared_and_never_read(tmp_path):
    save(tmp_path / "checkpoints" / "best.ckpt", 1)
    (tmp_path / "checkpoints" / f"{UNFINISHED}abc.ckpt").write_bytes(b"half")
    newest = newest_whole(tmp_path / "checkpoints", task="maskrcnn")
    put_back(newest)
    assert newest.path.name == "best.ckpt"
    (tmp_path / f"{UNFINISHED}abc.csv").write_bytes(b"half")
    with whole_file(tmp_path / "a.txt") as being_written:
        clear_unfinished(tmp_path)
        assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
        locked = being_written.with_name(f"{being_written.name}.lock")
        assert sorted(tmp_path.iterdir()) == sorted([being_written, locked, tmp_path / "checkpoints"])
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "checkpoints"}


def test_folders_that_a_killed_process_was_making_are_cleared_by_the_next(tmp_path):
    (tmp_path / f"{UNFINISHED}set-abcd1234" / "train").mkdir(parents=True)
    (tmp_path / f"{UNFINISHED}other-abc").mkdir()
    with whole_folder(tmp_path / "set") as one:
        with whole_folder(tmp_path / "set") as another:  # one that is being made is left alone
            (another / "a").touch()
        shutil.rmtree(tmp_path / "set")
        (one / "b").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"set", f"{UNFINISHED}other-abc"}
    assert (tmp_path / "set" / "b").exists()


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_what_the_system_refuses_is_told_of_the_users_name(whole, tmp_path):
    with pytest.raises(PermissionError) as told, whole(tmp_path / "set") as unfinished:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(unfinished / "train"))
    assert told.value.filename == str(tmp_path / "set")
    assert not [*tmp_path.iterdir()]


def test_an_error_inside_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "a.txt") as unfinished:
        unfinished.write_text(f"half {1 / 0}")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@dataclass(frozen=True)
class Inner:
    width: int = 3
    added: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Group:
    name: str
    inner: Inner = field(default_factory=Inner)
    added: bool = False


def test_settings_of_an_older_run_read_as_the_defaults_of_what_was_added():
    old = {"name": "a", "inner": {"width": 5}}
    assert completed(old, Group("b")) == {"name": "a", "inner": {"width": 5, "added": [1, 2]}, "added": False}
    assert built(Group, {"name": "a"}, "x.ckpt") == Group("a")
    with pytest.raises(
        ValueError, match=r"x\.ckpt was made with options that this version does not know: newer; update"
    ):
        built(Group, {"name": "a", "newer": 1}, "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt does not say what it is of: .*'name'"):
        built(Group, {}, "x.ckpt")
    with pytest.raises(ValueError, match=r"does not know: 'oops'"):
        built(Group, "oops", "x.ckpt")
    own = {"task": "h", "model": plain(Group("a", Inner(5))), "classes": ["x"]}
    check_same({"house": "h", "model": old, "classes": ["x"]}, own, model=Group("a", Inner(5)))
    for changed in (
        {"model": {**old, "added": True}},
        {"classes": ["y"]},
        {"model": {"name": "a", "inner": {"width": 6}}},
    ):
        with pytest.raises(ValueError, match="of another model or other classes; give another --out"):
            check_same({"house": "h", "model": old, "classes": ["x"], **changed}, own, model=Group("a", Inner(5)))


def test_a_run_begun_before_an_option_was_added_is_resumed(tmp_path):
    write_text(tmp_path / "config.yaml", "model: {name: a, inner: {width: 3}}\ndata: {workers: 1}\n")
    config = {"model": plain(Group("a")), "data": {"workers": 2}}
    check_folder(tmp_path, "resume", config, fixed={"model": Group("a")})
    with pytest.raises(ValueError, match="was begun with other settings of model"):
        check_folder(tmp_path, "resume", {**config, "model": plain(Group("b"))}, fixed={"model": Group("b")})


def test_nothing_is_overwritten_unless_it_is_said(tmp_path):
    write_text(tmp_path / "a.txt", "mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    check_free([tmp_path / "b.txt"], on_existing="refuse")
    check_free([tmp_path / "a.txt"], on_existing="replace")
    with pytest.raises(ValueError, match=r"a\.txt is there already and would be overwritten; give another --out, or"):
        check_free([tmp_path / "b.txt", tmp_path / "a.txt"], on_existing="refuse")
    with pytest.raises(ValueError, match=r"link and 1 more files are there already"):
        check_free([tmp_path / "link", tmp_path / "a.txt"], on_existing="refuse")
    for refused in (lambda: check_free([tmp_path / "a.txt" / "b"], on_existing="replace"),
                    lambda: check_folder(tmp_path / "a.txt", "replace", {}, fixed={})):  # fmt: skip
        with pytest.raises(ValueError, match=r"a\.txt is a file; give a folder as --out"):
            refused()
    with pytest.raises(ValueError, match="on_existing='resume' is unknown; use refuse or replace"):
        check_free([], on_existing="resume")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_epochs_of_a_second_are_not_each_saved(tmp_path, monkeypatch):
    """Four epochs with an evaluation after each second: a save before and one after it; none for the others."""
    from botvision.classify import train
    from botvision.classify.config import DataConfig, ModelConfig, OptimConfig
    from botvision.engine.config import EngineConfig

    for name in ("red", "blue"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (32, 32), name).save(tmp_path / "set" / name / f"{number}.png")
    steps = []
    save = WholeCheckpointIO.save_checkpoint

    def noted(self, checkpoint, path, storage_options=None):
        steps.append((Path(path).name, checkpoint["epoch"], checkpoint["global_step"]))
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", noted)
    data = DataConfig(str(tmp_path / "set"), val_fraction=0.3, batch_size=2, workers=0)
    model = ModelConfig("botnet14", 32, options={"channels": [8, 16, 32, 64], "output_stride": 8})
    engine = EngineConfig(accelerator="cpu", devices=1, progress=False, report=False, evaluate_every=2)
    train(data, tmp_path / "run", model=model, optim=OptimConfig(epochs=4, warmup_epochs=0), engine=engine)
    assert [step for step in steps if step[0] == "last.ckpt"] == [("last.ckpt", 1, 4)] * 2 + [("last.ckpt", 3, 8)] * 2
    steps.clear()
    monkeypatch.setattr("botvision.engine.fit.EVERY", 0.0)
    train(data, tmp_path / "long", model=model, optim=OptimConfig(epochs=4, warmup_epochs=0), engine=engine)
    assert [step[1] for step in steps if step[0] == "last.ckpt"] == [0, 1, 1, 2, 3, 3]
