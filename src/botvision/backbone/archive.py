"""Guards before weights are used: archives that unpack to more, tensors that are not there."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def check_archive(path: Path) -> None:
    """Refuse a torch file that would unpack to more than it is: torch stores its records as they are.

    Raises:
        ValueError: compressed records, or records that lie in each other.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is no whole archive: {error}; write it again") from error
    size = path.stat().st_size
    if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
        raise ValueError(f"{path} unpacks to more than its {size:,} bytes, as no torch file does; do not open it")


def check_tensors(state: Mapping[Any, Any], path: str | Path) -> None:
    """Refuse a state dict that is none, or whose tensors claim more numbers than the file holds.

    Raises:
        ValueError: names that are no text, values that are no tensors, sparse or expanded ones.
    """
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{path} holds no state dict; give a file with tensors by name")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise ValueError(f"{path}: {name:.80} is a sparse or quantised tensor; save it as a dense one")
        if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
            raise ValueError(
                f"{path}: {name:.80} claims {tensor.numel():,} numbers that the file does not hold; do not open it"
            )
