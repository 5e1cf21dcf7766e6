"""Save and load models: safetensors, configuration and model card, on disk or on a hub."""

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData, try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from timm.models import save_for_hf
from torch import nn

from botvision.attention import MHSA2d
from botvision.backbone.botnet import BoTNet
from botvision.backbone.counts import count
from botvision.backbone.registry import create_model
from botvision.backbone.weights import unwrapped
from botvision.files import UNFINISHED, clear_leftovers, held

PAPER = "arXiv 2101.11605"


def save_pretrained(
    model: nn.Module, folder: str | Path, *, how_trained: str, licence: str = "apache-2.0", name: str | None = None
) -> Path:
    """Write a model as a folder that `from_pretrained` and `timm.create_model("local-dir:…")` open.

    Writes `model.safetensors`, `config.json` (with the options that rebuild the model) and the model card `README.md`,
    each of them whole or not at all.

    Args:
        model: a classifier from `create_model`, its head included.
        folder: made where it is not there.
        how_trained: data, recipe and metrics, in plain words; for the model card.
        licence: of the weights, by its identifier on the hub.
        name: what the card tells its readers to open; none for the folder.

    Returns:
        The folder.

    Raises:
        ValueError: a model that timm did not build, was fused or has options that no text file can hold; nothing said
            about its training.
        FileExistsError: a file where the folder should be.
    """
    model, folder = unwrapped(model), Path(folder)
    if not hasattr(model, "pretrained_cfg") or not hasattr(model, "num_classes"):
        raise ValueError(f"only whole models from create_model can be saved so; got {type(model).__name__}")
    if not how_trained.strip():
        raise ValueError("how_trained is empty; say on what data and how, or that the weights are initial ones")
    options = model.model_args if isinstance(model, BoTNet) else {}
    unwritable = {key: value for key, value in options.items() if not is_plain(value)}
    if unwritable or vars(model).get("is_fused"):
        raise ValueError(
            f"cannot be written so that it opens again: {unwritable or 'a fused model'}; give options by "
            "their timm names (act_layer='silu'), and save a model before fuse"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    plain: Any = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # as safetensors wants
    plain.pretrained_cfg = dict(plain.pretrained_cfg, license=licence, input_size=input_size(model))
    prefix = f"{UNFINISHED}{folder.name}-"
    clear_leftovers(folder.parent, prefix=prefix)
    with TemporaryDirectory(dir=folder.parent, prefix=prefix) as unfinished, held(Path(unfinished)):
        save_for_hf(plain, unfinished, model_args=options or None, safe_serialization=True)
        card = model_card(model, how_trained=how_trained, licence=licence, name=name or str(folder))
        (Path(unfinished) / "README.md").write_text(card, encoding="utf-8")
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
        ValueError: options that the model lacks, or with which these weights do not fit it.
    """
    path = Path(source)
    if path.is_dir():
        missing = [name for name in ("config.json", "model.safetensors") if not (path / name).is_file()]
        if missing:
            raise FileNotFoundError(f"no {missing[0]} in {source}; give a folder that save_pretrained wrote")
        address = f"local-dir:{path}"
    elif isinstance(source, Path) or path.exists() or source.startswith(("/", ".", "~")) or source.count("/") != 1:
        raise FileNotFoundError(f"no folder {source}; give one that save_pretrained wrote, or owner/name on the hub")
    else:
        address = f"hf-hub:{source}"
    try:
        model = create_model(address, pretrained=True, **options)
        weights = (
            path / "model.safetensors" if path.is_dir() else try_to_load_from_cache(str(source), "model.safetensors")
        )
        if isinstance(weights, str | Path):
            check_filled(model, weights)
        return model
    except SafetensorError as error:
        raise ValueError(f"{source}: its weights are not whole ({error}); write or download them anew") from error
    except RuntimeError as error:  # torch's list of names and shapes, on several lines
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} does not fit a model with {options}: {reason}; leave the options out") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        short = reason if len(reason) < 600 else f"{reason[:300]}; correct its config.json"
        raise ValueError(f"{source}: {short}") from error
    except (TypeError, AttributeError, KeyError, AssertionError, IndexError) as error:  # of a configuration that is odd
        raise ValueError(
            f"{source} describes no model that can be built: {type(error).__name__}: {error}; give a folder that "
            "save_pretrained wrote"
        ) from error
    except OSError as error:  # of huggingface_hub: no such repository, no network
        raise FileNotFoundError(f"neither a folder nor on the hub: {source}; {error}") from error


def check_filled(model: nn.Module, weights: str | Path) -> None:
    """Refuse a model with attention of ours whose options are not its weights': timm fills what fits, and is silent.

    Args:
        model: filled; its classifier may be another.
        weights: a safetensors file. Stages that the model has left out, of features, may be there.

    Raises:
        RuntimeError: tensors that the file lacks, or that the model has no place for.
    """
    if not any(isinstance(module, MHSA2d) for module in model.modules()):
        return
    with safe_open(weights, framework="pt") as file:
        names = set(file.keys())
    own = set(model.state_dict())
    stages = {name.partition(".")[0] for name in own}
    apart = [f"no {name} in the file" for name in sorted(own - names)]
    apart += [f"no place for {name}" for name in sorted(names - own) if name.partition(".")[0] in stages]
    apart = [one for one in apart if " fc." not in one and "num_batches_tracked" not in one]
    if apart:
        raise RuntimeError(", ".join(apart[:4]) + (f" and {len(apart) - 4} more" if len(apart) > 4 else ""))


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
    with TemporaryDirectory() as parent:
        folder = save_pretrained(model, Path(parent) / "model", how_trained=how_trained, licence=licence, name=repo_id)
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Add model").commit_url


def is_plain(value: Any) -> bool:
    """Whether a text file can hold an option."""
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def input_size(model: nn.Module) -> tuple[int, int, int]:
    """(channels, height, width) of the image that a model's tables, or timm's configuration, were made for."""
    config: dict[str, Any] = vars(model)["pretrained_cfg"]
    channels, *sides = config["input_size"]
    height, width = model.model_args["img_size"] if isinstance(model, BoTNet) else sides
    return getattr(model, "in_chans", channels), height, width


def model_card(model: nn.Module, *, how_trained: str, licence: str, name: str) -> str:
    """What anyone needs to know before they use the weights."""
    architecture = vars(model)["pretrained_cfg"]["architecture"]
    channels, height, width = input_size(model)
    counts = count(model, (height, width))
    free = "; any other size without a rebuild" if isinstance(model, BoTNet) else ""
    rows = {
        "architecture": f"`{architecture}`" + (f", Bottleneck Transformer ({PAPER})" if free else ""),
        "parameters": f"{counts.parameters:,}",
        "multiply-adds": f"{counts.madds / 1e9:.3f}G at the input below",
        "classes": str(model.num_classes),
        "input": f"{channels} × {height} × {width}{free}",
        "options": f"`{json.dumps(model.model_args)}`" if isinstance(model, BoTNet) else "timm's",
        "licence": licence,
    }
    data = ModelCardData(license=licence, library_name="timm", pipeline_tag="image-classification", tags=["botnet"])
    table = "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
    use = f'from botvision import from_pretrained\n\nmodel = from_pretrained("{name}")'
    text = f"# {architecture}\n\n{table}\n\n## How it was trained\n{how_trained}\n\n## Use\n```python\n{use}\n```\n"
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{text}"))
