"""The digits: every fourth held out, as class folders or as shards, never over something else."""

import json
import tarfile

import pytest

from botvision.digits import load_digits, make_digits


def test_the_splits_share_no_digit():
    train, val = (load_digits(split)[0] for split in ("train", "val"))
    assert (len(train), len(val)) == (1347, 450)
    rows = {digit.tobytes() for digit in train}
    assert not rows & {digit.tobytes() for digit in val}


def test_folders_and_shards_are_written_whole(tmp_path):
    said = make_digits(tmp_path / "folders", size=16)
    assert said == f"1347 + 450 digits of 16 px in class folders at {tmp_path / 'folders'}"
    assert len(list((tmp_path / "folders").rglob("*.png"))) == 1797
    make_digits(tmp_path / "shards", size=16, shards=4)
    index = json.loads((tmp_path / "shards" / "train.json").read_text())
    assert [entry["nsamples"] for entry in index["shardlist"]] == [337, 337, 337, 336]
    with tarfile.open(tmp_path / "shards" / "train-0003.tar") as tar:
        assert len(tar.getnames()) == 2 * 336
    with pytest.raises(ValueError, match="shards holds something already"):
        make_digits(tmp_path / "shards")
    with pytest.raises(ValueError, match="size=4 must be at least 8 and shards=-1 at least 0"):
        make_digits(tmp_path / "x", size=4, shards=-1)
