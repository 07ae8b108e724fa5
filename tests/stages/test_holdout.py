"""Held-out images: chosen by their ids alone, never trained on, measured without labels."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.distill.holdout import held_out
from stages.distill.params import Distill
from tests.stages import test_distill as distilling
from tests.stages import test_distill_phases as phases
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, read_table
from webdistill.harness.params import load
from webdistill.images.views import Views

ROOT = Path(__file__).parents[2]
project, finished = phases.project, phases.finished
KD = {"method": "kd", "epochs": 2}


def test_they_follow_from_the_ids_and_from_nothing_else() -> None:
    ids = [f"{hash((i, 7)) & 0xFFFFFFFFFFFFFFFF:016x}" for i in range(200)]
    held = held_out(ids, 0.1)
    assert held.sum() == 20
    chosen = {name for name, out in zip(ids, held, strict=True) if out}
    order = np.random.default_rng(0).permutation(200)
    moved = [ids[i] for i in order]
    assert {name for name, out in zip(moved, held_out(moved, 0.1), strict=True) if out} == chosen
    more = {name for name, out in zip(ids, held_out(ids, 0.2), strict=True) if out}
    assert chosen < more
    assert not held_out(ids, 0.0).any()
    with pytest.raises(UserError, match=r"distill\.holdout = 0\.002 of 200 images is none"):
        held_out(ids, 0.002)


def test_agreement_and_divergence_equal_a_naive_loop() -> None:
    run = distilling.make(epochs=1)
    images = torch.randint(0, 256, (9, 16, 16, 3), dtype=torch.uint8)
    plain = {"seed": 1, "min_scale": 0.5, "mixup": 0.0}
    views = Views(images, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), **plain)
    fields = {
        name: getattr(run, name) for name in ("settings", "seed", "views", "teacher", "method")
    }
    fields |= {name: getattr(run, name) for name in ("weight", "ids", "classes", "labels")}
    run = type(run)(**fields, held=views)
    list(run.epoch(0))
    row = run.rows[-1]
    normal = (images.permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.25
    student = run.method.student().eval().double()
    teacher = run.teacher.double()
    same, total = 0, 0.0
    with torch.no_grad():
        for image in normal:
            t, s = teacher(image[None])[0].tolist(), student(image[None])[0].tolist()
            same += t.index(max(t)) == s.index(max(s))
            p, q = ([math.exp(a - max(z)) for a in z] for z in (t, s))
            p, q = [a / sum(p) for a in p], [a / sum(q) for a in q]
            total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert row["holdout_agreement"] == pytest.approx(same / 9)
    assert row["holdout_kl"] == pytest.approx(total / 9, rel=1e-3)


@pytest.mark.usefixtures("project")
def test_the_stage_trains_on_the_others_alone() -> None:
    students = []
    for share in (0.0, 0.25):
        students.append(phases.run_stage(**KD, holdout=share))
        history = read_table(Path("data/distill/selection_history.parquet"))
        held = held_out(phases.IDS, share)
        expected = [name for name, out in zip(phases.IDS, held, strict=True) if not out]
        assert history["id"].to_pylist() == expected
        figures = read_json(Path("data/distill/metrics.json"))
        assert figures["images"] == len(expected)
        assert ("holdout_agreement" in figures) == (share > 0)
        head = Path("data/distill/curve.csv").read_text().splitlines()[0].split(",")
        assert ("holdout_kl" in head) == (share > 0)
    assert figures["holdout_images"] == 5
    assert students[0] != students[1]


@pytest.mark.usefixtures("project")
def test_an_image_that_is_held_out_changes_no_weight() -> None:
    """Another picture under the id of a held-out image: the same student, another measurement."""
    import pyarrow as pa
    from PIL import Image

    from webdistill.core.files import write_manifest, write_table
    from webdistill.images.gate import encode

    students, measured = [], []
    place = int(held_out(phases.IDS, 0.25).argmax())
    for _ in range(2):
        students.append(phases.run_stage(**KD, holdout=0.25))
        measured.append(read_json(Path("data/distill/metrics.json"))["holdout_kl"])
        path = Path("data/fetch/pool/00000.parquet")
        table = read_table(path)
        pictures = table["image"].to_pylist()
        pictures[place]["bytes"] = encode(Image.new("RGB", (phases.SIZE, phases.SIZE), "red"))
        images = pa.array(pictures, table.schema.field("image").type)
        write_table(table.set_column(1, "image", images), path)
        write_manifest(path.parent)
    assert students[0] == students[1]
    assert measured[0] != measured[1]


@pytest.mark.parametrize(
    ("method", "optimizer", "lr", "temperature"),
    [("kd", "muon", 0.007, 4.0), ("dfnd", "sgd", 0.1, 4.0), ("simkd", "muon", 0.007, 4.0), ("kd3", "muon", 0.007, 4.0),
     ("mosaic", "sgd", 0.1, 4.0), ("odsd", "sgd", 0.1, 4.0), ("augkd", "sgd", 0.1, 10.0),
     ("supervised", "sgd", 0.1, 4.0)],
)  # fmt: skip
def test_null_is_the_methods_own(
    method: str, optimizer: str, lr: float, temperature: float
) -> None:
    own = settings_of(method=method)
    assert own.rates == (optimizer, lr, 0.05 if optimizer == "muon" else 5e-4)
    assert own.softness == temperature
    given = settings_of(method=method, lr=0.3, temperature=2.0, optimizer="sgd", weight_decay=0.1)
    assert (given.rates, given.softness) == (("sgd", 0.3, 0.1), 2.0)
    assert settings_of(method=method, optimizer="muon").rates == ("muon", 0.007, 0.05)


def test_the_rate_follows_what_is_learned_from() -> None:
    assert settings_of(method="simkd", optimizer="sgd").rates.lr == 1.0
    assert settings_of(method="kd3", **{"kd3.shared_classifier": False}).rates.lr == 0.1


def test_sgd_moves_given_weights_with_a_tenth_of_the_rate() -> None:
    given = {"student_weights": "student.safetensors"}
    assert settings_of(method="supervised", **given).rates.lr == 0.01
    assert settings_of(method="supervised", lr=0.1, **given).rates.lr == 0.1
    assert settings_of(method="simkd", optimizer="sgd", **given).rates.lr == 1.0
    assert settings_of(method="kd", **given).rates.lr == settings_of(method="kd").rates.lr == 0.007
    assert settings_of(method="kd", **given).compensation_lr == 0.1


def settings_of(**changes: object) -> Distill:
    given = {"lr": None, "temperature": None, "optimizer": None, "weight_decay": None, **changes}
    chosen = [f"distill.{key}={json.dumps(value)}" for key, value in given.items()]
    found = load(ROOT / "params.yaml", chosen).sections["distill"]
    assert isinstance(found, Distill)
    return found
