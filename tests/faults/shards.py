"""Tar shards and their indexes, cut, flipped and miscounted, against Python's own tarfile."""

import hashlib
import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from botvision.classify.shards import ShardBatches, find_shards
from botvision.engine.loader import EpochPosition, Share
from tests.faults.harness import Family, Wrong
from tests.faults.jsons import ODD, parent, places

SAMPLES = 7


def tar_of(rng: random.Random, *, mode: str = "w") -> bytes:
    """A shard of seven samples."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode, format=rng.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT))) as tar:  # type: ignore[call-overload]
        for number in range(SAMPLES):
            picture = io.BytesIO()
            noise = np.random.default_rng(rng.randrange(2**32)).integers(0, 255, (8, 9, 3), np.uint8)
            Image.fromarray(noise).save(picture, "PNG")
            for name, data in (
                (f"{number:03}.png", picture.getvalue()),
                (f"{number:03}.cls", str(number % 3).encode()),
            ):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


def odd_entry(rng: random.Random) -> bytes:
    """A shard with one entry that is odd."""
    content = io.BytesIO()
    whole = tarfile.open(fileobj=io.BytesIO(tar_of(rng)))  # noqa: SIM115
    with whole, tarfile.open(fileobj=content, mode="w") as tar:
        for number, entry in enumerate(whole):
            data = whole.extractfile(entry)
            tar.addfile(entry, data)
            if number == 4:
                entry = tarfile.TarInfo(
                    rng.choice(("../../x.cls", "/etc/x.cls", "a" * 99 + ".cls", "002.cls", "\u202e.cls", ".cls"))
                )
                kind = rng.randrange(4)
                entry.type = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)[kind]
                entry.linkname = "/etc/passwd"
                if kind == 0:
                    label = rng.choice((b"1", b"", b"cat", b"-1", b"9" * 6000, b"\xff", b" 2\n"))
                    entry.size = len(label)
                    tar.addfile(entry, io.BytesIO(label))
                else:
                    tar.addfile(entry)
    return content.getvalue()


class Shards:
    """Two shards and an index by number."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def case(self, number: int) -> None:
        """Read all: each sample that a plain reader finds, once, or a refusal."""
        rng = random.Random(f"shard {number}")
        contents = [tar_of(rng), tar_of(rng)]
        kind = number % 4
        index = {"wids_version": 1, "shardlist": [{"url": f"{n}.tar", "nsamples": SAMPLES} for n in range(2)]}
        if kind == 0:
            changed = bytearray(contents[1])
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(len(changed)) if rng.random() < 0.5 else 512 * rng.randrange(len(changed) // 512)
                changed[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
            contents[1] = bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.3 else changed)
        elif kind == 1:
            contents[1] = odd_entry(rng)
        elif kind == 2:
            found = rng.choice(places(index))
            parent(index, found)[found[-1]] = rng.choice(ODD)
        else:
            index["shardlist"][rng.randrange(2)]["nsamples"] = rng.choice(
                (0, 1, SAMPLES - 1, SAMPLES + 1, 10**9, 10**12)
            )  # type: ignore[index]
        for n, content in enumerate(contents):
            (self.root / f"{n}.tar").write_bytes(content)
        (self.root / "x.json").write_text(json.dumps(index))
        by_index = kind > 1 or rng.random() < 0.5
        shards = find_shards(str(self.root / ("x.json" if by_index else "{0..1}.tar")))
        batches = ShardBatches(shards, Share(4, rng.random() < 0.5, EpochPosition()))
        batches.share = batches.share._replace(train=False)
        got = Counter((raw.label, hashlib.sha256(raw.image).hexdigest()) for batch in batches for raw in batch)
        want = Counter[tuple[int, str]]()
        for n in range(2):
            want += self.plain(self.root / f"{n}.tar")
        if got - want:
            raise Wrong(f"{sum((got - want).values())} samples that are in no shard")
        if want - got and kind != 0:  # Python's own reader goes on after a broken header too
            raise Wrong(f"{sum((want - got).values())} of {sum(want.values())} samples left out in silence")

    def plain(self, path: Path) -> Counter[tuple[int, str]]:
        """What Python's own reader finds."""
        found: list[tuple[str, dict[str, bytes]]] = []  # files of one sample lie beside each other
        with tarfile.open(path) as tar:
            for entry in tar:
                data = tar.extractfile(entry) if entry.isreg() else None
                if data is not None:
                    stem, _, ending = entry.name.rpartition(".")
                    if not stem or stem.endswith("/"):
                        continue
                    if not found or found[-1][0] != stem:
                        found.append((stem, {}))
                    found[-1][1][ending] = data.read()
        return Counter(
            (int(files["cls"]), hashlib.sha256(files.get("png", b"")).hexdigest())
            for _, files in found
            if "cls" in files
        )


def family(root: Path, count: int) -> Family:
    """Shards and indexes."""
    return Family("shards and indexes", count, Shards(root).case, named=("0.tar", "1.tar", "x.json", "x/"))
