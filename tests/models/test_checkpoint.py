"""Networks on disk: what fits loads, everything else is refused in one line (promises M1, M2)."""

from __future__ import annotations

import json
import pickle
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from webdistill.core.errors import UserError
from webdistill.core.files import sha256_file
from webdistill.models.checkpoint import load_network, save_network
from webdistill.models.projected import Projected
from webdistill.models.zoo import build

CARD: dict[str, object] = {
    "architecture": "resnet8", "classes": ["a", "b", "c"], "image_size": 32,
    "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25],
}  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network(tmp_path / "net", build("resnet8", 3), CARD)
    return tmp_path / "net"


def change_card(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_network_answers_the_same(saved: Path) -> None:
    torch.manual_seed(0)
    net = build("resnet8", 3).eval()
    loaded = load_network(saved)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded.net(images), net(images))
    assert not loaded.net.training
    assert not any(p.requires_grad for p in loaded.net.parameters())


def test_float16_weights_are_accepted(tmp_path: Path) -> None:
    save_network(tmp_path / "half", build("resnet8", 3).half(), CARD)
    assert next(load_network(tmp_path / "half").net.parameters()).dtype == torch.float32


def test_a_flipped_byte_is_refused(saved: Path) -> None:
    path = saved / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="has sha256"):
        load_network(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": ["a", "b"]},
            r"'fc\.weight' has shape \[3, 64\].*needs \[2, 64\]; does the class list fit",
        ),
        ({"architecture": "resnet14"}, r"lacks tensor 'layer1\.1"),
        ({"architecture": "resnet9"}, "unknown architecture 'resnet9'"),
        ({"mean": [0.5]}, "key 'mean"),
        ({"colour": 1}, "key 'colour'"),
        ({"image_size": "32"}, "key 'image_size'"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    saved: Path, changes: dict[str, object], message: str
) -> None:
    change_card(saved, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_network(saved)
    assert "\n" not in str(caught.value)


def test_tensors_of_another_network_are_refused(saved: Path, tmp_path: Path) -> None:
    save_network(tmp_path / "big", build("resnet14", 3), CARD)
    with pytest.raises(UserError, match=r"holds tensor 'layer1\.1.*which resnet8 does not have"):
        load_network(tmp_path / "big")


def test_missing_files_are_named(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        load_network(tmp_path / "nothing")
    (saved / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors does not exist"):
        load_network(saved)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('the pickle was executed')",))


def test_a_pickle_in_place_of_the_weights_is_inert(saved: Path) -> None:
    path = saved / "weights.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    change_card(saved, sha256=sha256_file(path))
    with pytest.raises(UserError, match="no readable safetensors"):
        load_network(saved)


# -- weights that torch.save wrote -------------------------------------------------------------------------
def resave(folder: Path, content: object, name: str = "weights.pt") -> Path:
    """The folder's weights replaced by a file of torch.save, the card's hash corrected."""
    (folder / "weights.safetensors").unlink(missing_ok=True)
    torch.save(content, folder / name)
    change_card(folder, sha256=sha256_file(folder / name))
    return folder / name


State = dict[str, Tensor]
ARGUMENTS = Namespace(lr=0.1, out=Path("runs"), more=SimpleNamespace(epochs=90))


def prefixed(prefix: str, tensors: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def averaged(tensors: State) -> State:
    """As torch.optim.swa_utils.AveragedModel saves them."""
    return {"n_averaged": torch.tensor(5), **prefixed("module.", tensors)}


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module.", "model."])
@pytest.mark.parametrize("name", ["weights.pt", "weights.pth"])
def test_a_state_dict_of_torch_loads(saved: Path, key: str | None, prefix: str, name: str) -> None:
    net = load_network(saved).net
    tensors = {f"{prefix}{k}": v for k, v in net.state_dict().items()}
    resave(saved, tensors if key is None else {key: tensors, "epoch": 3}, name)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_network(saved).net(images), net(images))


@pytest.mark.parametrize(
    "around",
    [
        lambda own, other: {"state_dict": other, "state_dict_ema": own, "epoch": 1},  # timm
        lambda own, other: {"model": other, "model_ema": averaged(own), "args": ARGUMENTS},
        lambda own, other: averaged(own),
        lambda own, other: {
            "weights": own,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}},
        },
        lambda own, other: {"checkpoint": {"model": {"params": own}}},
        lambda own, other: {"state_dict": prefixed("net.", own) | {"loss.weight": torch.ones(3)}},
    ],
    ids=["timm", "torchvision", "averaged", "unknown-key", "nested", "beside-a-loss"],
)
def test_what_training_programs_write_around_a_state_dict(
    saved: Path, around: Callable[[State, State], object]
) -> None:
    """Averaged weights come before those of the last step; what is no part of the network is left out."""
    net = load_network(saved).net
    own = dict(net.state_dict())
    resave(saved, around(own, {name: torch.zeros_like(each) for name, each in own.items()}))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(load_network(saved).net(images), net(images))


@pytest.mark.parametrize(
    ("around", "said"),
    [
        (lambda own: {"student": own, "teacher": own}, "tensors under 'student' and 'teacher'"),
        (
            lambda own: prefixed("a.", own) | prefixed("b.", own),
            "several networks that fit, a and b;",
        ),
        (lambda own: {"state_dict": {}}, "holds no dict of tensors"),
        (lambda own: own | {"extra.weight": torch.ones(2)}, "holds tensor 'extra.weight'"),
    ],
)
def test_no_telling_which_network_is_meant(
    saved: Path, around: Callable[[State], object], said: str
) -> None:
    resave(saved, around(dict(load_network(saved).net.state_dict())))
    with pytest.raises(UserError, match=said):
        load_network(saved)


def test_safetensors_come_first(saved: Path) -> None:
    expected = load_network(saved).net.fc.weight
    torch.save(build("resnet8", 3).state_dict(), saved / "weights.pt")
    assert torch.equal(load_network(saved).net.fc.weight, expected)


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth"])
@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("around", [lambda bomb: bomb, lambda bomb: Namespace(out=bomb)])
def test_a_pickle_in_place_of_a_state_dict_is_inert(
    saved: Path, name: str, raw: bool, around: Callable[[Bomb], object]
) -> None:
    path = resave(saved, {"state_dict": {"fc.weight": around(Bomb())}}, name)
    if raw:
        path.write_bytes(pickle.dumps(Bomb()))
        change_card(saved, sha256=sha256_file(path))
    with pytest.raises(
        UserError, match="holds more than tensors .nothing in it was exec"
    ) as caught:
        load_network(saved)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], {"fc.weight": 3}, {"model": {"x": [1]}}, torch.zeros(2)]
)
def test_other_things_than_state_dicts_are_refused(saved: Path, content: object) -> None:
    resave(saved, content)
    with pytest.raises(UserError, match="holds no dict of tensors"):
        load_network(saved)


def test_a_whole_network_in_a_file_is_refused(saved: Path) -> None:
    resave(saved, build("resnet8", 3))
    with pytest.raises(UserError, match="holds more than tensors"):
        load_network(saved)


def test_a_state_dict_of_torch_must_fit_too(saved: Path) -> None:
    resave(saved, build("resnet14", 3).state_dict())
    with pytest.raises(UserError, match=r"weights\.pt holds tensor 'layer1\.1"):
        load_network(saved)
    resave(saved, build("resnet8", 4).state_dict())
    with pytest.raises(UserError, match=r"'fc\.weight' has shape \[4, 64\]"):
        load_network(saved)


def test_a_student_in_its_teachers_classifier_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Projected(build("resnet8", 3), build("wrn-10-1", 3), side=4).eval()
    save_network(
        tmp_path / "net", net, CARD | {"projector": {"classifier_of": "wrn-10-1", "side": 4}}
    )
    loaded = load_network(tmp_path / "net").net
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), net(images))
    assert loaded.features(images).shape == (2, 64, 4, 4)
