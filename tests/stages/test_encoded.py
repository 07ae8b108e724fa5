"""`distill.images: encoded`: the student of `memory`, whatever the number of threads, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from stages.distill import answers, pictures, training
from stages.distill.rows import Rows, write_rows
from tests.stages import test_distill_phases as phases
from webdistill.core.errors import UserError
from webdistill.core.files import remove, write_manifest, write_table
from webdistill.images.encoded import CHUNK, Encoded, write_pictures
from webdistill.images.pool import IMAGE_TYPE, load_images
from webdistill.images.stored import encode
from webdistill.images.views import Views
from webdistill.models.checkpoint import save_network
from webdistill.models.zoo import build

finished, project = phases.finished, phases.project
KD: dict[str, Any] = {"method": "kd", "epochs": 4, "min_scale": 0.5}
METHODS = ("kd", "dfnd", "simkd", "kd3", "odsd", "augkd")
CPU = torch.device("cpu")
# `python -m stages.distill`, killed -9 when the state of its second epoch is on the disk.
KILLED = """
import os, signal, sys
from stages.distill import answers, training
from stages.distill.__main__ import main
from webdistill.harness.stage import run

answers.ENCODED_LIMIT = 0
training.SAVE_EVERY = 0.0
save, saved = training.checkpoint.save, []

def noted(run, place):
    save(run, place)
    saved.append(place)
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

training.checkpoint.save = noted
run("distill", main)
"""


def make_pool(
    folder: Path, sizes: list[tuple[int, int]], store_as: Any = "jpeg", shard: int = 7
) -> list[str]:
    """Pictures of these sizes in shards. -> their ids"""
    rng = np.random.default_rng(3)
    names = [f"{number:032x}" for number in range(len(sizes))]
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    for first in range(0, len(sizes), shard):
        files = []
        for width, height in sizes[first : first + shard]:
            pixels = rng.integers(0, 256, (height // 4, width // 4, 3), np.uint8)
            image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
            files.append({"bytes": encode(image, store_as), "path": None})
        columns = {"id": names[first : first + shard], "image": pa.array(files, IMAGE_TYPE)}
        write_table(pa.table(columns), folder / f"{first:05d}.parquet")
    write_manifest(folder)
    return names


def of_project(store_as: Any = "jpeg") -> None:
    """In place of the project's pool: larger files, not square. And a teacher that sees every class among them."""
    pool = Path("data/fetch/pool")
    ids = make_pool(pool, [(32, 24), (16, 40)] * (phases.COUNT // 2), store_as)
    torch.manual_seed(0)
    net = build("resnet8", 3).eval()
    _, pixels = load_images(pool, ids, phases.SIZE, workers=1)
    with torch.no_grad():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
        features = net.pool(net.features(images))
        centred = features - features.mean(0)
        net.fc.weight.mul_(2 / (centred @ net.fc.weight.T).std(0)[:, None])
        net.fc.bias.copy_(-(features @ net.fc.weight.T).mean(0))
    facts = {"classes": ["a", "b", "c"], "image_size": phases.SIZE, "mean": phases.GREY}
    save_network(Path("teacher"), net, {**facts, "std": phases.GREY, "architecture": "resnet8"})


# -- pictures --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("store_as", ["jpeg", "webp"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_encoded_pictures_are_the_tensor(tmp_path: Path, workers: int, store_as: str) -> None:
    ids = make_pool(tmp_path / "pool", [(32, 24), (24, 24), (20, 40)] * 10, store_as)
    ids = [ids[place] for place in np.random.default_rng(0).permutation(len(ids))[:25]]
    _, pixels = load_images(tmp_path / "pool", ids, 16, workers=1)
    write_pictures(tmp_path / "pool", ids, tmp_path / "encoded")
    some = np.arange(1, 25, 2)
    encoded = Encoded(tmp_path / "encoded", some, 16, workers=workers, device=CPU)
    whole = torch.from_numpy(pixels[some]).permute(0, 3, 1, 2)
    assert (len(encoded), tuple(encoded.shape)) == (len(whole), tuple(whole.shape))
    rng = np.random.default_rng(1)
    asked = [torch.from_numpy(rng.integers(0, len(some), n)) for n in (1, CHUNK, 2 * CHUNK + 3)]
    for told in ([], asked, asked * 4):
        for rows in told:
            encoded.expect(rows)
        for rows in asked:
            assert torch.equal(encoded[rows], whole[rows])
            assert encoded[rows].stride() == whole[rows].stride()


def test_views_of_encoded_pictures_are_those_of_the_tensor(tmp_path: Path) -> None:
    ids = make_pool(tmp_path / "pool", [(30, 24)] * 30)
    _, pixels = load_images(tmp_path / "pool", ids, 16, workers=1)
    write_pictures(tmp_path / "pool", ids, tmp_path / "encoded")
    encoded = Encoded(tmp_path / "encoded", np.arange(30), 16, workers=2, device=CPU)
    facts: dict[str, Any] = {"seed": 1, "min_scale": 0.3, "mixup": 0.5, "shift": 0.1}
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    one, other = (Views(pool, mean, std, **facts) for pool in (torch.from_numpy(pixels), encoded))
    batches = torch.randperm(30).split(7)
    for number in (None, 0, 5):
        for a, b in zip(one.stream(number, batches), other.stream(number, batches), strict=True):
            assert torch.equal(a, b)
            assert a.stride() == b.stride()


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    ids = make_pool(tmp_path / "pool", [(24, 24)] * 9)
    write_pictures(tmp_path / "pool", ids, tmp_path / "encoded")
    file = tmp_path / "encoded" / "pictures"
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:-20] + b"\0" + whole[-19:]):
        file.write_bytes(damaged)
        encoded = Encoded(tmp_path / "encoded", np.arange(9), 16, workers=1, device=CPU)
        encoded[torch.arange(3)]
        with pytest.raises(UserError, match=rf"{file} is damaged; remove {file.parent} and run"):
            encoded[torch.arange(9)]


def test_what_the_pool_lacks_or_cannot_decode_is_one_line(tmp_path: Path) -> None:
    ids = make_pool(tmp_path / "pool", [(24, 24)] * 3)
    with pytest.raises(UserError, match=f"image {'f' * 32} is not in .*; run `dvc repro`"):
        write_pictures(tmp_path / "pool", [*ids, "f" * 32], tmp_path / "encoded")
    assert not (tmp_path / "encoded").exists()
    table = pa.table(
        {"id": ids, "image": pa.array([{"bytes": b"no", "path": None}] * 3, IMAGE_TYPE)}
    )
    write_table(table, tmp_path / "pool/00000.parquet")
    write_manifest(tmp_path / "pool")
    write_pictures(tmp_path / "pool", ids, tmp_path / "encoded")
    encoded = Encoded(tmp_path / "encoded", np.arange(3), 16, workers=1, device=CPU)
    with pytest.raises(UserError, match="image 1 of the selection cannot be decoded"):
        encoded[torch.tensor([1])]


# -- the stage -------------------------------------------------------------------------------------------------
def outputs(**changes: Any) -> dict[str, bytes]:
    remove(phases.FOLDER)  # or a run would go on from a phase of the run before
    phases.run_stage(**changes)
    found = sorted(path for path in Path("data/distill").rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(each, marks=() if each in ("kd", "kd3") else pytest.mark.slow)
        for each in METHODS
    ],
)
def test_encoded_images_make_the_outputs_of_images_in_memory(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every size that is stored, with held-out images and mixtures, and answers in files."""
    of_project()
    changes = KD | {"method": method, "holdout": 0.25}
    changes |= {"epochs": 6} if method == "augkd" else {"mixup": 0.3}
    memory = outputs(**changes, images="memory")
    monkeypatch.setattr(answers, "ENCODED_LIMIT", 0)
    for threads in (0, 2):
        threaded(monkeypatch, threads)
        assert outputs(**changes, images="encoded") == memory
    assert not [
        *Path(".work/distill").glob("pictures-*"), *Path(".work/distill").glob("resume-*")
    ]  # fmt: skip


def threaded(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Decode with so many threads; `task.threads` also says how the networks compute, which decides bytes."""

    def encoded(*arguments: Any, workers: int, **facts: Any) -> Encoded:
        assert workers == 1
        return Encoded(*arguments, workers=count, **facts)

    monkeypatch.setattr(pictures, "Encoded", encoded)


@pytest.mark.slow
@pytest.mark.usefixtures("project")
def test_killed_it_goes_on_and_the_outputs_are_those_of_one_run(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_project("webp")
    changes = KD | {"method": "simkd", "views": 2}
    whole = outputs(**changes, images="memory")
    named = {f"distill.{key}": value for key, value in (changes | {"images": "encoded"}).items()}
    chosen = [
        f"--set={key}={json.dumps(value)}" for key, value in (phases.SETTINGS | named).items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, f"--params={phases.YAML}", *chosen],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(phases.YAML.parent), "WEBDISTILL_TRACKING": "off"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    (kept,) = Path(".work/distill").glob("pictures-*")
    (state,) = Path(".work/distill").glob("resume-*")
    made = kept.stat().st_ino
    assert sorted(path.name for path in state.iterdir()) == [
        "state.pt", "view-0.logits", "view-0.maps", "view-1.logits", "view-1.maps"
    ]  # fmt: skip
    capsys.readouterr()
    stage = phases.stage_of(**changes, images="encoded")
    prepared = phases.prepared(stage)
    assert kept.stat().st_ino == made, "the same file is used again"
    assert isinstance(prepared.run.views.pool, Encoded)
    assert outputs(**changes, images="memory") == whole, "in memory it goes on, too"
    assert "continues after epoch 2 of 4" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_auto_follows_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def encoded(wanted: str, count: int = phases.COUNT) -> bool:
        stage = phases.stage_of(**KD, images=wanted)
        run = phases.prepared(stage).run
        return isinstance(run.views.pool, Encoded)

    size = 3 * phases.SIZE**2 * phases.COUNT
    for limit, expected in ((size, False), (size - 1, True)):
        monkeypatch.setattr(pictures, "LIMIT", limit)
        assert encoded("auto") == expected
        assert encoded("encoded")
        assert not encoded("memory")


@pytest.mark.usefixtures("project")
def test_pictures_of_another_selection_are_removed() -> None:
    phases.prepared(phases.stage_of(**KD, images="encoded"))
    (first,) = Path(".work/distill").glob("pictures-*")
    make_pool(Path("data/fetch/pool"), [(40, 24)] * phases.COUNT)
    phases.prepared(phases.stage_of(**KD, images="encoded"))
    (second,) = Path(".work/distill").glob("pictures-*")
    assert first != second
    make_pool(Path("data/fetch/pool"), [(24, 24)] * phases.COUNT)
    phases.prepared(phases.stage_of(**KD, images="memory"))
    assert not list(Path(".work/distill").glob("pictures-*"))


# -- the teacher's answers ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True])
def test_rows_in_a_file_are_the_rows_in_memory(
    tmp_path: Path, dtype: torch.dtype, last: bool
) -> None:
    maps = torch.randn(11, 5, 3, 2).to(dtype)
    if last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    logits = torch.randn(11, 4).to(dtype)
    files = {"maps": tmp_path / "maps", "logits": tmp_path / "logits"}
    write_rows(
        files, ({"maps": maps[part], "logits": logits[part]} for part in torch.arange(11).split(4))
    )
    places = torch.tensor([7, 0, 7, 10])
    for name, whole in (("maps", maps), ("logits", logits)):
        found = Rows(files[name], whole[:1])[places]
        assert torch.equal(found, whole[places])
        assert (found.stride(), found.dtype) == (whole[places].stride(), dtype)
        files[name].write_bytes(files[name].read_bytes()[:-1])
        with pytest.raises(UserError, match=f"{name} is damaged; remove it and run again"):
            Rows(files[name], whole[:1])[places]


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_answers_go_to_files_when_they_outgrow_the_memory(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = KD | {"method": method}
    memory = outputs(**changes)
    monkeypatch.setattr(answers, "LIMIT", 0)
    run = phases.prepared(phases.stage_of(**changes)).run
    list(run.epoch(0))
    assert isinstance(run.feed.answers.kept[0].logits, Rows)
    assert outputs(**changes) == memory
    monkeypatch.setattr(answers, "FILE_LIMIT", 0)
    run = phases.prepared(phases.stage_of(**changes)).run
    list(run.epoch(0))
    assert not run.feed.answers.kept


@pytest.mark.usefixtures("project")
def test_a_resumed_run_asks_no_view_again_that_is_in_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "LIMIT", 0)
    stage = phases.stage_of(**KD, views=1)
    first = phases.prepared(stage)
    list(first.run.epoch(0))
    training.checkpoint.save(first.run, first.state)
    again = phases.prepared(phases.stage_of(**KD, views=1)).run
    asked: list[int] = []
    forward = again.feed.answers.forward
    again.feed.answers.forward = lambda images: (asked.append(len(images)), forward(images))[1]
    list(again.epoch(0))
    assert asked == [phases.SETTINGS["distill.batch_size"]], "the batch that tells the size"
    assert again.rows == first.run.rows
