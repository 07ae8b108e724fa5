"""python -m webdistill init: what it writes, what it refuses, and that the comments live."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from webdistill.__main__ import main
from webdistill.core.params import load, read_yaml
from webdistill.init import choices, template
from webdistill.models.checkpoint import load_network
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[2]
COLOURS = ("red", "green", "blue")
NEW = (
    "init", "--yes", "--network", "resnet8", "--weights", "weights.pt", "--classes", "red,green,blue",
    "--source", "web", "--clip", "clip",
)  # fmt: skip
FILES = (
    "takedown.txt", ".dvcignore", ".gitignore", ".dvc/config", "stages/search/__main__.py",
    "webdistill/core/stage.py",
)  # fmt: skip


def write_pictures(folder: Path, count: int, seed: int) -> None:
    """A subfolder per colour with coarse patterns of it."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(COLOURS):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 100, (8, 8, 3))
            pixels[..., channel] += 150
            image = Image.fromarray(pixels.astype(np.uint8)).resize((40, 40), 0)
            image.save(folder / name / f"{number}.png")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, labelled ones, and weights."""
    monkeypatch.chdir(tmp_path)
    write_pictures(Path("web"), 3, 0)
    write_pictures(Path("labelled"), 2, 1)
    torch.manual_seed(0)
    torch.save(build("resnet8", 3, 32).state_dict(), "weights.pt")
    Path("clip").mkdir()
    return tmp_path


def test_comments_of_the_template_survive() -> None:
    text = template.rendered_params({"task.classes": ["a", "b"], "embed.pretrained": None})
    original = (ROOT / "params.yaml").read_text()

    def comments(lines: str) -> list[str]:
        return re.findall(r"# .*", lines)

    assert comments(text) == comments(original)
    changed = [a for a, b in zip(text.splitlines(), original.splitlines(), strict=True) if a != b]
    assert [line.split("#")[0].rstrip() for line in changed] == ["  classes: [a, b]"]


def test_the_pipeline_loses_only_the_quickstart() -> None:
    pipeline = read_yaml(ROOT / "dvc.yaml")
    deps_of_embed = pipeline["stages"]["embed"]["deps"]
    assert template.QUICKSTART_CLIP in deps_of_embed
    assert template.QUICKSTART_TRUTH in pipeline["stages"]["report"]["deps"]
    for clip in (None, "models/clip"):
        from ruamel.yaml import YAML

        found = YAML(typ="safe").load(template.rendered_pipeline(clip))
        assert ("models/clip" in found["stages"]["embed"]["deps"]) == (clip is not None)
        assert "quickstart" not in template.rendered_pipeline(clip)
        found["stages"]["embed"]["deps"] = deps_of_embed
        found["stages"]["report"]["deps"].append(template.QUICKSTART_TRUTH)
        assert found == pipeline


def test_everything_for_a_new_teacher(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEW, "--test", "labelled", "--set", "distill.epochs=3"]) == 0
    shown = capsys.readouterr().out
    assert "6 labelled images" in shown
    assert "all tensors fit" in " ".join(shown.split())  # check-teacher ran
    settings = load(Path("params.yaml"))
    assert settings.task.classes == COLOURS
    assert settings.raw["search"]["local"] == "web"
    assert settings.raw["distill"]["epochs"] == 3
    assert settings.raw["report"]["truth"] is False
    assert load_network(Path("teacher")).card.classes == COLOURS
    images, labels = (pq.read_table(f"data/test/{name}.parquet") for name in ("images", "labels"))
    assert images["id"].to_pylist() == labels["id"].to_pylist()
    assert labels["label"].to_pylist() == [2, 2, 1, 1, 0, 0]  # blue, green, red: as the folders
    for name in FILES:
        assert Path(name).is_file(), name
    assert not list(Path("stages").rglob("__pycache__"))
    for dep in (d for s in read_yaml(Path("dvc.yaml"))["stages"].values() for d in s["deps"]):
        made = dep.startswith("data/") and not dep.startswith("data/test")
        assert made or "$" in dep or Path(dep).exists(), dep


def test_nothing_is_overwritten_without_force(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*NEW]) == 0
    Path("params.yaml").write_text("mine")
    Path("takedown.txt").write_text("host:example.org\n")
    capsys.readouterr()
    assert main([*NEW]) == 2
    error = capsys.readouterr().err
    assert "params.yaml" in error
    assert "--force" in error
    assert Path("params.yaml").read_text() == "mine"
    assert main([*NEW, "--force"]) == 0
    assert load(Path("params.yaml")).task.classes == COLOURS
    assert Path("takedown.txt").read_text() == "host:example.org\n"  # never replaced


def test_without_test_images_it_says_what_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*NEW]) == 0
    shown = capsys.readouterr().out
    assert "dvc repro distill" in shown
    assert "no test images" in shown
    assert pq.read_table("data/test/images.parquet").num_rows == 0


def test_an_earlier_test_set_stays_without_the_flag(folder: Path) -> None:
    assert main([*NEW, "--test", "labelled"]) == 0
    before = Path("data/test/images.parquet").read_bytes()
    assert main([*NEW, "--force"]) == 0
    assert Path("data/test/images.parquet").read_bytes() == before
    assert pq.read_table("data/test/labels.parquet").num_rows == 6


def test_renewed_code_leaves_all_else_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*NEW, "--test", "labelled"]) == 0
    Path("params.yaml").write_text("mine\n")
    assert main(["init", "--code"]) == 2
    assert "stages and webdistill are here" in capsys.readouterr().err
    Path("stages/report/__init__.py").write_text("old\n")
    shutil.rmtree("stages")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(["init", "--code"]) == 0
    assert Path("stages/report/__init__.py").read_text() != "old\n"
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_network_of_ones_own_is_in_the_deps(folder: Path) -> None:
    Path("nets").mkdir()
    Path("nets/small.py").write_text("from webdistill.models.zoo import build\n")
    assert main([*NEW, "--student", "nets.small:make"]) == 0
    stages = read_yaml(Path("dvc.yaml"))["stages"]
    assert {name for name in stages if "nets/small.py" in stages[name]["deps"]} == {
        "distill",
        "evaluate",
    }


def test_an_existing_teacher_says_classes_and_size(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*NEW]) == 0
    flags = ["--yes", "--force", "--teacher", "teacher", "--clip", "clip"]
    assert main(["init", "--source", "openverse", *flags]) == 0
    settings = load(Path("params.yaml"))
    assert settings.task.classes == COLOURS
    assert settings.task.image_size == 32
    assert settings.raw["search"]["openverse"]["enabled"] is True
    assert list(Path(settings.raw["search"]["local"]).iterdir()) == []
    assert "WEBDISTILL_CONTACT" in capsys.readouterr().out


def test_on_a_terminal_it_asks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["", "resnet8", "red, green, blue", "weights.pt", "web", "labelled"])
    monkeypatch.setattr("builtins.input", lambda: next(answers))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["init", "--clip", "clip"]) == 0
    assert load(Path("params.yaml")).task.teacher == "teacher"
    assert pq.read_table("data/test/labels.parquet").num_rows == 6
    assert next(answers, None) is None


WRONG = [
    (["--weights", "no.pt"], "--weights no.pt"),
    (["--network", "resnet9"], "--network"),
    (["--student", "nets/small.py:make"], "as a module: nets.small:make"),
    (["--mean", "123,116,103"], "divide by 255"),
    (["--network", "resnet14"], "--weights"),
    (["--classes", "red"], "--classes"),
    (["--classes", "red,RED,blue"], "--classes"),
    (["--source", "nowhere"], "--source"),
    (["--mean", "1,2"], "--mean"),
    (["--test", "nowhere"], "--test"),
    (["--test", "."], "--test"),
    (["--test-images", "a.parquet"], "--test-labels"),
    (["--student", "resnet9"], "resnet9"),
    (["--set", "distill.epoch=3"], "--set distill.epoch"),
    (["--set", "distill.epochs=many"], "distill.epochs"),
    (["--set", "epochs"], "--set"),
]


@pytest.mark.parametrize(("flags", "named"), WRONG, ids=" ".join)
def test_wrong_input_is_one_line_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], flags: list[str], named: str
) -> None:
    base = list(NEW)
    if flags[0] in base:
        at = base.index(flags[0])
        base[at : at + 2] = []
    assert main([*base, *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert named in error
    assert not Path("params.yaml").exists()
    assert not Path("stages").exists()


def test_flags_of_a_new_teacher_are_refused_beside_an_old_one(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*NEW]) == 0
    capsys.readouterr()
    assert main(["init", "--yes", "--source", "web", "--weights", "weights.pt"]) == 2
    assert "--weights goes with --network" in capsys.readouterr().err
    assert main(["init", "--yes", "--source", "web", "--classes", "red,blue,green"]) == 2
    assert "--classes differ" in capsys.readouterr().err


def test_class_names_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("tabby cat\n\ndog, small\n")
    assert choices.class_names(str(tmp_path / "names.txt")) == ("tabby cat", "dog, small")


def test_templates_are_installed_with_the_package() -> None:
    """pip puts them where `find` looks when there is no clone."""
    import tomllib

    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    listed = {
        f"{to}/{Path(file).name}" for to, files in setup["data-files"].items() for file in files
    }
    assert listed == {f"{template.SHARED}/{name}" for name in template.FILES}
    assert all(template.find(name) == ROOT / name for name in template.FILES)
