"""KDCI through the stages: which student is exported, and what evaluate measures of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from stages.distill.__main__ import main as distill
from stages.evaluate.__main__ import main as evaluate
from tests.stages.plugged import (
    COUNT,
    GREY,
    IDS,
    KEY,
    LABELS,
    POINTS,
    SHARES,
    SIZE,
    STUDENT,
    YAML,
    overrides,
)
from webdistill.core.files import read_json, write_manifest, write_table
from webdistill.harness.params import load
from webdistill.harness.stage import Stage
from webdistill.images.gate import encode
from webdistill.images.pool import IMAGE_TYPE
from webdistill.models.checkpoint import load_network, save_network
from webdistill.models.cost import parameters
from webdistill.models.zoo import build

TASK = [
    "task.classes=[a, b, c]", f"task.image_size={SIZE}", "task.threads=1", "task.teacher=teacher",
    "task.test_images=data/select/selection.parquet", "task.test_labels=data/select/selection.parquet",
    "evaluate.int8_max_loss=1",  # of a few noisy pictures
]  # fmt: skip


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The images, normalised; in the current folder all that both stages read."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
    pictures = [{"bytes": encode(Image.fromarray(each)), "path": None} for each in pixels]
    columns: dict[str, Any] = {"id": IDS, "weight": [1.0] * COUNT, "confidence": [1.0] * COUNT}
    columns |= dict.fromkeys(("label", "teacher_class", "keyword_class"), LABELS)
    table = pa.table(columns | {"image": pa.array(pictures, IMAGE_TYPE)})
    for folder in ("fetch/pool", "select", "prototypes"):
        Path("data", folder).mkdir(parents=True)
        write_table(table, Path("data", folder, "selection.parquet"))
    write_manifest(Path("data/fetch/pool"))
    save_file({"prototypes": POINTS, "prior": SHARES}, "data/prototypes/prototypes.safetensors")
    save_file({"prototypes": POINTS.flip(1), "prior": SHARES}, "data/prototypes/random.safetensors")
    card = {"classes": ["a", "b", "c"], "image_size": SIZE, "mean": GREY, "std": GREY}
    torch.manual_seed(0)
    save_network(Path("teacher"), build("wrn-10-1", 3), {**card, "architecture": "wrn-10-1"})
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def run_stage(name: str, **changes: Any) -> Stage:
    stage = Stage(name, load(YAML, [*TASK, *overrides(changes)]), None)
    (distill if name == "distill" else evaluate)(stage)
    stage.publish()
    return stage


def test_the_stage_exports_the_student_that_inference_and_dictionary_name(images: Tensor) -> None:
    weights = {}
    for named, chosen in {
        "random": {"dictionary": "random", "inference": "raw"},
        "compensated": {"dictionary": "prototypes", "inference": "compensated"},
        "raw": {"dictionary": "prototypes", "inference": "raw"},
        "constant": {"dictionary": "constant", "inference": "raw"},
        "off": {"dictionary": "none"},
    }.items():
        stage = run_stage("distill", **{f"deconfound.{k}": v for k, v in chosen.items()})
        assert ("deconfound_overhead" in stage.track_values) == (named != "off")
        last = Path("data/distill/curve.csv").read_text().splitlines()
        assert ("compensation_by_image" in last[0]) == (named != "off")
        figures = read_json(Path("data/distill/metrics.json"))
        assert figures.get("compensation_by_image", 0) == (
            float(last[-1].rpartition(",")[2]) if named != "off" else 0
        )
        weights[named] = (STUDENT / "weights.safetensors").read_bytes()
        found = load_network(STUDENT)
        assert (found.net.compensation is not None) == (named == "compensated")
        assert found.card.parameters == parameters(found.net)
    assert weights["compensated"] == weights["raw"]
    assert len({weights[each] for each in ("raw", "random", "constant", "off")}) == 4
    assert not (STUDENT / "compensation.safetensors").exists()


def right(logits: Tensor) -> float:
    """The share of images whose label is answered."""
    return float((logits.argmax(1) == torch.tensor(LABELS)).double().mean())


@pytest.mark.parametrize(("method", "named"), [("kd", "compensated"), ("simkd", "raw")])
def test_evaluate_measures_both_answers(images: Tensor, method: str, named: Any) -> None:
    run_stage("distill", method=method, **{"deconfound.dictionary": "prototypes"})
    net: Any = load_network(STUDENT, "compensated").net
    net.fc.bias.sub_(load_network(STUDENT, "raw").net(images).mean(0))  # all classes are answered
    plain = copy.deepcopy(net)
    plain.compensation = None
    for seed in range(20):  # until the two are right for different shares
        torch.manual_seed(seed)
        net.compensation.fuse.weight.normal_(std=0.1)
        net.compensation.mean.normal_()
        if right(net(images)) != right(plain(images)):
            break
    save_network(STUDENT, net, read_json(STUDENT / "config.json"), named)
    write_manifest(STUDENT)
    run_stage("evaluate")
    found = read_json(Path("data/evaluate/metrics.json"))
    for which in ("compensated", "raw", "mean"):
        logits = load_network(STUDENT, which).net(images)
        assert found[f"{which}_top1"] == pytest.approx(right(logits), abs=1e-6)
    assert found["raw_top1"] != found["compensated_top1"]
    assert found["top1"] == found[f"{named}_top1"]
    graph = onnxruntime.InferenceSession("data/evaluate/student.onnx")
    answers = torch.from_numpy(graph.run(None, {"images": (images.numpy() + 1) / 2})[0])
    torch.testing.assert_close(answers, load_network(STUDENT).net(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", [{KEY: "constant"}, {"deconfound.attention": "random"}])
def test_what_is_the_same_for_every_image_is_exported_for_any_batch(
    images: Tensor, changes: dict[str, Any]
) -> None:
    run_stage("distill", **{KEY: "prototypes", **changes})
    run_stage("evaluate")
    graph = onnxruntime.InferenceSession("data/evaluate/student.onnx")
    for count in (1, 5):
        answers = graph.run(None, {"images": (images[:count].numpy() + 1) / 2})[0]
        expected = load_network(STUDENT).net(images[:count])
        torch.testing.assert_close(torch.from_numpy(answers), expected, atol=1e-4, rtol=1e-4)
