"""Teachers and students on disk: a folder with safetensors and a JSON card, never a pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from webdistill.core.errors import UserError
from webdistill.core.files import read_json, sha256_file, write_json
from webdistill.core.params import Section
from webdistill.models.cifar import Classifier
from webdistill.models.zoo import build

WEIGHTS, CARD = "weights.safetensors", "config.json"
Triple = tuple[float, float, float]


class Card(Section):
    """What must be known of a network besides its weights."""

    architecture: Annotated[str, Field(description="name in webdistill.models.zoo")]
    classes: Annotated[tuple[str, ...], Field(min_length=2, description="names in output order")]
    image_size: Annotated[int, Field(ge=8, description="side of the input, px")]
    mean: Annotated[Triple, Field(description="per-channel mean subtracted from RGB in [0, 1]")]
    std: Annotated[Triple, Field(description="per-channel divisor")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="of the weights file")]
    name: str = ""
    parameters: int = 0
    trained_on: str = ""
    test_accuracy: float | None = None
    licence: str = ""


@dataclass(frozen=True)
class Network:
    """A network in eval mode whose weights take no gradient, and its card."""

    net: Classifier
    card: Card


def load_network(folder: Path) -> Network:
    """A teacher or student: a folder with `weights.safetensors` and `config.json` (its card), in eval mode.

    Raises UserError when the card lacks a key, the file's hash differs from the card, or names or shapes of the
    tensors do not fit the architecture.
    """
    path, card_path = folder / WEIGHTS, folder / CARD
    try:
        card = Card.model_validate_json(json.dumps(read_json(card_path)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{card_path}: key '{key}': {first['msg'].lower()}") from None
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist")
    found = sha256_file(path)
    if found != card.sha256:
        raise UserError(
            f"{path} has sha256 {found[:12]}..., {card_path} says {card.sha256[:12]}...; "
            "restore the file or correct the card"
        )
    net = build(card.architecture, len(card.classes))
    load_weights(net, path, card.architecture)
    net.eval().requires_grad_(False)
    return Network(net.to(memory_format=torch.channels_last), card)  # type: ignore[call-overload]


def load_weights(net: Classifier, path: Path, architecture: str) -> None:
    """Copy a file's tensors (any float type) into the network; every name and shape must fit."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no readable safetensors file: {error}") from None
    own = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    for name, tensor in own.items():
        if name not in tensors:
            raise UserError(f"{path} lacks tensor '{name}' of architecture {architecture}")
        if tensors[name].shape != tensor.shape:
            raise UserError(
                f"{path}: tensor '{name}' has shape {list(tensors[name].shape)}, "
                f"{architecture} needs {list(tensor.shape)}; does the class list fit?"
            )
    if extra := sorted(k for k in set(tensors) - set(own) if not k.endswith("num_batches_tracked")):
        raise UserError(f"{path} holds tensor '{extra[0]}', which {architecture} does not have")
    net.load_state_dict(tensors, strict=False)


def weights(net: torch.nn.Module) -> dict[str, Tensor]:
    """The tensors worth keeping: weights and BN statistics, contiguous, without BN's step counters."""
    return {
        k: v.detach().contiguous()
        for k, v in net.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }


def save_network(folder: Path, net: Classifier, card: dict[str, object]) -> None:
    """Write `weights.safetensors` and `config.json` (a Card; its sha256 is filled in here)."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(net), folder / WEIGHTS)
    write_json({**card, "sha256": sha256_file(folder / WEIGHTS)}, folder / CARD)
