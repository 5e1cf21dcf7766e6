"""Every sample once an epoch, whatever the ranks, workers and interruptions: proved for numbers and for shards."""

import json
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from torch.utils.data import DataLoader

from botvision.classify import train
from botvision.classify.config import DataConfig, ModelConfig
from botvision.classify.data import build_split, val_transform
from botvision.classify.evaluation import evaluate_at
from botvision.classify.model import Classifier
from botvision.classify.opening import beside, opened
from botvision.classify.shards import Shard, ShardBatches, find_shards, read_interval, taken_before
from botvision.digits import load_digits, make_digits
from botvision.engine.config import EngineConfig
from botvision.engine.loader import EpochBatches, EpochPosition, Share
from botvision.inputs import find_images

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")


def names_of(batch):
    return [raw.name for raw in batch]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "shards"
    make_digits(out, size=8, shards=5)
    return str(out / "train.json")


@pytest.fixture(scope="module")
def shards(index):
    return find_shards(index)


def share(**options):
    return Share(**({"batch_size": 32, "train": True, "position": EpochPosition()} | options))


def read(shards, rank_share, *, workers, buffer=64):
    loader = DataLoader(
        ShardBatches(shards, rank_share, buffer=buffer), batch_size=None, collate_fn=names_of, num_workers=workers
    )
    return list(loader)


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 3), (2, 2), (3, 1)])
def test_shards_scored_are_read_once_by_all_ranks_together(shards, world, workers):
    total = sum(shard.samples for shard in shards)
    ranks = [read(shards, share(train=False, rank=rank, world=world), workers=workers) for rank in range(world)]
    counts = Counter(name for batches in ranks for batch in batches for name in batch)
    assert len(counts) == total
    assert set(counts.values()) == {1}


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (3, 2), (2, 1)])
def test_shards_trained_on_give_equal_whole_batches_and_leave_less_than_a_step(shards, world, workers):
    total = sum(shard.samples for shard in shards)
    ranks = [read(shards, share(rank=rank, world=world), workers=workers) for rank in range(world)]
    counts = Counter(name for batches in ranks for batch in batches for name in batch)
    assert set(counts.values()) == {1}
    assert total - len(counts) < world * 32
    assert {len(batch) for batches in ranks for batch in batches} == {32}
    assert len({len(batches) for batches in ranks}) == 1
    assert len(ranks[0]) == len(ShardBatches(shards, share(world=world)))


def test_a_batch_of_one_trains_on_every_sample(shards):
    counts = Counter(name for batch in read(shards, share(batch_size=1), workers=2) for name in batch)
    assert len(counts) == sum(shard.samples for shard in shards)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("stop", [1, 7, 40])
def test_shards_go_on_inside_an_epoch_where_they_stopped(shards, workers, stop):
    whole = read(shards, share(), workers=workers)
    rest = share()
    rest.position.begin(0, stop)
    found = [*whole[:stop], *read(shards, rest, workers=workers)]
    assert sorted(found) == sorted(whole)  # with several workers their turns differ
    assert workers > 1 or found == whole


def test_each_epoch_has_another_order_and_persistent_workers_see_it(shards):
    part = share()
    loader = DataLoader(
        ShardBatches(shards, part), batch_size=None, collate_fn=names_of, num_workers=1, persistent_workers=True
    )
    orders = []
    for epoch in (0, 1, 0):
        part.position.begin(epoch)
        orders.append([name for batch in loader for name in batch])
    assert orders[0] == orders[2] != orders[1]
    assert orders[0] != sorted(orders[0])


@pytest.mark.parametrize(("train", "world"), [(True, 1), (True, 3), (False, 1), (False, 3)])
def test_numbers_are_given_out_once(train, world):
    ranks = [list(EpochBatches(101, share(batch_size=4, train=train, rank=r, world=world))) for r in range(world)]
    counts = Counter(number for batches in ranks for batch in batches for number in batch)
    assert set(counts.values()) == {1}
    assert len(counts) == (101 if not train else 101 // (4 * world) * 4 * world)
    assert all(len(batches) == len(EpochBatches(101, share(batch_size=4, train=train, rank=r, world=world)))
               for r, batches in enumerate(ranks))  # fmt: skip


def test_numbers_go_on_where_they_stopped():
    part = share(batch_size=4)
    whole = list(EpochBatches(101, part))
    part.position.begin(0, 9)
    assert list(EpochBatches(101, part)) == whole[9:]
    part.position.begin(1)
    assert list(EpochBatches(101, part)) != whole


def test_what_workers_gave_is_counted_as_a_loader_asks():
    assert taken_before([3, 3, 2], 0) == [0, 0, 0]
    assert taken_before([3, 3, 2], 7) == [3, 2, 2]
    assert taken_before([1, 3], 3) == [1, 2]
    assert taken_before([1, 1], 9) == [1, 1]


def test_an_interval_reads_only_the_shards_it_needs(shards):
    gone = Shard("gone.tar", shards[0].samples)
    first = shards[0].samples
    assert len(list(read_interval([gone, *shards[1:]], first, first + 5))) == 5


def test_patterns_are_counted_and_indices_believed(index, shards):
    folder = Path(index).parent
    assert find_shards(str(folder / "train-{0000..0004}.tar")) == shards
    assert sum(shard.samples for shard in shards) == 1347
    with pytest.raises(FileNotFoundError, match=r"no shard at .*train-0005\.tar \(1 of 2 are missing\)"):
        find_shards(str(folder / "train-{0004..0005}.tar"))
    (folder / "train.json").rename(folder / "else.json")
    try:
        assert find_shards(str(folder / "train-{0000..0004}.tar")) == shards  # counted
    finally:
        (folder / "else.json").rename(folder / "train.json")


def test_shards_behind_urls_are_streamed(index, shards):
    folder = Path(index).parent
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        site = f"http://127.0.0.1:{server.server_port}"
        found = find_shards(f"{site}/train-{{0000..0004}}.tar")
        assert [shard.samples for shard in found] == [shard.samples for shard in shards]
        assert found == find_shards(f"{site}/train.json")
        near, far = (read(listed, share(train=False), workers=1) for listed in (shards, found))
        assert [name.split("/")[-1] for batch in near for name in batch] == [
            name.split("/")[-1] for batch in far for name in batch
        ]
        with pytest.raises(ValueError, match=r"no index at http.*/other\.json; write one with `widsindex create`"):
            find_shards(f"{site}/other-{{0000..0004}}.tar")
        with pytest.raises(ValueError, match=r"train\.json does not list http.*train-0005\.tar; write it anew"):
            find_shards(f"{site}/train-{{0004..0005}}.tar")
        with pytest.raises(ValueError, match=r"gone\.tar could not be read after 0 of 5 samples"):
            list(read_interval([Shard(f"{site}/gone.tar", 5)], 0, 5))
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_shard_that_vanishes_or_is_cut_is_named(tmp_path):
    make_digits(tmp_path / "d", size=8, shards=2)
    shards = find_shards(str(tmp_path / "d" / "train.json"))
    stream = iter(ShardBatches(shards, share(train=False)))
    next(stream)
    second = Path(shards[1].url)
    whole = second.read_bytes()
    second.unlink()
    with pytest.raises(
        ValueError, match=r"train-0001\.tar could not be read after 0 of 673 samples.*put it back and go"
    ):
        list(stream)
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"train-0001\.tar (could not be read after|holds) \d+"):
        list(ShardBatches(shards, share(train=False)))
    second.write_bytes(whole)
    short = [shards[0], shards[1]._replace(samples=700)]
    with pytest.raises(ValueError, match="holds 673 samples, its index says 700; write both anew"):
        list(ShardBatches(short, share(train=False)))


def test_an_index_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="is no index of shards; it needs a shardlist of url and nsamples"):
        find_shards(str(tmp_path / "a.json"))
    (tmp_path / "b.json").write_text('{"shardlist": [{"url": "x.tar", "nsamples": 0}]}')
    with pytest.raises(ValueError, match=r"nsamples of .x\.tar. must be a number of samples from 1; got 0; write"):
        find_shards(str(tmp_path / "b.json"))


def index_of(folder, url):
    path = folder / "train.json"
    path.write_text(json.dumps({"shardlist": [{"url": url, "nsamples": 5}]}))
    return str(path)


PAYLOADS = ["pipe:touch {} && cat x.tar", " pipe:touch {}", "PIPE:touch {}", "htgs://x;touch {}", "gs://a/b.tar", "ftp://h/a.tar",
            "s3://a/b.tar", "hf://a/b", "ais://x", "data:application/x-tar;base64,AA", "file:///etc/passwd",
            "file://host/a.tar"]  # fmt: skip


@pytest.mark.parametrize("payload", PAYLOADS)
def test_an_index_runs_no_command(tmp_path, payload):
    """A payload that would create a file, in an index, as a pattern, and in training, evaluation and prediction."""
    made = tmp_path / "made"
    url = payload.format(made)
    index = index_of(tmp_path, url)
    (tmp_path / "names.txt").write_text("a\nb\n")
    scheme = url.strip().partition(":")[0].lower()
    message = (
        "lies outside its own folder"
        if scheme == "file"
        else f"opened by local path, http or https alone, never by {scheme}:"
    )
    with pytest.raises(ValueError, match=message):
        find_shards(index)
    with pytest.raises((ValueError, FileNotFoundError)):
        find_shards(url)
    data = DataConfig(index, index, class_names=tmp_path / "names.txt", workers=0)
    with pytest.raises(ValueError, match=message):
        train(
            data, tmp_path / "run", model=ModelConfig("botnet14", img_size=32), engine=EngineConfig(accelerator="cpu")
        )
    classifier = Classifier(torch.nn.Identity(), ["a", "b"], ModelConfig("botnet14"), (0.0,) * 3, (1.0,) * 3, 1.0)
    with pytest.raises(ValueError, match=message):
        evaluate_at(classifier, DataConfig(index, index, workers=0), size=32)
    with pytest.raises(FileNotFoundError, match="no image at"):
        find_images(url)
    with pytest.raises((ValueError, OSError)):
        list(read_interval([Shard(url, 5)], 0, 5))  # not even where it was not asked
    assert not made.exists()


def test_an_index_leads_to_its_own_folder_and_to_its_own_server(tmp_path):
    (tmp_path / "a b.tar").write_bytes(b"")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.tar").write_bytes(b"")
    inside = (tmp_path / "a b.tar").as_uri()
    assert find_shards(index_of(tmp_path, inside)) == [Shard(str(tmp_path / "a b.tar"), 5)]
    assert find_shards(index_of(tmp_path, "http://host/a.tar")) == [Shard("http://host/a.tar", 5)]
    assert find_shards(index_of(tmp_path, "sub/a.tar")) == [Shard(f"{tmp_path}/sub/a.tar", 5)]
    assert beside("https://host/data/train.json", "a.tar") == "https://host/data/a.tar"
    assert beside("https://host/data/train.json", "/etc/passwd") == "https://host/etc/passwd"
    with pytest.raises(ValueError, match="never by pipe:"):
        beside("https://host/data/train.json", "pipe:touch x")
    for local in ("c:/x/local.tar", "p\tipe:x", "\x00pipe:x"):
        with pytest.raises(ValueError, match=r"which is not on a server|never by pipe:"):
            beside("http://host/train.json", local)
    with pytest.raises(ValueError, match="lies outside its own folder"):
        find_shards(index_of(tmp_path, f"{tmp_path.as_uri()}/../a.tar"))
    with pytest.raises(ValueError, match="names 5 for a shard; it needs a path or URL"):
        find_shards(index_of(tmp_path, 5))
    (tmp_path / "n.json").write_text('{"shardlist": [{"url": "a.tar", "nsamples": "many"}]}')
    with pytest.raises(ValueError, match=r"nsamples of .a\.tar. must be a number of samples"):
        find_shards(str(tmp_path / "n.json"))


def test_a_redirection_leads_nowhere_but_to_http(tmp_path):
    class Elsewhere(QuietHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(OSError, match="No connection adapters"), opened(f"http://127.0.0.1:{server.server_port}/a"):
            pass
        server.shutdown()


@pytest.mark.parametrize("split", ["validation", "test", ""])
def test_the_digits_have_two_splits_and_no_other(split):
    """Every other name gave the training images: `--data.splits train validation` scored on what was learnt."""
    with pytest.raises(ValueError, match=f"the digits have the splits train and val; got '{split}'"):
        load_digits(split)
    transform = val_transform(32, 1.0, (0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ValueError, match="the digits have the splits train and val"):
        build_split("digits", DataConfig("digits", "digits", splits=("train", split)), transform, share(train=False))
    train_images, val_images = (load_digits(name)[0] for name in ("train", "val"))
    assert len(train_images) + len(val_images) == 1797
