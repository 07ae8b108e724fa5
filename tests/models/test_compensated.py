"""Compensated students, in memory and on disk (KDCI, arXiv 2403.19539)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.compensations import ATTENTIONS, K, lively, make, naive
from webdistill.core.errors import UserError
from webdistill.core.files import sha256_file
from webdistill.models.checkpoint import load_network, save_network
from webdistill.models.classifier import Classifier
from webdistill.models.projected import Projected
from webdistill.models.zoo import build

CARD: dict[str, object] = {
    "architecture": "resnet8", "classes": ["a", "b", "c"], "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3,
}  # fmt: skip


def student(
    kind: str, query: str = "logits", attention: str = "additive", fuse: str = "add"
) -> Classifier:
    torch.manual_seed(3)
    net = build("resnet8", K)
    if kind == "simkd":
        net = Projected(net, build("wrn-10-1", K), 8)
    points, shares = torch.randn(4, 5), torch.tensor([0.4, 0.3, 0.2, 0.1])
    inputs = K if query == "logits" else net.fc.in_features
    made = make(attention, points, shares, True, query, inputs, net.compensated, True, fuse)
    net.compensation = lively(made)
    made.unit.fill_(0.7)
    made.square.fill_(2.0)
    made.centre.uniform_(-0.1, 0.1)
    made.mean.uniform_(-1, 1)
    return net.eval()


@torch.no_grad()
def answers(net: Classifier, raw: bool = False) -> Tensor:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    kept, net.compensation = net.compensation, None if raw else net.compensation
    logits: Tensor = net(images)
    net.compensation = kept
    return logits


@pytest.mark.parametrize("query", ["logits", "features"])
@pytest.mark.parametrize("kind", ["kd", "simkd"])
@torch.no_grad()
def test_a_students_answer_is_the_raw_one_and_the_naive_sum(kind: str, query: str) -> None:
    """Of a projected student every position of the maps is compensated, and the teacher's classifier reads them."""
    net = student(kind, query)
    compensation, net.compensation = net.compensation, None
    images = torch.randn(3, 3, 32, 32)
    maps = net.features(images)
    pooled = maps.mean((2, 3))
    raw = net.fc(pooled)
    assert compensation is not None
    compensation.load_state_dict(compensation.as_it_was(), strict=False)
    rows = (raw if query == "logits" else pooled).tolist()
    added = torch.tensor([naive(compensation, row)[2] for row in rows])
    net.compensation = compensation
    moved = maps + added[:, :, None, None] if kind == "simkd" else maps
    torch.testing.assert_close(net.features(images), moved, atol=1e-5, rtol=1e-5)
    wanted = raw + (added @ net.fc.weight.T if kind == "simkd" else added)
    torch.testing.assert_close(net(images), wanted, atol=1e-4, rtol=1e-4)
    assert float((wanted - raw).abs().max()) > 1e-2


def save(folder: Path, net: Classifier, which: Any = "compensated") -> None:
    projected = {"projector": {"classifier_of": "wrn-10-1", "side": 8}}
    save_network(folder, net, CARD | (projected if isinstance(net, Projected) else {}), which)


def change_card(folder: Path, change: Any) -> None:
    card = json.loads((folder / "config.json").read_text())
    change(card)
    (folder / "config.json").write_text(json.dumps(card))


@pytest.mark.parametrize("fuse", ["add", "linear"])
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("which", ["compensated", "raw"])
@pytest.mark.parametrize("kind", ["kd", "simkd"])
def test_saving_changes_no_answer(
    tmp_path: Path, kind: str, which: str, attention: str, fuse: str
) -> None:
    net = student(kind, "features", attention, fuse)
    save(tmp_path, net, which)
    assert net.compensation is not None, "saving takes nothing away"
    wanted = {"compensated": answers(net), "raw": answers(net, raw=True)}
    assert float((wanted["compensated"] - wanted["raw"]).abs().max()) > 1e-2
    for asked, given in (("compensated", "compensated"), ("raw", "raw"), (None, which)):
        found = answers(load_network(tmp_path, asked).net)
        torch.testing.assert_close(found, wanted[given], atol=1e-5, rtol=1e-5)
    (tmp_path / "compensation.safetensors").unlink()
    change_card(tmp_path, lambda card: card.pop("compensation"))
    alone = answers(load_network(tmp_path).net)
    torch.testing.assert_close(alone, wanted["raw"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["kd", "simkd"])
@torch.no_grad()
def test_the_mean_compensation_is_added_to_every_answer(tmp_path: Path, kind: str) -> None:
    net = student(kind)
    save(tmp_path, net)
    compensation: Any = net.compensation
    added = compensation.mean
    wanted = answers(net, raw=True) + (net.fc.weight @ added if kind == "simkd" else added)
    found = answers(load_network(tmp_path, "mean").net)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_students_of_earlier_versions_have_neither_unit_nor_mean_nor_fuse(tmp_path: Path) -> None:
    net = student("kd")
    compensation: Any = net.compensation
    compensation.load_state_dict(compensation.as_it_was(), strict=False)
    save(tmp_path, net)
    path = tmp_path / "compensation.safetensors"
    tensors = load_file(path)
    for name in ("unit", "centre", "square", "seen", "mean"):
        del tensors[name]
    save_file(tensors, path)
    change_card(tmp_path, lambda card: card["compensation"].pop("fuse"))
    change_card(tmp_path, lambda card: card["compensation"].update(sha256=sha256_file(path)))
    torch.testing.assert_close(answers(load_network(tmp_path).net), answers(net))


@pytest.mark.parametrize("kind", ["kd", "simkd"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, _: t.clear(), "does not exist"),
        (lambda t, _: t["fuse.weight"].neg_(), "has sha256"),
        (lambda t, card: card.update(attention="dot"), "does not fit"),
        (lambda t, card: card.update(query="features"), "does not fit"),
        (lambda t, card: t.pop("prior"), "does not fit"),
        (lambda t, card: t.pop("prototypes"), "does not fit"),
        (lambda t, card: t.update(prototypes=torch.ones(4)), "does not fit"),
        (lambda t, card: t.update(more=torch.ones(4)), "does not fit"),
        (lambda t, card: card.update(fuse="linear"), "does not fit"),
        (lambda t, card: card.update(inference="both"), "compensation.inference"),
    ],
)  # fmt: skip
def test_a_compensation_that_is_not_the_cards_is_refused_in_one_line(
    tmp_path: Path, kind: str, change: Any, message: str
) -> None:
    save(tmp_path, student(kind))
    path = tmp_path / "compensation.safetensors"
    tensors = {name: each.clone() for name, each in load_file(path).items()}
    change_card(tmp_path, lambda card: change(tensors, card["compensation"]))
    path.unlink()
    if tensors:
        save_file(tensors, path)
    if message == "does not fit":
        change_card(tmp_path, lambda card: card["compensation"].update(sha256=sha256_file(path)))
    with pytest.raises(UserError, match=message) as caught:
        load_network(tmp_path)
    assert "\n" not in str(caught.value)
