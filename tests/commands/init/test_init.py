"""python -m webdistill init: what it writes, what it refuses, and that the comments live."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from webdistill.__main__ import main
from webdistill.commands.init import template
from webdistill.harness.params import load, read_yaml
from webdistill.models.checkpoint import load_network
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[3]
COLOURS = ("red", "green", "blue")
NEW = (
    "init", "--yes", "--network", "resnet8", "--weights", "weights.pt", "--classes", "red,green,blue",
    "--source", "web", "--clip", "clip", "--trial", "0",
    "--set", "task.threads=1",  # two would wait for each other beside the other worker
)  # fmt: skip
OWN_NETWORK = """\
from webdistill.models.zoo import build

def {}(num_classes):
    return build("resnet8", num_classes)
"""
CODE = ("stages/search/__main__.py", "webdistill/harness/stage.py")
FILES = ("takedown.txt", ".dvcignore", ".gitignore", ".dvc/config", *CODE)


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


def write_material() -> None:
    write_pictures(Path("web"), 3, 0)
    write_pictures(Path("labelled"), 2, 1)
    torch.manual_seed(0)
    torch.save(build("resnet8", 3, 32).state_dict(), "weights.pt")
    Path("clip").mkdir()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with pictures, labelled ones, and weights."""
    for name in [each for each in sys.modules if each.partition(".")[0] == "nets"]:
        monkeypatch.delitem(sys.modules, name)  # the repository's own folder of that name
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    write_material()
    yield tmp_path
    for name in {each for each in set(sys.modules) - before if each.startswith("nets")}:
        del sys.modules[name]  # the next test has another file of that name


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that `init` has made, with test images. Shared: see `made`."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        write_material()
        assert main([*NEW, "--test", "labelled"]) == 0
    return root


@pytest.fixture
def made(original: Path, folder: Path) -> Path:
    """A copy of such a project, which is the current folder."""
    shutil.copytree(original, folder, dirs_exist_ok=True)
    return folder


def networks(stage: str) -> list[str]:
    """What dvc.yaml in the current folder names for the stage's networks."""
    deps = read_yaml(Path("dvc.yaml"))["stages"][stage]["deps"]
    return [dep for dep in deps if dep.startswith(("webdistill/models/families", "nets"))]


@pytest.mark.slow
def test_a_stage_depends_on_the_files_of_its_networks_however_often_init_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time the project's own dvc.yaml is the template."""
    families = "webdistill/models/families"
    Path("nets.py").write_text(OWN_NETWORK.format("small"))
    assert main([*NEW, "--student", "nets:small"]) == 0
    resnet, usercode, wrapped = (f"{families}/{n}.py" for n in ("resnet", "usercode", "wrapped"))
    assert networks("score") == [resnet]
    assert networks("distill") == networks("evaluate") == ["nets.py", resnet, usercode, wrapped]
    monkeypatch.setattr(template, "find", Path)
    assert main([*NEW, "--student", "nets:small", "--force"]) == 0
    assert networks("score") == [resnet]
    assert networks("distill") == networks("evaluate") == ["nets.py", resnet, usercode, wrapped]
    text = Path("dvc.yaml").read_text()  # as earlier versions wrote it
    text = text.replace(f"      - {resnet}\n", "      - webdistill/models\n")
    text = re.sub(rf" +- {families}/.*\n", "", text)
    Path("dvc.yaml").write_text(text)
    assert main([*NEW, "--student", "vgg8", "--force"]) == 0
    assert "webdistill/models" in read_yaml(Path("dvc.yaml"))["stages"]["distill"]["deps"]
    assert networks("distill") == ["nets.py"], "the folder holds every family"


def test_everything_for_a_new_teacher(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NEW, "--test", "labelled", "--set", "distill.epochs=3"]) == 0
    shown = capsys.readouterr().out
    assert "6 labelled images" in shown
    assert "note: " not in shown
    assert "all tensors fit" in " ".join(shown.split())  # check-teacher ran
    settings = load(Path("params.yaml"))
    assert settings.task.classes == COLOURS
    assert settings.raw["search"]["local"] == "web"
    assert settings.raw["distill"]["epochs"] == 3
    assert settings.raw["select"]["budget"] == 1.0  # all that the filter keeps
    assert settings.raw["report"]["truth"] is False
    assert load_network(Path("teacher")).card.classes == COLOURS
    images, labels = (pq.read_table(f"data/test/{name}.parquet") for name in ("images", "labels"))
    assert images["id"].to_pylist() == labels["id"].to_pylist()
    assert labels["label"].to_pylist() == [2, 2, 1, 1, 0, 0]  # blue, green, red: as the folders
    for name in FILES:
        assert Path(name).is_file(), name
    assert not list(Path("stages").rglob("__pycache__"))
    config = Path(".dvc/config").read_text()
    for option in ("no_scm = True", "analytics = false", "check_update = false", "plots.html"):
        assert option in config
    for dep in (d for s in read_yaml(Path("dvc.yaml"))["stages"].values() for d in s["deps"]):
        made = dep.startswith("data/") and not dep.startswith("data/test")
        assert made or "$" in dep or Path(dep).exists(), dep


@pytest.mark.slow
def test_a_student_that_costs_more_than_its_teacher_is_a_warning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method, warned in (("simkd", True), ("kd", False)):
        chosen = ("--student", "resnet8", "--set", f"distill.method={method}", "--force")
        assert main([*NEW, *chosen]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f"student resnet8 with {method} has" in shown
        assert ("warn student" in shown) == warned
        assert ("name a smaller network in distill.student" in shown) == warned


def test_gaps_of_test_set_and_source_are_told_before_any_work(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(made / "labelled/green")
    (made / "web/blue").rename(made / "web/sky colour")
    assert main([*NEW, "--test", "labelled", "--force"]) == 0
    shown = capsys.readouterr().out
    assert "note: --test has no image of green: nothing will be known" in shown
    assert "note: 1 of 3 folders hold images that match no class: web/sky colour (3); name" in shown
    words = "search.keywords={blue: [sky colour]}"
    assert main([*NEW, "--test", "labelled", "--force", "--set", words]) == 0
    assert "match no class" not in capsys.readouterr().out


def test_nothing_is_overwritten_without_force(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("params.yaml").write_text("mine")
    Path("takedown.txt").write_text("host:example.org\n")
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


def test_an_earlier_test_set_stays_without_the_flag(made: Path) -> None:
    before = Path("data/test/images.parquet").read_bytes()
    assert main([*NEW, "--force"]) == 0
    assert Path("data/test/images.parquet").read_bytes() == before
    assert pq.read_table("data/test/labels.parquet").num_rows == 6


def test_renewed_code_leaves_all_else_alone(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("params.yaml").write_text("mine\n")
    assert main(["init", "--code"]) == 2
    assert "stages and webdistill are here" in capsys.readouterr().err
    Path("stages/report/__init__.py").write_text("old\n")
    shutil.rmtree("stages")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(["init", "--code"]) == 0
    assert Path("stages/report/__init__.py").read_text() != "old\n"
    assert all(path.read_bytes() == content for path, content in before.items())
    assert "no more" not in capsys.readouterr().out


def test_renewed_code_says_which_deps_are_gone(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = Path("dvc.yaml")
    text = pipeline.read_text()
    assert "webdistill/experiments.py" in text
    pipeline.write_text(text.replace("webdistill/experiments.py", "webdistill/kept.py"))
    shutil.rmtree("stages")
    assert main(["init", "--code"]) == 0
    assert "no more: webdistill/kept.py; compare" in capsys.readouterr().out


def test_a_network_of_ones_own_is_in_the_deps(folder: Path) -> None:
    Path("nets").mkdir()
    Path("nets/small.py").write_text(OWN_NETWORK.format("make"))
    assert main([*NEW, "--student", "nets.small:make"]) == 0
    stages = read_yaml(Path("dvc.yaml"))["stages"]
    assert {name for name in stages if "nets/small.py" in stages[name]["deps"]} == {
        "distill",
        "evaluate",
    }


def test_an_existing_teacher_says_classes_and_size(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--yes", "--force", "--trial", "0", "--teacher", "teacher", "--clip", "clip"]
    assert main(["init", "--source", "openverse", *flags, "--set", "task.threads=1"]) == 0
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
    assert main(["init", "--clip", "clip", "--trial", "0", "--set", "task.threads=1"]) == 0
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
    (["--classes", "names.txt"], "--classes names.txt: there is no such file"),
    (["--classes", "red,sky-blue,sky_blue"], "'sky_blue' also stands for the class 'sky-blue'"),
    (["--source", "nowhere"], "--source"),
    (["--source", "clip"], "--source clip: it holds no image"),
    (["--std", "0,0,0"], "--std"),
    (["--clip", "nowhere"], "--clip nowhere: there is no such folder"),
    (["--mean", "1,2"], "--mean"),
    (["--test", "nowhere"], "--test"),
    (["--test", "."], "--test"),
    (["--test", "web/"], "--test web/: --source names the same folder"),
    (["--test-images", "a.parquet"], "--test-labels"),
    (["--student", "resnet9"], "resnet9"),
    (["--set", "distill.epoch=3"], "--set distill.epoch"),
    (["--set", "distill.epochs=many"], "distill.epochs"),
    (["--set", "epochs"], "--set"),
    (["--set", "task.classes=[red,blue,green]"], "--set task.classes: leave it out, --classes or"),
    (["--set", "task.teacher=other"], "--set task.teacher: leave it out, --teacher says it"),
    (["--set", "task.image_size=64"], "would be 64, the teacher was trained at 32 px; leave"),
    (["--image-size", "0"], "task.image_size = 0: input should be greater than or equal to 8"),
    (["--trial", "-3"], "--trial = -3: expected 0 or more"),
    (["--trial", "nan"], "--trial = nan: expected 0 or more"),
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
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--yes", "--source", "web", "--weights", "weights.pt"]) == 2
    assert "--weights goes with --network" in capsys.readouterr().err
    assert main(["init", "--yes", "--source", "web", "--classes", "red,blue,green"]) == 2
    assert "--classes differ" in capsys.readouterr().err


def test_after_a_failure_the_next_step_is_to_check_again(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Path("teacher/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    command = ["init", "--yes", "--force", "--source", "web", "--clip", "clip", "--trial", "0"]
    assert main(command) == 2
    _, steps = capsys.readouterr().out.split("next\n")
    assert steps.startswith("  python -m webdistill check-teacher")


def test_another_size_than_the_old_teachers_must_be_meant(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path("params.yaml").read_bytes()
    command = ["init", "--yes", "--force", "--source", "web", "--clip", "clip", "--trial", "0"]
    command += ["--set", "task.threads=1"]
    assert main([*command, "--image-size", "16"]) == 2
    assert "would be 16, the teacher was trained at 32 px" in capsys.readouterr().err
    assert Path("params.yaml").read_bytes() == before
    meant = ["--set", "score.other_image_size=true"]
    assert main([*command, "--image-size", "16", *meant]) == 0
    assert load(Path("params.yaml")).task.image_size == 16


SHUFFLE = "torchvision:shufflenet_v2_x0_5"


@pytest.mark.parametrize("classes", [1000, 3])
def test_a_teacher_may_have_the_weights_and_classes_of_its_library(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    classes: int,
) -> None:
    """From torch's cache. With other classes its head would know nothing, so that is an error."""
    from torchvision.models import ShuffleNet_V2_X0_5_Weights

    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    torch.hub.set_dir(folder / "torch" / "hub")
    cache = folder / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    net = build(SHUFFLE, 1000, 64)
    theirs = {ours: name for name, ours in net.library_names.items()}
    tensors = {theirs.get(k, k): v for k, v in net.state_dict().items()}
    torch.save(tensors, cache / ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rpartition("/")[2])
    Path("names.txt").write_text("\n".join(["red", *(f"class {k}" for k in range(1, classes))]))
    command = [
        "init", "--yes", "--network", SHUFFLE, "--weights", "pretrained", "--classes", "names.txt", "--image-size",
        "64", "--source", "web", "--clip", "clip", "--trial", "0", "--student", "resnet8", "--set", "task.threads=1",
    ]  # fmt: skip
    done = main(command)
    shown = capsys.readouterr()
    if classes == 1000:
        found = load_network(Path("teacher")).net.state_dict()
        assert all(torch.equal(found[k], v) for k, v in net.state_dict().items() if v.ndim)
        return
    assert done == 2
    assert shown.err.startswith(f"error: --weights: pretrained {SHUFFLE}: tensor ")
    assert "fc.weight" in shown.err
    assert not Path("params.yaml").exists()


def test_defaults_follow_the_size_of_the_task_and_the_costs_are_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--trial", "0.1", "--set", "distill.optimizer=sgd")  # Muon takes seconds for a step
    command = [*NEW, "--image-size", "96", *quick, "--set", "distill.views=4"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    raw = load(Path("params.yaml")).raw
    assert (raw["fetch"]["store_size"], raw["fetch"]["format"]) == (96, "jpeg")
    assert (raw["filter"]["min_score"], raw["filter"]["min_margin"]) == ("30%", "40%")
    distill = raw["distill"]
    assert (distill["batch_size"], distill["views"], distill["lr"]) == (2, 4, None)  # of 8 pictures
    assert "9 in the pool (web), 9 selected at most: 8 to train on, 1 held out" in shown
    assert re.search(r"time +distill \S+ (s|min|h), score", shown)
