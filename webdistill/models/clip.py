"""CLIP through open_clip: find the weights (a local file before any network), preprocess rightly, embed in batches.

What a model is called, as in open_clip:
    local-dir:FOLDER    open_clip_config.json and a .safetensors file; SHA256SUMS is checked when it is there
    ViT-B-32            a built-in architecture; `pretrained` is a tag (laion2b_s34b_b79k) or a .safetensors file
    hf-hub:OWNER/REPO   config and weights of a Hugging Face repository
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from webdistill.core.errors import UserError
from webdistill.core.files import sha256_file
from webdistill.models.memory import keep_freed_memory
from webdistill.models.names import Precision
from webdistill.models.precision import low_precision

LOCAL, HUB = "local-dir:", "hf-hub:"
CONFIG = "open_clip_config.json"
BATCH = 32  # images a forward pass; larger ones are slower on CPUs (cache)
HUB_SECONDS = 5.0  # without this, open_clip tries an unreachable hub for most of a minute


@dataclass(frozen=True)
class ClipModel:
    """A model in eval mode without gradients, with everything needed to use it rightly."""

    net: nn.Module
    tokenizer: Callable[[list[str]], Tensor]
    resize: Callable[[Image.Image], Image.Image]  # RGB picture -> picture of the model's size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low_precision: bool  # bfloat16 autocast for images; texts are always float32
    device: torch.device
    header: Mapping[str, str]  # model, pretrained, weights_sha256, preprocess (JSON), precision

    def prepare(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of any size -> [N, 3, S, S] uint8, resized as open_clip does it (Pillow)."""
        arrays = [np.asarray(self.resize(image)) for image in images]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)

    @torch.inference_mode()
    def encode_prepared(self, pixels: Tensor) -> Tensor:
        """[N, 3, S, S] uint8 -> unit vectors [N, d] float32 on the CPU.

        Every forward pass has BATCH rows (the last one is padded). On a CPU an image's vector then depends neither
        on the others in its batch, nor on its place, nor on how the images are cut into calls: equal bit for bit
        with one thread count on one machine (tested with convolutional and transformer towers). GPUs promise less.
        """
        mean = torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=self.device).view(1, 3, 1, 1)
        out = []
        for start in range(0, len(pixels), BATCH):
            part = pixels[start : start + BATCH]
            count = len(part)
            full = torch.cat([part, part.new_zeros(BATCH - count, *part.shape[1:])])
            x = (full.to(self.device).float() / 255 - mean) / std
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.low_precision):
                vectors = self.net.encode_image(x)  # type: ignore[operator]  # of open_clip
            out.append(nn.functional.normalize(vectors[:count].float(), dim=1).cpu())
        return torch.cat(out) if out else torch.empty(0, 0)

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """RGB pictures of any size -> unit vectors [N, d] float32."""
        return self.encode_prepared(self.prepare(images)) if images else torch.empty(0, 0)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Captions -> unit vectors [N, d] float32 on the CPU. Long captions are cut by the tokenizer."""
        parts = []
        for start in range(0, len(texts), BATCH):
            tokens = self.tokenizer(list(texts[start : start + BATCH])).to(self.device)
            vectors = self.net.encode_text(tokens)  # type: ignore[operator]  # of open_clip
            parts.append(nn.functional.normalize(vectors.float(), dim=1).cpu())
        return torch.cat(parts)


@dataclass(frozen=True)
class _Source:
    """Where a model comes from: the name and weights for open_clip, and preprocessing that its config lacks."""

    name: str
    weights: str | None
    preprocess: dict[str, Any] | None


def load(model: str, pretrained: str | None, *, precision: Precision = "auto") -> ClipModel:
    """Load a model (see the module's docstring). Raises UserError naming `embed.model` or `embed.pretrained`.

    `precision`: auto = bfloat16 on a GPU or a processor with AMX (twice as fast), else float32.
    From here on the process keeps the memory that tensors free, see `keep_freed_memory`.
    """
    keep_freed_memory()
    source = _resolve(model, pretrained)
    try:
        net = open_clip.create_model(
            source.name, source.weights, force_preprocess_cfg=source.preprocess
        )
        tokenizer = open_clip.get_tokenizer(source.name)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"embed.model = {model!r} with embed.pretrained = {pretrained!r} cannot be loaded: {reason}"
        ) from None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    low = low_precision(precision, device)
    net = net.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    config = open_clip.get_model_preprocess_cfg(net)
    header = {
        "model": model,
        "pretrained": pretrained or "",
        "weights_sha256": weights_sha256(net),
        "preprocess": json.dumps(config, sort_keys=True),
        "precision": "bfloat16" if low else "float32",
    }
    mean, std = tuple(config["mean"]), tuple(config["std"])
    return ClipModel(net, tokenizer, _resize(config), mean, std, low, device, header)


def local_files(model: str, pretrained: str | None) -> list[Path]:
    """Files of this machine that the two names mean: config and weights; empty for tags and repositories."""
    if model.startswith(LOCAL):
        folder = Path(model.removeprefix(LOCAL))
        return sorted(p for p in folder.glob("*") if p.name == CONFIG or p.suffix == ".safetensors")
    return [Path(pretrained)] if pretrained and Path(pretrained).is_file() else []


def weights_sha256(net: nn.Module) -> str:
    """Hex sha256 over names, types, shapes and bytes of all weights and buffers, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def _resize(config: Mapping[str, Any]) -> Callable[[Image.Image], Image.Image]:
    """open_clip's own transform without its last two steps: conversion to a tensor, normalisation."""
    known = open_clip.transform.PreprocessCfg(**config)
    steps = open_clip.transform.image_transform_v2(known, is_train=False).transforms[:-2]

    def resize(image: Image.Image) -> Image.Image:
        for step in steps:
            image = step(image)
        return image

    return resize


def _resolve(model: str, pretrained: str | None) -> _Source:
    if model.startswith((LOCAL, HUB)):
        if pretrained:
            raise UserError(f"embed.pretrained must be null: {model!r} brings its own weights")
        if model.startswith(LOCAL):
            _check_folder(Path(model.removeprefix(LOCAL)))
        elif _cached(model.removeprefix(HUB)) is None:
            _check_hub(model)
        return _Source(model, None, None)
    known = open_clip.list_models()
    if model not in known:
        near = difflib.get_close_matches(model, known, n=3) or ["ViT-B-32", "local-dir:FOLDER"]
        raise UserError(
            f"embed.model = {model!r} is not known to open_clip; did you mean {' or '.join(near)}?"
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if not pretrained:
        raise UserError(
            f"embed.pretrained is missing; for {model}: {', '.join(tags)}, or a .safetensors file"
        )
    if Path(pretrained).is_file() or pretrained.endswith((".safetensors", ".bin", ".pt")):
        return _Source(model, pretrained, _preprocess_of_file(model, Path(pretrained), tags))
    if pretrained not in tags:
        raise UserError(
            f"embed.pretrained = {pretrained!r} is no tag of {model} ({', '.join(tags)}) and no file"
        )
    _check_activation(model, pretrained)
    card = open_clip.get_pretrained_cfg(model, pretrained)
    weights = _cached(card["hf_hub"]) if card.get("hf_hub") else None
    if weights is None:
        _check_hub(pretrained)
    return _Source(model, str(weights or pretrained), _preprocess_of_tag(model, pretrained))


def _check_folder(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"embed.model: {folder / CONFIG} does not exist; expected open_clip's config and weights there"
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"embed.model: no .safetensors file in {folder}")
    if unsafe := [p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth")]:
        raise UserError(
            f"embed.model: {folder / unsafe[0]} would be read instead of the .safetensors file; remove it"
        )
    sums = folder / "SHA256SUMS"
    for line in sums.read_text(encoding="utf-8").splitlines() if sums.is_file() else []:
        wanted, _, name = line.partition(" ")
        path = folder / name.strip(" *")
        if not path.is_file() or sha256_file(path) != wanted:
            raise UserError(
                f"{path} is missing or altered ({sums.name} has another sha256); check it out again"
            )


def _preprocess_of_tag(model: str, tag: str) -> dict[str, Any]:
    card = open_clip.get_pretrained_cfg(model, tag)
    return {
        k: card[k]
        for k in ("mean", "std", "interpolation", "resize_mode")
        if card.get(k) is not None
    }


def _preprocess_of_file(model: str, file: Path, tags: Sequence[str]) -> dict[str, Any] | None:
    """Weights do not say how their images were normalised, and a wrong guess goes unnoticed: the tag must tell."""
    if not file.is_file():
        raise UserError(f"embed.pretrained: {file} does not exist")
    if file.suffix != ".safetensors":
        raise UserError(
            f"embed.pretrained: {file} is no .safetensors file; other formats can run code when read"
        )
    stem = file.stem.lower().replace("-", "_")
    named = sorted((tag for tag in tags if tag in stem), key=len)
    if named:
        _check_activation(model, named[-1])
        return _preprocess_of_tag(model, named[-1])
    choices = {json.dumps(_preprocess_of_tag(model, tag), sort_keys=True) for tag in tags}
    if len(choices) > 1:
        raise UserError(
            f"embed.pretrained: weights of {model} exist with {len(choices)} kinds of preprocessing; put the tag into "
            f"the name of {file.name} (e.g. {tags[0]}.safetensors) or use local-dir:FOLDER with {CONFIG}"
        )
    return dict(json.loads(choices.pop())) if choices else None


def _check_activation(model: str, tag: str) -> None:
    wanted = bool(open_clip.get_pretrained_cfg(model, tag).get("quick_gelu"))
    if wanted != bool((open_clip.get_model_config(model) or {}).get("quick_gelu")):
        other = f"{model}-quickgelu" if wanted else model.removesuffix("-quickgelu")
        raise UserError(
            f"embed.model: the weights {tag!r} were trained as {other!r}; {model!r} gives wrong vectors"
        )


def _cached(repository: str) -> Path | None:
    """The weights of a repository in the local Hugging Face cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        name = "/".join(
            repository.split("/")[:2]
        )  # some entries name a file of the repository, too
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    weights = folder / "open_clip_model.safetensors"
    return weights if weights.is_file() else None


def _check_hub(wanted: str) -> None:
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310  (the user's own setting)
    try:
        urllib.request.urlopen(request, timeout=HUB_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # it answers
    except (OSError, ValueError):
        raise UserError(
            f"the weights of {wanted!r} are not on this machine and {address} cannot be reached; set embed.pretrained "
            "to a .safetensors file, or embed.model to local-dir:FOLDER"
        ) from None
