"""Teachers and students on disk: a folder with weights and a JSON card. No pickle is ever executed.

Written as safetensors. A state dict that torch.save wrote is read, too, with a reader that knows tensors only.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PosixPath
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from webdistill.core.errors import UserError
from webdistill.core.files import read_json, sha256_file, write_json
from webdistill.core.section import Section
from webdistill.models.classifier import Classifier
from webdistill.models.compensation import Compensation, constant
from webdistill.models.memory import keep_freed_memory
from webdistill.models.names import Attention, Fuse, Query, refuse_beside
from webdistill.models.projected import Projected
from webdistill.models.zoo import build

WEIGHTS, CARD = "weights.safetensors", "config.json"
COMPENSATION = "compensation.safetensors"
Answers = Literal["compensated", "raw"]
Given = Literal["compensated", "raw", "mean"]  # mean: the same compensation for every image
TORCH_WEIGHTS = ("weights.pt", "weights.pth")  # read when there are no safetensors
# Keys under which training programs put the tensors; averaged weights come first, since the programs evaluate these.
INNER = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
)
# What training programs save beside the tensors: their arguments. Classes that hold values and run nothing.
INERT: list[Any] = [argparse.Namespace, SimpleNamespace, PosixPath]
COUNTERS = (
    "num_batches_tracked",
    "n_averaged",
)  # of BN and of AveragedModel; nothing here reads them
Triple = tuple[float, float, float]


class ProjectorCard(Section):
    """How a student was joined to its teacher's classifier (see webdistill.models.projected)."""

    classifier_of: Annotated[str, Field(description="the teacher's architecture")]
    side: Annotated[int, Field(ge=1, description="side of the maps that the projector sees")]
    inner: Annotated[
        int | None,
        Field(ge=0, description="width of the projector, 0 = none; earlier versions: C_t / 2"),
    ] = None
    signed: Annotated[
        bool, Field(description="it does not end in ReLU, as the teacher's maps do not")
    ] = False


class CompensationCard(Section):
    """How a student's answers are compensated (see webdistill.models.compensation)."""

    query: Query
    attention: Attention
    prior: Annotated[bool, Field(description="prototypes weighted by their prior")]
    fuse: Annotated[Fuse, Field(description="how it joins the answer")] = "add"
    inference: Annotated[Answers, Field(description="which answers the network gives")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description=f"of {COMPENSATION}")]


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
    projector: ProjectorCard | None = None
    compensation: CompensationCard | None = None

    @property
    def built_from(self) -> tuple[str, ...]:
        """Every architecture that is built to load this network."""
        owner = (self.projector.classifier_of,) if self.projector is not None else ()
        return (self.architecture, *owner)


@dataclass(frozen=True)
class Network:
    """A network in eval mode whose weights take no gradient, and its card."""

    net: Classifier
    card: Card


def load_network(folder: Path, answers: Given | None = None) -> Network:
    """A teacher or student: a folder with weights (see `weights_file`) and `config.json` (its card), in eval mode.

    `answers`: of a compensated student; None gives those that its card names. `mean` adds to every answer what the
    compensation was on average over the images that training measured it on. Raises UserError when the card lacks a
    key, a file's hash differs from the card, or names or shapes of the tensors do not fit the architecture.
    From here on the process keeps the memory that tensors free, see `keep_freed_memory`.
    """
    keep_freed_memory()
    card, path = read_card(folder), weights_file(folder)
    _check_hash(path, card.sha256)
    net = construct(card, folder)
    load_weights(net, path, card.architecture)
    if card.compensation is not None:
        compensation = _read_compensation(folder / COMPENSATION, card.compensation, net)
        given = answers or card.compensation.inference
        if given != "raw":
            net.compensation = (
                compensation if given == "compensated" else constant(compensation.mean)
            )
    net.eval().requires_grad_(False)
    return Network(net.to(memory_format=torch.channels_last), card)  # type: ignore[call-overload]  # not in torch's stubs


def _check_hash(path: Path, expected: str) -> None:
    found = sha256_file(path)
    if found != expected:
        raise UserError(
            f"{path} has sha256 {found[:12]}..., {path.parent / CARD} says {expected[:12]}...; "
            "restore the file or correct the card"
        )


def _read_compensation(path: Path, card: CompensationCard, net: Classifier) -> Compensation:
    if not path.is_file():
        raise UserError(f"{path} does not exist, but {path.parent / CARD} names a compensation")
    _check_hash(path, card.sha256)
    tensors = read_tensors(path)
    try:
        count, width = tensors["prototypes"].shape
        compensation = net.new_compensation(
            count, width, card.query, card.attention, card.prior, card.fuse
        )
        if "unit" not in tensors:  # of an earlier version, which took F as it was
            tensors |= compensation.as_it_was()
        compensation.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError):
        raise UserError(
            f"{path} does not fit the compensation that {path.parent / CARD} describes"
        ) from None
    return compensation


def read_card(folder: Path) -> Card:
    """The folder's `config.json`. Raises UserError naming the key that is wrong."""
    path = folder / CARD
    try:
        return Card.model_validate_json(json.dumps(read_json(path)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: key '{key}': {first['msg'].lower()}") from None


def weights_file(folder: Path) -> Path:
    """`weights.safetensors`, else `weights.pt` or `weights.pth`. Raises UserError when there is none."""
    for name in (WEIGHTS, *TORCH_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"weights file {folder / WEIGHTS} does not exist")


def construct(card: Card, folder: Path) -> Classifier:
    """A fresh network of the card's kind. `folder`: where the card lies; code from there is refused."""
    net = _build(card.architecture, card, folder)
    if card.projector is None:
        return net
    owner = _build(card.projector.classifier_of, card, folder)
    inner = card.projector.inner
    if inner is None:
        inner = max(owner.channels // 2, 1)
    return Projected(net, owner, card.projector.side, inner, card.projector.signed)


def _build(architecture: str, card: Card, folder: Path) -> Classifier:
    refuse_beside(architecture, folder)
    return build(architecture, len(card.classes), card.image_size)


def load_weights(net: Classifier, path: Path, architecture: str) -> None:
    """Copy a file's tensors (any float type) into the network; every name and shape must fit."""
    copy_into(net, read_tensors(path), str(path), architecture)


def copy_into(
    net: Classifier,
    tensors: Mapping[str, Tensor],
    source: str,
    architecture: str,
    free: Set[str] = frozenset(),
) -> list[str]:
    """Copy tensors into the network; every name and shape must fit, but for those of `free` (names of state_dict()).

    Networks of a library are known under two sets of names, ours and the library's; the tensors use either. -> names
    of `free` that were left as they are, since their tensor is missing or has another shape.
    """
    known = net.state_dict().keys() | net.library_names.keys()
    tensors = _unwrapped(tensors, known, source)
    own = {k: v for k, v in net.state_dict().items() if not _is_counter(k)}
    called = dict(zip(own, own, strict=True))  # our name -> theirs
    library = {ours: name for name, ours in net.library_names.items() if ours in own}
    names = set(own)
    if len(tensors.keys() & set(library.values())) > len(tensors.keys() & own.keys()):
        called |= library
        names = set(net.library_names) | set(called.values())
    left = [k for k in own if k in free and _shape(tensors, called[k]) != own[k].shape]
    for ours in [k for k in own if k not in left]:
        _check_tensor(tensors, called[ours], own[ours], source, architecture)
    unknown = sorted(set(tensors) - names)
    if extra := [k for k in unknown if not _is_counter(k) and not k.startswith(net.library_extras)]:
        raise UserError(f"{source} holds tensor '{extra[0]}', which {architecture} does not have")
    with torch.no_grad():
        for ours in [
            k for k in own if k not in left
        ]:  # state_dict() gives the network's own memory
            own[ours].copy_(tensors[called[ours]])
    return left


def _unwrapped(tensors: Mapping[str, Tensor], known: Set[str], source: str) -> Mapping[str, Tensor]:
    """Without what wrappers put before every name: `module.` (DataParallel), `_orig_mod.` (compile), `model.`, ...

    What stands beside the network, such as the weights of a loss, is left out with it. Raises UserError where two
    networks fit equally well.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not _is_counter(name)}
    while not tensors.keys() & known:
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            first, dot, rest = name.partition(".")
            if dot:
                groups.setdefault(first, {})[rest] = tensor
        fitting = {first: _known_ends(group, known) for first, group in groups.items()}
        most = max(fitting.values(), default=0)
        best = [first for first, count in fitting.items() if count == most]
        if not most:
            break
        if len(best) > 1:
            raise UserError(
                f"{source} holds several networks that fit, {' and '.join(sorted(best))}; save the tensors of one: "
                f"torch.save(net.{min(best)}.state_dict(), 'weights.pt')"
            )
        tensors = groups[best[0]]
    return tensors


def _known_ends(names: Iterable[str], known: Set[str]) -> int:
    """How many names are a known one, perhaps behind a prefix that ends in a dot."""
    parts = (name.split(".") for name in names)
    return sum(any(".".join(one[n:]) in known for n in range(len(one))) for one in parts)


def _shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


def _check_tensor(
    tensors: Mapping[str, Tensor], name: str, own: Tensor, source: str, architecture: str
) -> None:
    if name not in tensors:
        raise UserError(
            f"{source} lacks tensor '{name}' of architecture {architecture}; its first is '{min(tensors, default='')}'"
        )
    if tensors[name].shape != own.shape:
        raise UserError(
            f"{source}: tensor '{name}' has shape {list(tensors[name].shape)}, "
            f"{architecture} needs {list(own.shape)}; does the class list fit?"
        )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file or of a state dict that torch.save wrote.

    No pickle is executed: `weights_only` keeps its word from torch 2.6 on (CVE-2025-32434), which pyproject asks for.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is no readable safetensors file: {error}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on archives that are refused anyway
            with torch.serialization.safe_globals(INERT):
                found = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ):  # torch raises half a dozen types, with paragraphs on how to switch the check off
        raise UserError(
            f"{path} is damaged or holds more than tensors (nothing in it was executed); where you trust it, save "
            "its tensors alone: torch.save(net.state_dict(), 'weights.pt')"
        ) from None
    tensors = _state_dict(found, path)
    if not tensors and found != {}:
        raise UserError(
            f"{path} holds no dict of tensors, neither itself nor under {' or '.join(map(repr, INNER))}; write it "
            "with torch.save(net.state_dict(), 'weights.pt')"
        )
    return tensors


def _state_dict(found: object, path: Path) -> dict[str, Tensor]:
    """The named tensors in what a program has saved, which may have other things beside or around them; {} if none.

    Those under a key of INNER, the first that has any, or under the only key that has. Raises UserError where several
    others have.
    """
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        return {}
    if all(isinstance(value, Tensor) for value in found.values()):
        return found
    inner = {key: own for key, value in found.items() if (own := _state_dict(value, path))}
    chosen = [key for key in INNER if key in inner] or list(inner)
    if len(chosen) > 1 and chosen[0] not in INNER:
        raise UserError(
            f"{path} holds tensors under {' and '.join(map(repr, chosen))}; save those of one network: "
            "torch.save(net.state_dict(), 'weights.pt')"
        )
    return inner[chosen[0]] if chosen else {}


def _is_counter(name: str) -> bool:
    """Whether a tensor is a number of steps or of averaged networks, which nothing reads."""
    return name.rpartition(".")[2] in COUNTERS


def weights(net: torch.nn.Module) -> dict[str, Tensor]:
    """The tensors worth keeping: weights and BN statistics, contiguous, without BN's step counters."""
    return {k: v.detach().contiguous() for k, v in net.state_dict().items() if not _is_counter(k)}


def save_network(
    folder: Path, net: Classifier, card: dict[str, object], answers: Answers = "compensated"
) -> None:
    """Write `weights.safetensors` and `config.json` (a Card; what it says of files is filled in here).

    The compensation of a compensated student goes to a file of its own: the weights alone are the raw student.
    `answers`: which of the two `load_network` is to give.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compensation, net.compensation = net.compensation, None
    try:
        # copies: safetensors refuses layers that share a tensor
        held = {name: each.clone() for name, each in weights(net).items()}
        (folder / WEIGHTS).write_bytes(save(held))
    finally:
        net.compensation = compensation
    if compensation is not None:
        (folder / COMPENSATION).write_bytes(save(weights(compensation)))
        card = card | {
            "compensation": {
                "query": compensation.query,
                "attention": compensation.attention,
                "prior": compensation.use_prior,
                "fuse": compensation.fusing,
                "inference": answers,
                "sha256": sha256_file(folder / COMPENSATION),
            }
        }
    write_json({**card, "sha256": sha256_file(folder / WEIGHTS)}, folder / CARD)
