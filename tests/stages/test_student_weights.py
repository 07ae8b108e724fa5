"""`distill.student_weights`: what a student starts from, what stays fresh, and what is refused before any work."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from stages.distill import training
from tests.stages import test_distill_phases as phases
from webdistill.core.errors import UserError
from webdistill.core.files import read_json
from webdistill.harness.params import load
from webdistill.models.checkpoint import save_network, weights
from webdistill.models.classifier import Classifier
from webdistill.models.projected import Projected
from webdistill.models.zoo import build, pretrained

ROOT = Path(__file__).parents[2]
finished, project = phases.finished, phases.project
KD: dict[str, Any] = {"method": "kd", "epochs": 3, "student_weights": "start.safetensors"}
SHUFFLE = "torchvision:shufflenet_v2_x0_5"
pytestmark = pytest.mark.usefixtures("project")


def tensors_of(architecture: str, classes: int = 7) -> dict[str, torch.Tensor]:
    """Of a network that has seen something: no tensor is as a fresh one's."""
    torch.manual_seed(99)
    return {name: each + 0.01 for name, each in weights(build(architecture, classes, 64)).items()}


def student_of(**changes: Any) -> Classifier:
    """Before its first step."""
    student: Classifier = phases.prepared(phases.stage_of(**changes)).run.method.student()
    return student


def check_equal(net: Classifier, tensors: dict[str, torch.Tensor], but: tuple[str, ...]) -> None:
    found = weights(net)
    for name in found:
        assert torch.equal(found[name], tensors[name]) or name in but, name
    assert all(name in found for name in but)


@pytest.mark.parametrize("name", ["start.safetensors", "start.pt", "parallel.pt"])
def test_the_tensors_of_a_file_are_the_students_and_its_head_is_made_anew(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = tensors_of("resnet8")
    if name.endswith(".safetensors"):
        save_file(tensors, name)
    else:
        before = "module." if name.startswith("parallel") else ""
        torch.save({"state_dict": {before + k: v for k, v in tensors.items()}}, name)
    check_equal(student_of(**KD | {"student_weights": name}), tensors, ("fc.weight", "fc.bias"))
    said = capsys.readouterr().err
    assert re.search(
        rf"resnet8 starts from {name} \(sha256 [0-9a-f]{{16}}\): \d+ tensors there, fc\.weight and fc\.bias made anew "
        "for 3 classes\n",
        said,
    ), said


def test_a_fresh_head_is_that_of_a_fresh_student_and_one_that_fits_is_taken() -> None:
    save_file(tensors_of("resnet8"), "start.safetensors")
    fresh, begun = student_of(**KD | {"student_weights": None}), student_of(**KD)
    assert torch.equal(begun.fc.weight, fresh.fc.weight)
    fitting = tensors_of("resnet8", classes=3)
    save_file(fitting, "start.safetensors")
    check_equal(student_of(**KD), fitting, ())


def test_a_library_network_takes_the_librarys_names() -> None:
    net = build(SHUFFLE, 7, 64)
    tensors = tensors_of(SHUFFLE)
    theirs = {ours: name for name, ours in net.library_names.items()}
    save_file({theirs[name]: each for name, each in tensors.items()}, "start.safetensors")
    changes = KD | {"student": SHUFFLE}
    check_equal(student_of(**changes), tensors, ("fc.weight", "fc.bias"))


@pytest.mark.parametrize("method", ["simkd", "kd3"])
def test_a_student_that_ends_in_the_teachers_classifier_takes_the_other_layers(method: str) -> None:
    tensors = tensors_of("resnet8")
    save_file(tensors, "start.safetensors")
    student = student_of(**KD | {"method": method})
    assert isinstance(student, Projected)
    own = {k.removeprefix("backbone."): v for k, v in weights(student).items() if "backbone." in k}
    assert own.keys() == {name for name in tensors if not name.startswith("fc.")}
    for name, each in own.items():
        assert torch.equal(each, tensors[name]), name


@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_a_student_of_this_project_goes_on(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    phases.run_stage(**KD | {"method": method, "student_weights": None})
    shutil.copytree("data/distill/student", "first")
    card = read_json(Path("first/config.json"))
    student = student_of(**KD | {"student_weights": "first"})
    assert card["sha256"][:16] in capsys.readouterr().err
    from webdistill.models.checkpoint import load_network

    loaded = load_network(Path("first")).net
    own = weights(loaded.backbone if isinstance(loaded, Projected) else loaded)
    for name, each in weights(student).items():
        if name in own:
            assert torch.equal(each, own[name]), name
    assert ("fc.weight" in own) == (method == "kd")


@pytest.mark.parametrize("method", ["augkd", "supervised"])
def test_methods_that_learn_from_labels_start_from_given_weights(method: str) -> None:
    tensors = tensors_of("resnet8", classes=3)
    save_file(tensors, "start.safetensors")
    given = {"method": method, "student_weights": "start.safetensors"}
    check_equal(student_of(**given), tensors, ())
    assert phases.run_stage(**given) != phases.run_stage(method=method)


def test_a_head_for_other_classes_of_the_same_number_is_made_anew() -> None:
    torch.manual_seed(5)
    net = build("resnet8", 3)
    facts = {"image_size": phases.SIZE, "mean": phases.GREY, "std": phases.GREY}
    for classes in (["a", "b", "c"], ["c", "b", "a"]):
        save_network(Path("first"), net, {**facts, "architecture": "resnet8", "classes": classes})
        same = torch.equal(student_of(**KD | {"student_weights": "first"}).fc.weight, net.fc.weight)
        assert same == (classes == ["a", "b", "c"])


def test_the_card_and_the_keys_name_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    students, digests = [], []
    for classes in (7, 3):
        save_file(tensors_of("resnet8", classes), "start.safetensors")
        students.append(phases.run_stage(**KD))
        card = read_json(Path("data/distill/student/config.json"))
        found = re.search(r"started from start\.safetensors ([0-9a-f]{16}), ", card["trained_on"])
        assert found is not None
        digests.append(found[1])
        assert f"sha256 {found[1]}" in capsys.readouterr().err
    assert students[0] != students[1]
    assert digests[0] != digests[1]


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_weights_and_with_no_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(tensors_of("resnet8"), "start.safetensors")
    whole = phases.run_stage(**KD)
    stage = phases.stage_of(**KD)
    run = phases.prepared(stage)
    list(run.run.epoch(0))
    training.checkpoint.save(run.run, run.state)
    capsys.readouterr()
    assert phases.run_stage(**KD) == whole
    assert "continues after epoch 1 of 3" in capsys.readouterr().err
    run = phases.prepared(phases.stage_of(**KD))
    list(run.run.epoch(0))
    training.checkpoint.save(run.run, run.state)
    save_file(tensors_of("resnet8", 3), "start.safetensors")
    assert phases.run_stage(**KD) != whole
    assert "continues" not in capsys.readouterr().err


# -- what is refused -------------------------------------------------------------------------------------------
def wrong(kind: str) -> None:
    path = Path("start.safetensors")
    match kind:
        case "network":
            save_file(tensors_of("resnet14"), path)
        case "less":
            tensors = tensors_of("resnet8")
            del tensors["fc.weight"]
            save_file({k: v for k, v in tensors.items() if not k.startswith("conv")}, path)
        case "damaged":
            path.write_bytes(b"no tensors")
        case "folder":
            save_network(
                path, build("resnet14", 3),
                {"architecture": "resnet14", "classes": ["a", "b", "c"], "image_size": 12, "mean": phases.GREY,
                 "std": phases.GREY},
            )  # fmt: skip
        case "empty":
            path.mkdir()


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("missing", "start.safetensors does not exist; check the path"),
        ("network", r"start.safetensors holds tensor '\S+', which resnet8 does not have"),
        ("less", r"start.safetensors lacks tensor '\S+' of architecture resnet8"),
        ("damaged", "start.safetensors is no readable safetensors file"),
        ("folder", "start.safetensors holds a resnet14, but distill.student = resnet8"),
        ("empty", "start.safetensors/config.json does not exist"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_work(
    kind: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(kind)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(training, "read_pictures", never)
    monkeypatch.setattr(training, "load_network", never)
    with pytest.raises(UserError, match=line) as error:
        phases.prepared(phases.stage_of(**KD))
    assert "\n" not in str(error.value)


def test_no_pickle_is_executed() -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (Path("executed"),)

    torch.save({"conv1.weight": Touch()}, "start.pt")
    with pytest.raises(UserError, match=r"start\.pt is damaged or holds more than tensors"):
        phases.prepared(phases.stage_of(**KD | {"student_weights": "start.pt"}))
    assert not Path("executed").exists()


def test_pretrained_belongs_to_a_library() -> None:
    with pytest.raises(
        UserError, match="resnet8 is no network of torchvision or timm; name a file"
    ):
        load(
            ROOT / "params.yaml", ["distill.student=resnet8", "distill.student_weights=pretrained"]
        )


# -- pretrained weights ----------------------------------------------------------------------------------------
@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Empty caches, and a web that refuses. -> where torch keeps what it has downloaded"""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    torch.hub.set_dir(tmp_path / "torch" / "hub")
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_pretrained_weights_of_torchvision_come_from_its_cache(offline: Path) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights

    net = build(SHUFFLE, 1000, 64)
    theirs = {ours: name for name, ours in net.library_names.items()}
    tensors = tensors_of(SHUFFLE, 1000)
    offline.mkdir(parents=True)
    file = offline / ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save({theirs[name]: each for name, each in tensors.items()}, file)
    changes = KD | {"student": SHUFFLE, "student_weights": "pretrained"}
    stage = phases.stage_of(**changes)
    student = phases.prepared(stage).run.method.student()
    check_equal(student, tensors, ("fc.weight", "fc.bias"))
    assert len(stage.inputs[f"pretrained {SHUFFLE}"]) == 64


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", [SHUFFLE, "timm:tf_efficientnet_lite0", "timm:test_vit4"])
def test_without_the_web_pretrained_is_one_line(name: str) -> None:
    with pytest.raises(UserError, match="cannot be loaded") as error:
        pretrained(name)
    assert "\n" not in str(error.value)
    assert "name the file" in str(error.value)


def test_pretrained_weights_of_timm_come_from_the_hubs_cache(offline: Path) -> None:
    import timm  # only after webdistill, which mends torchvision beside a CPU build of torch

    net = timm.create_model("mobilenetv3_small_050")
    tensors = {name: each + 1 for name, each in net.state_dict().items()}
    place = Path(constants.HF_HUB_CACHE) / "models--timm--mobilenetv3_small_050.lamb_in1k"
    assert place.is_relative_to(offline.parents[2])
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("0" * 40)
    (place / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(tensors, place / "snapshots" / ("0" * 40) / "model.safetensors")
    found = pretrained("timm:mobilenetv3_small_050")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in found)


def test_densenets_of_torchvision_are_read_under_their_old_names(offline: Path) -> None:
    from torchvision.models import DenseNet121_Weights

    offline.mkdir(parents=True)
    net = build("torchvision:densenet121", 1000, 64)
    theirs = {ours: name for name, ours in net.library_names.items()}
    new = {theirs[name]: each for name, each in weights(net).items()}
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", k): v for k, v in new.items()}
    assert old.keys() != new.keys()
    torch.save(old, offline / DenseNet121_Weights.DEFAULT.url.rpartition("/")[2])
    assert pretrained("torchvision:densenet121").keys() == new.keys()


def test_a_file_outside_the_deps_stops_under_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(tensors_of("resnet8"), "start.safetensors")
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    text = Path("dvc.yaml").read_text()
    monkeypatch.setenv("DVC_STAGE", "distill")
    with pytest.raises(UserError, match=r"reads start\.safetensors, which is none of its deps"):
        training.read_start(phases.stage_of(**KD))
    place = (
        "      - ${task.teacher}\n      - data/fetch/pool\n      - data/select/selection.parquet\n"
    )
    assert place in text
    Path("dvc.yaml").write_text(text.replace(place, f"      - start.safetensors\n{place}"))
    assert training.read_start(phases.stage_of(**KD)) is not None


def test_init_puts_the_file_among_the_deps() -> None:
    from ruamel.yaml import YAML

    from webdistill.commands.init.template import rendered_pipeline

    yaml = YAML(typ="safe")
    plain, named = (
        yaml.load(rendered_pipeline(None, weights=weights))["stages"]["distill"]["deps"]
        for weights in (None, "weights/lite0.pt")
    )
    assert set(named) - set(plain) == {"weights/lite0.pt"}
    assert json.dumps(plain).count("student_weights") == 0
