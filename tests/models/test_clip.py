"""CLIP adapter: local weights, right preprocessing, vectors that depend on the image alone, readable refusals."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from webdistill.core.errors import UserError
from webdistill.models import clip

import open_clip  # isort: skip  (after webdistill, which lets torchvision import)

VIT = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
CONV = {
    "timm_model_name": "test_efficientnet",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "image_size": 32,
}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def folder_with(place: Path, vision: dict, resize_mode: str = "squash") -> Path:
    """A randomly initialised model as open_clip's own config and safetensors."""
    config = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": vision, "text_cfg": TEXT},
        "preprocess_cfg": {
            "mean": [0.5, 0.4, 0.3],
            "std": [0.2, 0.3, 0.4],
            "interpolation": "bicubic",
            "resize_mode": resize_mode,
        },
    }
    place.mkdir()
    (place / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    net = open_clip.CLIP(**config["model_cfg"])
    save_file(
        {k: v.contiguous() for k, v in net.state_dict().items()},
        place / "open_clip_model.safetensors",
    )
    return place


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, 70, (count, 2))
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in sizes]


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with(tmp_path_factory.mktemp("clip") / "vit", VIT)


@pytest.fixture(scope="module")
def conv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with(tmp_path_factory.mktemp("clip") / "conv", CONV, "shortest")


@pytest.mark.parametrize("kind", ["vit", "conv"])
def test_equals_open_clip(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    model = clip.load(f"local-dir:{folder}", None, precision="float32")
    net, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    images = pictures(5)
    with torch.no_grad():
        wanted = net.eval().encode_image(
            torch.stack([preprocess(i) for i in images]), normalize=True
        )
        texts = net.encode_text(tokenizer(["a cat", "a dog"]), normalize=True)
    torch.testing.assert_close(model.encode_images(images), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode_texts(["a cat", "a dog"]), texts, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["vit", "conv"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_vector_depends_on_its_image_alone(
    kind: str, precision: clip.Precision, request: pytest.FixtureRequest
) -> None:
    model = clip.load(f"local-dir:{request.getfixturevalue(kind)}", None, precision=precision)
    pixels = model.prepare(pictures(2 * clip.BATCH + 5))
    together = model.encode_prepared(pixels)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.encode_prepared(pixels[order]), together[order])
    assert torch.equal(model.encode_prepared(pixels[7:8]), together[7:8])
    torch.testing.assert_close(together.norm(dim=1), torch.ones(len(pixels)))


def test_the_header_tells_weights_and_preprocessing(vit: Path) -> None:
    header = clip.load(f"local-dir:{vit}", None).header
    assert json.loads(header["preprocess"])["mean"] == [0.5, 0.4, 0.3]
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(vit / "open_clip_model.safetensors").items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    assert header["weights_sha256"] == digest.hexdigest()


def test_a_flipped_byte_is_refused_where_sums_are_given(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", VIT)
    weights = folder / "open_clip_model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  {weights.name}\n")
    clip.load(f"local-dir:{folder}", None)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match="altered"):
        clip.load(f"local-dir:{folder}", None)


def test_local_files_of_a_builtin_model_need_no_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "ViT-S-32-alt"
    net = open_clip.create_model(name)
    path = tmp_path / "w.safetensors"
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    model = clip.load(name, str(path), precision="float32")
    assert model.encode_texts(["x"]).shape == (1, 256)
    assert clip.local_files(name, str(path)) == [path]


@pytest.mark.parametrize(
    ("model", "pretrained", "words"),
    [
        ("local-dir:/nowhere", None, "open_clip_config.json does not exist"),
        ("VIT-B32", "openai", "did you mean"),
        ("ViT-B-32", None, "embed.pretrained is missing"),
        ("ViT-B-32", "laion2b", "is no tag"),
        ("ViT-B-32", "openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32", "/nowhere/w.safetensors", "does not exist"),
        ("local-dir:/nowhere", "openai", "must be null"),
    ],
)
def test_refusals(model: str, pretrained: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        clip.load(model, pretrained)


def test_no_pickle_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(UserError, match="safetensors"):
        clip.load("ViT-B-32", str(path))


def test_weights_of_unknown_preprocessing_are_refused(tmp_path: Path) -> None:
    """ViT-L-14 exists with two normalisations; a file that does not name its tag would be guessed wrong."""
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="kinds of preprocessing"):
        clip.load("ViT-L-14", str(path))


def test_broken_weights_give_one_line(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "m", VIT)
    (folder / "open_clip_model.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        clip.load(f"local-dir:{folder}", None)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))  # of no user's
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        clip.load("ViT-B-32", "laion2b_s34b_b79k")
    assert time.monotonic() - begun < 6
