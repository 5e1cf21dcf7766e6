"""DataLoader that resumes inside an epoch; each rank's part, each sample's random numbers."""

import hashlib
import random
import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from botvision.engine.stopping import ENDING, WARNING

READING = "botvision_reading"  # in a checkpoint: how its epochs were given out
SEEDING = "botvision_seeding"  # in a checkpoint: version of the rule by which random numbers are drawn
RULE = 2


def seed_draws(*key: int | str) -> None:
    """Seed Python's, numpy's and torch's generators for what is drawn next, by what it is drawn for.

    No generator's state need be kept to draw the same again: not by a run that was stopped, by more workers, or by
    another number of processes.
    """
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


class EpochPosition:
    """Epoch and batch from which a loader reads, seen by worker processes too."""

    def __init__(self) -> None:
        self.memory = torch.zeros(2, dtype=torch.int64).share_memory_()

    def begin(self, epoch: int, batch: int = 0) -> None:
        """Set it, before the loader is iterated."""
        self.memory[0], self.memory[1] = epoch, batch

    @property
    def epoch(self) -> int:
        """Epoch to read."""
        return int(self.memory[0])

    @property
    def batch(self) -> int:
        """Batches of it that were taken before."""
        return int(self.memory[1])


class Share(NamedTuple):
    """A process's part.

    Attributes:
        batch_size: images a step.
        train: shuffled, whole batches, the same number for every rank; otherwise everything in its order.
        position: where the epoch begins.
        seed: of the order.
        rank, world: which process of how many.
    """

    batch_size: int
    train: bool
    position: EpochPosition
    seed: int = 0
    rank: int = 0
    world: int = 1

    def validation(self) -> "Share":
        """The same process's part of the validation data."""
        return self._replace(train=False, position=EpochPosition())


class EpochBatches(Sampler[list[int]]):
    """Batches of numbers for a rank: every one once an epoch, but in training fewer than ranks × batch_size."""

    def __init__(self, count: int, share: Share) -> None:
        self.count = count
        self.share = share

    def __len__(self) -> int:
        share = self.share
        if share.train:
            return self.count // (share.world * share.batch_size)
        return -(-len(range(share.rank, self.count, share.world)) // share.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        share, order = self.share, list(range(self.count))
        if share.train:
            random.Random(f"{share.seed} {share.position.epoch}").shuffle(order)
        mine = order[share.rank :: share.world]
        for number in range(share.position.batch, len(self)):
            yield mine[number * share.batch_size : (number + 1) * share.batch_size]


class Drawn(Dataset[Any]):
    """A dataset whose every sample has random numbers of its own: by the run's seed, the epoch, and its number."""

    def __init__(self, source: Any, share: Share) -> None:
        self.source = source
        self.share = share

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        seed_draws("sample", self.share.seed, self.share.position.epoch, index)
        read = getattr(self.source, "__getitems__", None)  # which may leave out what cannot be read
        return self.source[index] if read is None else read([index])[0]


class ResumableLoader(DataLoader[Any]):
    """A DataLoader that goes on inside an epoch: its `EpochPosition` says where, so it keeps no state of its own.

    Lightning takes a loader without these two methods for one that begins anew.

    Attributes:
        source: the dataset as it was given, without an epoch's random numbers.
        share: which part of the data it reads.
        reading: what the order of its images depends on: seed, devices, and workers where these read a stream.
    """

    def __init__(self, dataset: Any, *, share: Share, num_workers: int = 0, **options: Any) -> None:
        """As a DataLoader's; workers are kept between epochs, and leave signals to the main process."""
        self.source = dataset
        self.share = share
        more: dict[str, Any] = {"worker_init_fn": leave_signals} if num_workers else {}
        more |= {"persistent_workers": num_workers > 0, "pin_memory": torch.cuda.is_available(), **options}
        streams = isinstance(dataset, IterableDataset)  # which seeds its samples itself: they have no numbers
        read = Drawn(dataset, share) if share.train and not streams else dataset
        super().__init__(read, **{"num_workers": num_workers, **more})
        self.reading = [share.seed, share.world, *([num_workers] if streams else [])]

    def close(self) -> None:
        """End the workers, which no signal ends."""
        iterator = getattr(self, "_iterator", None)  # of workers that are kept
        if iterator is not None and self.num_workers:
            iterator._shutdown_workers()
            self._iterator = None

    def state_dict(self) -> dict[str, Any]:
        """Nothing: lightning's own progress says how many batches were taken."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing: see `EpochPosition`."""


def leave_signals(_: int) -> None:
    """In a worker: what ends a run reaches the main process too, which saves, and then ends its workers."""
    for name in (*ENDING, *([WARNING] if WARNING is not None else [])):
        signal.signal(name, signal.SIG_IGN)


def images_kept(count: int, *, fraction: float) -> int:
    """How many of so many images `data.val_fraction` keeps to evaluate on: at least one, and never all.

    Raises:
        ValueError: a fraction outside 0 … 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"data.val_fraction={fraction} must lie between 0 and 1; e.g. 0.2")
    return min(count - 1, max(1, round(fraction * count)))


def check_enough(what: str, *, samples: int, batches: int, share: Share) -> None:
    """Refuse a split that leaves a process without a batch, to all processes alike.

    Raises:
        ValueError: fewer images than a step of all processes takes.
    """
    if share.train and batches == 0:
        least = f"batch_size={share.batch_size} × {share.world} devices"
        raise ValueError(f"{what} has {samples} images, fewer than {least}; lower --data.batch_size or devices")
    if samples < share.world or batches == 0:
        raise ValueError(f"{what} has {samples} images, fewer than {share.world} devices; start fewer processes")


def resume_position(checkpoint: dict[str, Any], reading: Sequence[int]) -> tuple[int, int]:
    """Epoch and batch with which a resumed run begins.

    Raises:
        ValueError: inside an epoch, whose images were given out in another way than `reading` says: seed, devices,
            and workers where these matter.
    """
    try:
        batches = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        reading_then = list(checkpoint[READING])
    except (KeyError, TypeError) as error:
        raise ValueError(
            "the checkpoint to resume does not say what was read; begin anew, or put a copy back"
        ) from error
    if batches["is_last_batch"]:
        return checkpoint["epoch"] + 1, 0
    if list(reading) != reading_then[: len(reading)]:
        names = ("engine.seed", "devices", "data.workers")
        was = ", ".join(f"{name} {value}" for name, value in zip(names, reading_then, strict=False))
        raise ValueError(f"the run ended inside an epoch that was read with {was}; go on with the same, or begin anew")
    return checkpoint["epoch"], batches["current"]["processed"]


def await_evaluation(checkpoint: dict[str, Any]) -> None:
    """Have lightning evaluate first where the checkpoint was saved between an epoch's last step and its evaluation.

    Its loops then stand as those of a run that ended within its evaluation, which lightning begins again; as they were
    saved, it would leave the evaluation out.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches = loops["epoch_loop.batch_progress"]
    if batches["is_last_batch"] and batches["total"]["completed"] < batches["total"]["processed"]:
        for count in (batches["total"], batches["current"]):
            count["completed"] = count["processed"]
        evaluated = loops["epoch_loop.val_loop.batch_progress"]
        evaluated["total"] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        evaluated["current"] = dict.fromkeys(evaluated["current"], 0)


def end_epoch(checkpoint: dict[str, Any]) -> None:
    """Have lightning take an epoch for ended that no evaluation follows, saved after its last step.

    Its loops then stand as those of a save after an evaluation. As they were saved, lightning would count one epoch too
    few from there on: a save inside a later one would be taken for that epoch's begin, and its batches trained again.
    """
    loops = checkpoint["loops"]["fit_loop"]
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    if batches["is_last_batch"] and batches["total"]["completed"] < batches["total"]["processed"]:
        for name in ("total", "current"):
            batches[name]["completed"] = batches[name]["processed"]
            epochs[name]["processed"] += 1
