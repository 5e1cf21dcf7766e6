"""Weights out: a folder of safetensors, configuration and model card, on disk or on the hub."""

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from timm.models import save_for_hf
from torch import nn

from botvision.backbone.botnet import BoTNet
from botvision.backbone.registry import create_model

PAPER = "arXiv 2101.11605"


def save_pretrained(model: nn.Module, folder: str | Path, *, how_trained: str, licence: str = "apache-2.0") -> Path:
    """Write a model as a folder that `from_pretrained` and `timm.create_model("local-dir:…")` open.

    Writes `model.safetensors`, `config.json` (with the options that rebuild the model) and the model card `README.md`,
    each of them whole or not at all.

    Args:
        model: from `create_model`.
        folder: made where it is not there.
        how_trained: data, recipe and score, in plain words; for the model card.
        licence: of the weights, by its identifier on the hub.

    Returns:
        The folder.

    Raises:
        ValueError: a model that timm did not build, or nothing said about its training.
    """
    if not hasattr(model, "pretrained_cfg"):
        raise ValueError(f"only models from create_model can be saved so; got {type(model).__name__}; build it by name")
    if not how_trained.strip():
        raise ValueError("how_trained is empty; say on what data and how, or that the weights are initial ones")
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # as safetensors wants
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as unfinished:
        options = model.model_args if isinstance(model, BoTNet) else None
        save_for_hf(plain, unfinished, model_args=options, safe_serialization=True)
        (Path(unfinished) / "README.md").write_text(model_card(model, how_trained=how_trained, licence=licence))
        folder.mkdir(exist_ok=True)
        for file in Path(unfinished).iterdir():
            file.replace(folder / file.name)
    return folder


def from_pretrained(source: str | Path, **options: Any) -> nn.Module:
    """Build and fill a model from a folder of `save_pretrained`, or from the hub.

    Args:
        source: a folder, or "owner/name" on the hub, which downloads.
        **options: change the model's, e.g. `num_classes`, `features_only`, `img_size`; tables are read at the new size.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: options that the model lacks.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"no config.json in {source}; give a folder that save_pretrained wrote")
        return create_model(f"local-dir:{path}", pretrained=True, **options)
    if path.is_absolute() or str(source).startswith(".") or str(source).count("/") != 1:
        raise FileNotFoundError(f"no folder {source}; give one that save_pretrained wrote, or owner/name on the hub")
    return create_model(f"hf-hub:{source}", pretrained=True, **options)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    how_trained: str,
    licence: str = "apache-2.0",
    private: bool = False,
    token: str | None = None,
) -> str:
    """Put what `save_pretrained` writes on the Hugging Face hub; returns the address of the commit.

    Args:
        model, how_trained, licence: as for `save_pretrained`.
        repo_id: "owner/name"; made where it is not there.
        private: whether a new repository is.
        token: a write token; none takes the one of `hf auth login`.
    """
    with TemporaryDirectory() as folder:
        save_pretrained(model, Path(folder) / "model", how_trained=how_trained, licence=licence)
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "model", commit_message="Add model")
    return str(commit)


def model_card(model: nn.Module, *, how_trained: str, licence: str) -> str:
    """What anyone needs to know before they use the weights."""
    config: dict[str, Any] = vars(model)["pretrained_cfg"]
    name, (channels, *size) = config["architecture"], config["input_size"]
    options: dict[str, Any] = model.model_args if isinstance(model, BoTNet) else {}
    height, width = options.get("img_size", size)
    data = ModelCardData(
        license=licence, library_name="timm", pipeline_tag="image-classification", tags=["botnet", "botvision"]
    )
    count = sum(p.numel() for p in model.parameters())
    rows = {
        "architecture": f"`{name}`, Bottleneck Transformer ({PAPER})" if options else f"`{name}`",
        "parameters": f"{count:,}",
        "classes": str(model.num_classes),
        "input": f"{channels} × {height} × {width}; other sizes need no rebuild" if options else f"{height} × {width}",
        "options": f"`{json.dumps(options)}`" if options else "timm's defaults",
        "licence": licence,
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
    use = 'from botvision import from_pretrained\n\nmodel = from_pretrained("this-folder")'
    text = f"# {name}\n\n{table}\n\n## How it was trained\n{how_trained}\n\n## Use\n```python\n{use}\n```\n"
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))
