"""Save checkpoints atomically: written beside their target, synced, renamed; two are kept."""

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from botvision.engine.checkpoint import LAST, PREVIOUS
from botvision.files import whole_file


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's own writes to `$TMPDIR` and moves: across disks a copy, which a kill or a full disk halves."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a hidden file in the same folder, sync, rename; an older last.ckpt becomes previous.ckpt.

        Raises:
            OSError: it could not be written; the old file is as it was.
        """
        path = Path(path)
        keep = path.with_name(PREVIOUS) if path.name == LAST else None
        with whole_file(path, sync=True, keep=keep) as unfinished, unfinished.open("wb") as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:  # torch's writer, which hides the operating system's error
                hidden = next((e for e in causes(error) if isinstance(e, OSError)), None)
                if hidden is None:
                    raise
                raise hidden from error


def causes(error: BaseException) -> list[BaseException]:
    """An error and those that it came from."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain
