"""WebDataset tar shards as a stream: every sample once an epoch, resumable inside one."""

import json
import lzma
import random
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info
from tqdm import tqdm

from botvision.classify.opening import beside, checked, is_remote, opened
from botvision.engine.loader import Share
from botvision.files import is_file, read_json

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
LABEL = ".cls"
MOST = 2**28  # bytes of a file in a shard, and of an index from a server
MOST_SAMPLES = 2**40  # of a shard: any more is no count
NO_SAMPLES = re.compile(r"__[^/]*__($|/)")  # WebDataset's own notes in a shard
BROKEN = (OSError, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, ArithmeticError, LookupError,
          RuntimeError)  # fmt: skip


class Shard(NamedTuple):
    """A tar file, by path or http(s) URL, and how many samples it holds."""

    url: str
    samples: int


class Raw(NamedTuple):
    """A sample as bytes: where it came from, the image, the label."""

    name: str
    image: bytes
    label: int


def find_shards(source: str) -> list[Shard]:
    """Shards of an index (`….json`, as WebDataset's `widsindex create` writes it), or of a pattern of tar files.

    How many samples each shard holds must be known before: of a pattern's shards, by the index beside them
    (`train-{0000..0146}.tar` → `train.json`), or for local files by counting.

    Args:
        source: `train.json`, or e.g. `data/train-{0000..0146}.tar`; by path, http or https.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no index, shards behind URLs without one, a place of another scheme (`pipe:` …), or no sample.
    """
    checked(source, by="the source of shards")
    shards = read_index(source) if source.endswith(".json") else shards_of_pattern(source)
    if not sum(shard.samples for shard in shards):
        raise ValueError(f"{source} has no sample; each needs an image and a {LABEL} file of the same name")
    return shards


def shards_of_pattern(source: str) -> list[Shard]:
    """Shards of a brace pattern, counted by an index beside them or one by one."""
    from webdataset.shardlists import expand_urls

    urls = [checked(url, by=f"pattern {source}") for url in expand_urls(source)]
    index = re.split(r"[-_.]?(?:\{|\d*\.(?:tar|tgz))", source, maxsplit=1)[0] + ".json"
    remote = any(is_remote(url) for url in urls)
    if remote or Path(index).is_file():
        try:
            known = {shard.url: shard for shard in read_index(index)}
        except (OSError, ValueError) as error:
            if not remote:
                raise
            raise ValueError(
                f"{source}: how many samples are in shards behind URLs must be known before, and there is no index at "
                f"{index}; write one with `widsindex create`, and put it there or give its path or URL itself"
            ) from error
        if all(url in known for url in urls):
            return [known[url] for url in urls]
        if remote:
            raise ValueError(f"{index} does not list {next(url for url in urls if url not in known)}; write it anew")
    missing = [url for url in urls if not is_file(Path(url))]
    if missing:
        raise FileNotFoundError(f"no shard at {missing[0]} ({len(missing)} of {len(urls)} are missing)")
    return [Shard(url, count_samples(url)) for url in tqdm(urls, desc="count", unit="shard", disable=None)]


def read_index(source: str) -> list[Shard]:
    """An index's shards; relative URLs are beside it."""
    if is_remote(source):
        with opened(source) as stream:
            text = stream.read(MOST + 1)
        if len(text) > MOST:
            raise ValueError(f"index of shards {source} has more than {MOST >> 20} MiB; is it the index itself?")
        content = parsed(text, source)
    else:
        content = read_json(Path(source), what="index of shards")
    listed = content.get("shardlist") if isinstance(content, dict) else None
    entries = listed if isinstance(listed, list) else []
    if not entries or not all(isinstance(entry, dict) and {"url", "nsamples"} <= entry.keys() for entry in entries):
        raise ValueError(f"{source} is no index of shards; it needs a shardlist of url and nsamples")
    for entry in entries:
        if type(entry["nsamples"]) is not int or not 0 < entry["nsamples"] < MOST_SAMPLES:
            named = f"{entry['url']!r:.80} must be a number of samples from 1"
            raise ValueError(f"{source}: nsamples of {named}; got {entry['nsamples']!r:.40}; write the index anew")
    shards = [Shard(beside(source, entry["url"]), entry["nsamples"]) for entry in entries]
    missing = [shard.url for shard in shards if not is_remote(shard.url) and not is_file(Path(shard.url))]
    if missing:
        raise FileNotFoundError(
            f"{source} lists {missing[0]!r:.200}, which is not there ({len(missing)} of {len(shards)} are missing); "
            "put it back, or write the index anew"
        )
    return shards


def parsed(text: bytes, source: str) -> Any:
    """JSON from a server."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"index of shards {source} is not JSON: {error}; is it the index itself?") from error


def count_samples(path: str) -> int:
    """Labelled images of a local tar file, by its headers, as `read_shard` reads them: a name ends at its first dot."""
    from webdataset.tariterators import base_plus_ext

    try:
        with tarfile.open(path) as tar:
            names = (entry.name for entry in tar if entry.isreg() and not NO_SAMPLES.match(entry.name))
            return sum((base_plus_ext(name)[1] or "").lower() == LABEL[1:] for name in names)
    except BROKEN as error:
        raise ValueError(
            f"shard {path} is no whole tar file: {' '.join(str(error).split())}; write it again"
        ) from error


class ShardBatches(IterableDataset[list[Raw]]):
    """Batches of raw samples of this rank, shared among its workers; each sample belongs to one batch of one worker.

    The epoch's shards, in an order drawn anew for each epoch, are one row of samples. Ranks and workers take
    intervals of it, so each reads only the shards that it needs. In training every rank gets the same number of whole
    batches and fewer than ranks × batch_size samples are left over, of the row's two ends, other ones each epoch;
    otherwise all are read.
    """

    def __init__(self, shards: Sequence[Shard], share: Share, *, buffer: int = 2048) -> None:
        self.shards = list(shards)
        self.share = share
        self.buffer = buffer
        self.samples = sum(shard.samples for shard in shards)

    def __len__(self) -> int:
        """Batches of this rank in an epoch, all workers together."""
        if self.share.train:
            return self.samples // (self.share.world * self.share.batch_size)
        first, last = self.interval_of_rank()
        return -(-(last - first) // self.share.batch_size)

    def interval_of_rank(self) -> tuple[int, int]:
        """The rank's part of the epoch's row."""
        if self.share.train:
            mine = len(self) * self.share.batch_size
            spare = self.samples - self.share.world * mine
            begin = random.Random(f"left over {self.share.seed} {self.share.position.epoch}").randint(0, spare)
            return begin + self.share.rank * mine, begin + (self.share.rank + 1) * mine
        return self.samples * self.share.rank // self.share.world, self.samples * (
            self.share.rank + 1
        ) // self.share.world

    def worker_batches(self, worker: int, workers: int) -> tuple[int, int]:
        """First and last of the rank's batches that a worker makes."""
        return len(self) * worker // workers, len(self) * (worker + 1) // workers

    def __iter__(self) -> Iterator[list[Raw]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        begin, end = self.interval_of_rank()
        from_batch, to_batch = self.worker_batches(worker, workers)
        first, last = (min(begin + batch * self.share.batch_size, end) for batch in (from_batch, to_batch))
        order = list(self.shards)
        if self.share.train:
            random.Random(f"{self.share.seed} {self.share.position.epoch}").shuffle(order)
        samples = read_interval(order, first, last)
        if self.share.train:
            rng = random.Random(f"{self.share.seed} {self.share.position.epoch} {self.share.rank} {worker}")
            samples = shuffled(samples, rng, buffer=self.buffer)
        counts = [b - a for a, b in (self.worker_batches(w, workers) for w in range(workers))]
        taken = taken_before(counts, self.share.position.batch)[worker]
        for number in range(to_batch - from_batch):
            batch = list(islice(samples, self.share.batch_size))
            if number >= taken:
                yield batch
        next(samples, None)  # to the end of the last shard, where a wrong count shows


def taken_before(counts: Sequence[int], batches: int) -> list[int]:
    """How many of each worker's batches a loader has taken after so many: it asks them in turn."""
    taken = [0] * len(counts)
    while batches > 0 and taken != list(counts):
        for worker, count in enumerate(counts):
            if batches > 0 and taken[worker] < count:
                taken[worker] += 1
                batches -= 1
    return taken


def read_interval(shards: Sequence[Shard], first: int, last: int) -> Iterator[Raw]:
    """Samples first … last − 1 of the row that the shards make."""
    start = 0
    for shard in shards:
        skip, stop = max(first - start, 0), min(last - start, shard.samples)
        start += shard.samples
        if skip < stop:
            samples = read_shard(shard)
            yield from islice(samples, skip, stop)
            if stop == shard.samples and next(samples, None) is not None:
                raise ValueError(
                    f"shard {shard.url} holds more than the {shard.samples} samples that its index says, and they "
                    "would be left out; write the index anew"
                )


def read_shard(shard: Shard) -> Iterator[Raw]:
    """A shard's samples, in its own order.

    Raises:
        ValueError: it is gone, cut short, or holds fewer samples than are known of it.
    """
    found, samples = 0, grouped(shard.url)
    while True:
        try:
            sample = next(samples, None)
        except BROKEN as error:
            reason = error.args[0] if error.args and not isinstance(error, OSError) else error
            raise ValueError(
                f"shard {shard.url} could not be read after {found} of {shard.samples} samples: {reason}; put it back "
                "and go on with --on_existing resume"
            ) from error
        if sample is None:
            break
        if LABEL[1:] in sample:
            found += 1
            yield to_raw(sample, shard.url)
    if found < shard.samples:
        cure = "a server may have ended early: go on with --on_existing resume, or write both anew"
        cure = cure if is_remote(shard.url) else "write both anew"
        raise ValueError(f"shard {shard.url} holds {found} samples, its index says {shard.samples}; {cure}")


def grouped(url: str) -> Iterator[dict[str, Any]]:
    """Files of a shard whose names differ in their endings alone, as one sample."""
    from webdataset.tariterators import group_by_keys

    with opened(url) as stream:
        yield from group_by_keys(members(stream, url))


def members(stream: IO[bytes], url: str) -> Iterator[dict[str, Any]]:
    """Files of a tar, one in memory at a time; WebDataset's own reader takes them of any size.

    Raises:
        ValueError: a file that is larger than any image.
    """
    with tarfile.open(fileobj=stream, mode="r|*") as tar:
        for entry in tar:
            tar.members = []  # type: ignore[attr-defined]  # it would keep every header
            if not entry.isreg() or NO_SAMPLES.match(entry.name):
                continue
            if entry.size > MOST or entry.issparse():
                raise ValueError(f"{entry.name:.80} is said to have {entry.size:,} bytes, which no image has")
            file = tar.extractfile(entry)
            if file is not None:
                yield {"fname": entry.name, "data": file.read(), "__url__": url}


def to_raw(sample: dict[str, Any], url: str) -> Raw:
    """An image and its label out of a sample's files."""
    name = f"{url}/{sample['__key__']}"
    label = sample[LABEL[1:]].strip()
    if not label.isdigit() or len(label) > 9:
        raise ValueError(f"{name}{LABEL} must hold a class number from 0; got {label[:20]!r}")
    image = next((sample[ending[1:]] for ending in IMAGES if ending[1:] in sample), b"")
    return Raw(name, image, int(label))


def shuffled(samples: Iterator[Raw], rng: random.Random, *, buffer: int) -> Iterator[Raw]:
    """Samples in a random order, as far as a buffer of so many allows."""
    held: list[Raw] = []
    for sample in samples:
        if len(held) < buffer:
            held.append(sample)
            continue
        place = rng.randrange(buffer)
        yield held[place]
        held[place] = sample
    rng.shuffle(held)
    yield from held
