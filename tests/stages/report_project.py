"""A synthetic project with every file that the report reads: 100 candidates, hostile captions, planted truth."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from webdistill.core.files import write_json, write_manifest, write_table

CLASSES = ("cat", "dog", "<b>ship</b>")
HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>'
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FATES = (
    ["selected"] * 40
    + ["kept"] * 14
    + ["low_score"] * 12
    + ["low_margin"] * 8
    + ["too_small"] * 3
    + ["same"] * 5
    + ["leak"] * 4
    + ["takedown"] * 2
    + ["duplicate"] * 3
    + ["corrupt"] * 5
    + ["not_an_image"] * 2
    + ["opted_out"] * 2
)
CHOICES = "epoch,kept,kept_share,churn,class/cat,class/dog\n1,9,0.5,0,4,5\n2,12,0.6,0.1,6,6\n"
SHEETS = {"views.png": 20, "over_training.png": 300, "of_tomorrow.png": 21}  # -> side in px
FETCHED_NOT = ("duplicate", "corrupt", "not_an_image", "opted_out")


def webp(number: int, side: int = 32) -> bytes:
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(
        file, "WEBP", lossless=True
    )
    return file.getvalue()


def sheet_png(side: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image_id(number: int) -> str:
    return f"{number:032x}"


def _kind(fate: str) -> str:
    kinds = {
        "corrupt": "broken",
        "not_an_image": "not_image",
        "same": "near_duplicate",
        "duplicate": "exact_duplicate",
        "leak": "test_leak",
        "low_score": "junk",
        "low_margin": "wrong_keyword",
        "too_small": "tiny",
        "opted_out": "opt_out",
    }
    return kinds.get(fate, "clean")


def build_project(root: Path) -> None:
    """Every file the report reads, 100 candidates; row i has id i unless nothing was fetched."""
    for name in ("fetch/pool", "embed", "filter", "score/teacher", "select", "prototypes"):
        (root / "data" / name).mkdir(parents=True)
    (root / "experiments").mkdir()
    _write_collected(root / "data")
    _write_measured(root)


def _write_collected(data: Path) -> None:
    pooled = [i for i, fate in enumerate(FATES) if fate not in FETCHED_NOT]
    first = {"same": 0, "duplicate": 1}
    write_table(
        pa.table(
            {
                "row": pa.array(range(len(FATES)), pa.int64()),
                "id": [
                    image_id(i) if i in pooled else image_id(1) if f == "duplicate" else ""
                    for i, f in enumerate(FATES)
                ],
                "url": [
                    f"https://user:secret@host{i % 3}.example:8080/{i}?token=x" for i in range(100)
                ],
                "status": ["ok" if i in pooled else fate for i, fate in enumerate(FATES)],
                "licence": [("CC BY 4.0", "", HOSTILE)[i % 3] for i in range(100)],
                "licence_url": [
                    ("https://cc.example/by", "", "javascript:alert(3)")[i % 3] for i in range(100)
                ],
                "creator": [("Ann O'Neil", "", HOSTILE)[i % 3] for i in range(100)],
                "landing_page": ["" for _ in FATES],
                "detail": ["" for _ in FATES],
            }
        ),
        data / "fetch/ledger.parquet",
    )
    for shard, part in enumerate((pooled[:50], pooled[50:])):
        images = pa.array([{"bytes": webp(i), "path": None} for i in part], IMAGE)
        columns = {
            "id": [image_id(i) for i in part],
            "image": images,
            "width": pa.array([32] * len(part), pa.int32()),
            "height": pa.array([20 if FATES[i] == "too_small" else 32 for i in part], pa.int32()),
            "query": ["cat"] * len(part),
            "caption": [HOSTILE] * len(part),
        }
        write_table(pa.table(columns), data / f"fetch/pool/{shard:05d}.parquet")
    write_manifest(data / "fetch/pool")
    low = {"low_score": 0.1, "low_margin": 0.3}
    score = [low.get(FATES[i], 0.4) + i / 1000 for i in pooled]
    write_table(
        pa.table(
            {
                "id": [image_id(i) for i in pooled],
                "query": [HOSTILE] * len(pooled),
                "query_class": pa.array([0 if i % 2 else -1 for i in pooled], pa.int32()),
                "clip_class": pa.array([0 if i % 4 == 1 else i % 3 for i in pooled], pa.int32()),
                "score": pa.array(score, pa.float32()),
                "margin": pa.array([s - 0.4 for s in score], pa.float32()),
            }
        ),
        data / "embed/scores.parquet",
    )
    dropped = [i for i in pooled if FATES[i] not in ("selected", "kept")]
    write_table(
        pa.table(
            {
                "id": [image_id(i) for i in dropped],
                "reason": [FATES[i].replace("same", "duplicate") for i in dropped],
                "value": [0.1 + i / 1000 for i in dropped],
                "threshold": [0.25] * len(dropped),
                "other": [
                    image_id(first.get(FATES[i], 7)) if FATES[i] in ("same", "leak") else ""
                    for i in dropped
                ],
            }
        ),
        data / "filter/dropped.parquet",
    )
    kept = [i for i in pooled if FATES[i] in ("selected", "kept")]
    write_table(pa.table({"id": [image_id(i) for i in kept]}), data / "filter/kept.parquet")
    logits = np.zeros((len(pooled), 3), np.float16)
    logits[np.arange(len(pooled)), np.array(pooled) % 3] = np.array(pooled) / 20
    flat = pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), 3)
    write_table(
        pa.table({"id": [image_id(i) for i in pooled], "logits": flat}),
        data / "score/teacher/00000.parquet",
    )
    write_manifest(data / "score/teacher")
    selected = [i for i in pooled if FATES[i] == "selected"]
    write_table(
        pa.table(
            {
                "id": [image_id(i) for i in selected],
                "teacher_class": pa.array([i % 3 for i in selected], pa.int32()),
                "confidence": pa.array([0.5 + i / 100 for i in selected], pa.float32()),
            }
        ),
        data / "select/selection.parquet",
    )
    write_table(
        pa.table(
            {
                "id": [image_id(i) for i in selected],
                "prototype": pa.array([0 if i < 12 else 1 + i % 2 for i in selected], pa.int32()),
                "distance": pa.array([float(i % 7) for i in selected], pa.float32()),
            }
        ),
        data / "prototypes/assignment.parquet",
    )


def _write_measured(root: Path) -> None:
    card = {
        "classes": list(CLASSES),
        "image_size": 32,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2] * 3,
        "sha256": "0" * 64,
    }
    for folder, architecture in (("data/distill/student", "resnet8"), ("teacher", "wrn-16-2")):
        (root / folder).mkdir(parents=True)
        write_json({**card, "architecture": architecture}, root / folder / "config.json")
        write_manifest(root / folder)
    (root / "data/distill/curve.csv").write_text("epoch,loss,lr\n1,2.0,0.1\n2,1.5,\n3,1.25,0.05\n")
    (root / "data/distill/selection_history.csv").write_text(CHOICES)
    _csv(
        root / "data/distill/confounders.csv",
        [["prototype", "attention", "spread", "push", "asking"]],
    )
    sheets = root / "data/distill/pictures"
    sheets.mkdir()
    for name, side in SHEETS.items():
        (sheets / name).write_bytes(sheet_png(side))
    write_manifest(sheets)
    folder = root / "data/evaluate"
    folder.mkdir()
    write_json(
        {
            "test_images": 30,
            "top1": 0.8,
            "teacher_top1": 0.9,
            "agreement": 0.82,
            "ece": 0.04,
            "nll": 0.6,
            "brier": 0.3,
            "parameters": 78_042,
            "teacher_parameters": 691_674,
            "parameter_ratio": 0.11,
            "multiply_adds": 12_000_000,
            "teacher_multiply_adds": 101_000_000,
            "onnx_agreement": 1.0,
            "onnx_bytes": 320_000,
            "teacher_bytes": 2_766_696,
            "int8_top1": 0.79,
            "int8_agreement": 0.97,
            "int8_bytes": 100_000,
        },
        folder / "metrics.json",
    )
    rows = [["actual", "predicted"]] + [[CLASSES[i % 3], CLASSES[i * i % 3]] for i in range(30)]
    _csv(folder / "confusion.csv", rows)
    accuracies = [[name, 0.8, 10, 0.9] for name in CLASSES[:2]] + [[CLASSES[2], "", 0, ""]]
    _csv(
        folder / "per_class.csv", [["class", "accuracy", "count", "teacher_accuracy"], *accuracies]
    )
    _csv(
        folder / "calibration.csv",
        [["confidence", "accuracy", "count"], [0.4, 0.3, 10], [0.95, 0.9, 20]],
    )
    ids = [image_id(7), "f" * 32]
    images = pa.array([{"bytes": webp(1000 + i), "path": None} for i in range(2)], IMAGE)
    write_table(pa.table({"id": ids, "image": images}), root / "tests.parquet")
    parents = [{"same": 0, "duplicate": 1}.get(fate, -1) for fate in FATES]
    (root / "data/quickstart").mkdir(parents=True)
    write_table(
        pa.table(
            {
                "row": pa.array(range(len(FATES)), pa.int64()),
                "kind": [_kind(fate) for fate in FATES],
                "true_class": pa.array(
                    [-1 if f == "low_score" else i % 3 for i, f in enumerate(FATES)]
                ),
                "keyword_right": [f not in ("low_score", "low_margin") for f in FATES],
                "duplicate_of": pa.array(parents, pa.int64()),
                "shift": ["grey" if i % 2 else "" for i in range(len(FATES))],
            }
        ),
        root / "data/quickstart/truth.parquet",
    )


def _csv(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
