"""KDCI as a plug-in: the host until the first step, another student after it, for every method (arXiv 2403.19539)."""

from __future__ import annotations

import copy
import importlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from stages.distill.__main__ import main as distill
from stages.distill.deconfound import (
    Dictionary,
    DrawnDictionary,
    attach,
    memory,
    read_dictionary,
)
from stages.distill.loop import Run
from stages.distill.methods import Batch, Method
from stages.distill.methods import build as build_method
from stages.distill.params import DRAWING, Distill
from stages.evaluate.__main__ import main as evaluate
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, write_manifest, write_table
from webdistill.core.params import load
from webdistill.core.stage import Stage
from webdistill.images.gate import encode
from webdistill.images.pool import IMAGE_TYPE
from webdistill.images.views import Views
from webdistill.models.checkpoint import load_network, save_network
from webdistill.models.cifar import parameters
from webdistill.models.zoo import build

YAML, STUDENT = Path(__file__).parents[2] / "params.yaml", Path("data/distill/student")
READING = {  # losses that read the student's logits, or the maps that a shared classifier makes them of
    "kd": {"kd"}, "dfnd": {"kd", "noisy_label"}, "simkd": {"features"}, "kd3": {"features"},
    "mosaic": {"kd", "mosaic_kd", "adversarial"}, "odsd": {"kd"},
}  # fmt: skip
COUNT, SIZE, WIDTH = 24, 12, 64  # images, their side, the teacher's features
SETTINGS = {
    "student": "resnet8", "epochs": 6, "steps_per_epoch": 1, "batch_size": 8, "lr": 0.05, "warmup_epochs": 0.0,
    "views": 2, "precision": "float32", "device": "cpu",
}  # fmt: skip
KEY = "deconfound.dictionary"
DRAWN: dict[str, Any] = {
    KEY: "drawn", "deconfound.drawn.images": 40, "deconfound.drawn.count": 5,
    "deconfound.drawn.dims": 8, "deconfound.drawn.start": 1, "deconfound.drawn.every": 2,
}  # fmt: skip
POINTS = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(7)).abs()
SHARES = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
GREY = (0.5, 0.5, 0.5)
IDS, LABELS = [f"{i:032x}" for i in range(COUNT)], [i * i % 3 for i in range(COUNT)]
TASK = [
    "task.classes=[a, b, c]", f"task.image_size={SIZE}", "task.threads=1", "task.teacher=teacher",
    "task.test_images=data/select/selection.parquet", "task.test_labels=data/select/selection.parquet",
]  # fmt: skip


def overrides(changes: dict[str, Any]) -> list[str]:
    return [f"distill.{key}={json.dumps(value)}" for key, value in (SETTINGS | changes).items()]


def make(method: str = "kd", plug_in: bool = True, seed: int = 0, **changes: Any) -> Run:
    """A run as the stage prepares it; `seed` is that of torch's global generator."""
    changes |= {"method": method, "deconfound.enabled": plug_in}
    settings: Any = load(YAML, overrides(changes)).sections["distill"]
    torch.manual_seed(seed)
    pool = torch.randint(0, 256, (COUNT, SIZE, SIZE, 3), dtype=torch.uint8)
    teacher = build("wrn-10-1", 3).eval().requires_grad_(False)
    teacher.fc.weight.mul_(30)
    host = build_method(settings, build(settings.student, 3), teacher, SIZE)
    if plug_in:
        attach(host, settings.deconfound, Dictionary(POINTS, SHARES), WIDTH)
    host.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
    views = Views(pool, GREY, GREY, seed=1, min_scale=0.5, mixup=0.2)
    return Run(settings, 1, views, teacher, host, torch.ones(COUNT), IDS, ("a", "b", "c"))


def train(run: Run, stop: int) -> Run:
    for number in range(len(run.rows), stop):
        assert sum(run.epoch(number)) == 8
    return run


def plugged(run: Run) -> Any:
    return run.method.student().compensation


def state(module: nn.Module) -> dict[str, Tensor]:
    """Its tensors and, where they have one, their gradients."""
    learned = {f"{n}, gradient": p.grad for n, p in module.named_parameters() if p.grad is not None}
    return {name: each.clone() for name, each in (module.state_dict() | learned).items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether all that `one` names is bit for bit the same in `other`."""
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    "changes",
    [{}, {"deconfound.query": "features", KEY: "random"}, {"precision": "bfloat16"},
     {"precision": "bfloat16", "deconfound.query": "features"}, {"student": "mobilenetv3-small"}],
    ids=["float32", "features", "bfloat16", "bfloat16-features", "dropout"],
)  # fmt: skip
@pytest.mark.parametrize("method", READING)
def test_the_first_step_is_the_hosts_bit_for_bit(method: str, changes: Any) -> None:
    host, run = train(make(method, False, **changes), 1), make(method, **changes)
    before = state(plugged(run))
    assert train(run, 1).rows == host.rows, "losses"
    assert same(state(host.method), state(run.method)), "gradients, weights, running statistics"
    assert train(run, 4).rows[-1]["loss"] != train(host, 4).rows[-1]["loss"]
    assert not same(state(host.method.student()), state(run.method.student()))
    for name, tensor in plugged(run).state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in ("prototypes", "prior")), name
    assert all(float(each.grad.abs().max()) > 0 for each in plugged(run).parameters())


def test_a_random_dictionary_has_the_prototypes_means_and_deviations_and_is_seeded() -> None:
    torch.manual_seed(0)
    points = torch.tensor([3.0, 0.0, -1.0]) + torch.tensor([0.1, 1.0, 5.0]) * torch.rand(4000, 3)
    noise = Dictionary(points, torch.full((4000,), 1 / 4000)).random.prototypes
    assert float(((noise.mean(0) - points.mean(0)) / points.std(0)).abs().max()) < 0.1
    assert float((noise.std(0) / points.std(0) - 1).abs().max()) < 0.1
    one, again, other = (plugged(make("kd", True, i, **{KEY: "random"})) for i in (0, 0, 1))
    assert same(state(one), state(again))
    for each in (other, plugged(make())):
        assert not torch.isclose(one.prototypes, each.prototypes).all(1).any()
        assert torch.equal(one.prior, each.prior)


def test_what_gives_no_dictionary_is_refused_in_one_line(tmp_path: Path) -> None:
    for method in {*READING} - {"mosaic"}:
        with pytest.raises(
            UserError, match="deconfound.dictionary = drawn, but .* draws no images"
        ):
            make(method, **DRAWN)
    save_file({"prototypes": POINTS}, tmp_path / "half.safetensors")
    for name in ("half.safetensors", "absent.safetensors"):
        with pytest.raises(UserError, match=rf"^\S*{name} .*dvc repro prototypes.*$"):
            read_dictionary(tmp_path / name)


def test_a_drawn_dictionary_is_empty_until_start_and_renewed_every_so_many_epochs() -> None:
    run = make("mosaic", **(DRAWN | {"epochs": 8, "deconfound.drawn.start": 2}))
    seen = [state(plugged(run)), *(state(plugged(train(run, epoch + 1))) for epoch in range(8))]
    for name in ("prototypes", "prior"):
        new = [not torch.equal(a[name], b[name]) for a, b in pairwise(seen)]
        assert new == [False, False, True, False, True, False, True, False]
    assert all(float(each["prior"].double().sum()) == pytest.approx(1) for each in seen)
    host = train(make("mosaic", plug_in=False, epochs=8), 3)
    assert run.rows[:3] == host.rows, "raw, and the first step after it begins at W_z = 0"
    assert [bool(each["fuse.weight"].any()) for each in seen[:4]] == [False, False, False, True]


def test_drawn_prototypes_and_priors_make_up_the_mean_of_the_methods_images() -> None:
    run = train(make("mosaic", **DRAWN), 1)
    before, teacher, settings = state(run.method), run.teacher, run.settings.deconfound.drawn
    drawn = DrawnDictionary(settings, 1, lambda images: teacher.pool(teacher.features(images)))
    found = drawn.draw(run.method, 5)
    images = run.method.draw(40, np.random.default_rng([1, 5, 1]))
    wanted = teacher.pool(teacher.features(images)).mean(0)
    torch.testing.assert_close(found.prior @ found.prototypes, wanted, atol=1e-5, rtol=1e-4)
    counts = (found.prior * 40).tolist()
    assert counts == pytest.approx([max(1, round(each)) for each in counts], abs=1e-4)
    assert same(before, state(run.method)), "drawing changes nothing"


@pytest.mark.parametrize(
    ("method", "stop", "changes"),
    [("kd", 2, {}), ("kd", 1, {"precision": "bfloat16", "deconfound.attention": "random"}),
     ("kd3", 2, {KEY: "random"}), ("kd3", 3, {"deconfound.query": "features"}),
     *(("mosaic", stop, DRAWN) for stop in (1, 2, 3, 4))],  # renewed before 1, 3 and 5
)  # fmt: skip
def test_resuming_changes_no_bit(tmp_path: Path, method: str, stop: int, changes: Any) -> None:
    whole, second = train(make(method, **changes), 6), make(method, **changes)
    train(make(method, **changes), stop).save(tmp_path / "state.pt")
    for tensor in (*second.method.parameters(), *plugged(second).buffers()):
        nn.init.zeros_(tensor)
    assert second.restore(tmp_path / "state.pt") == stop
    assert train(second, 6).rows == whole.rows
    assert second.history.bits() == whole.history.bits()
    assert same(state(whole.method), state(second.method))


@pytest.mark.parametrize(
    ("option", "value"),
    [("dictionary", "random"), ("attention", "dot"), ("attention", "random"), ("query", "features"), ("prior", False),
     ("drawn.images", 50), ("drawn.count", 4), ("drawn.dims", 1), ("drawn.start", 0), ("drawn.every", 1), ("lr", 0.05)],
)  # fmt: skip
def test_every_option_changes_the_student(option: str, value: object) -> None:
    method, base = ("mosaic", DRAWN) if option.startswith("drawn") else ("kd", {})
    plain = state(train(make(method, **base), 4).method)
    changed = state(train(make(method, **(base | {f"deconfound.{option}": value})), 4).method)
    assert not same({k: v for k, v in plain.items() if "compensation" not in k}, changed)


@pytest.mark.parametrize("method", READING)
@torch.no_grad()
def test_losses_and_selection_read_compensated_answers(method: str) -> None:
    """Raw logits s, F in float64: s + W_z F; where the teacher's classifier W reads the maps, s + W W_z F."""
    run = make(method)
    module, host = plugged(run), copy.deepcopy(run.method)
    module.fuse.weight.normal_()
    w_q, w_k, w, w_z = (each.double() for each in module.parameters())
    student, z = host.student(), module.prototypes.double()
    student.compensation = None
    onward = student.fc.weight.double() if hasattr(student, "projector") else torch.eye(3).double()

    def compensated(raw: Tensor) -> Tensor:
        scores = torch.tanh((raw.double() @ w_q.T)[:, None] + z @ w_k.T) @ w[0]
        fused = torch.softmax(scores, 1) * SHARES * 5 @ z
        return (raw + fused @ w_z.T @ onward.T).float()

    wanted = compensated(student.eval()(run.views.plain(torch.arange(COUNT))))
    torch.testing.assert_close(run.pool.student_logits(), wanted, atol=1e-3, rtol=1e-4)
    images, weight = run.views(0, torch.arange(8)), run.weight[:8]
    maps = run.teacher.features(images)
    given = images, run.teacher.classify(maps), maps, weight, torch.arange(8)
    for each in (host, run.method):
        each.train().select(run.pool, 0, 6)  # odsd finds its prototypes
    losses, logits = run.method.losses(Batch(*given, np.random.default_rng(5)))
    before, raw = host.losses(Batch(*given, np.random.default_rng(5)))
    torch.testing.assert_close(logits, compensated(raw), atol=1e-3, rtol=1e-4)
    assert {name for name in losses if losses[name] != before[name]} == READING[method]


@pytest.mark.parametrize(("method", "changes"), [("kd", {}), ("kd3", {}), ("mosaic", DRAWN)])
def test_measuring_the_overhead_changes_nothing(method: str, changes: dict[str, Any]) -> None:
    plain, measured = (train(make(method, **changes), 3) for _ in range(2))
    before = {n: each for n, each in state(measured.method).items() if "gradient" not in n}
    assert np.isfinite(measured.compensation_overhead()).all()
    assert same(before, {n: state(measured.method)[n] for n in before})
    assert train(measured, 6).rows == train(plain, 6).rows
    assert same(state(plain.method), state(measured.method))


def test_memory_is_that_of_weights_gradients_momentum_and_dictionary() -> None:
    compensation = make("kd").method.student().compensation
    assert compensation is not None
    weights = 256 * (3 + WIDTH + 1) + WIDTH * 3  # W_q, W_k, w, W_z
    assert memory(compensation) * 2**20 == 4 * (3 * weights + len(POINTS) * (WIDTH + 1))


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
    card = {"classes": ["a", "b", "c"], "image_size": SIZE, "mean": GREY, "std": GREY}
    torch.manual_seed(0)
    save_network(Path("teacher"), build("wrn-10-1", 3), {**card, "architecture": "wrn-10-1"})
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def run_stage(name: str, **changes: Any) -> Stage:
    stage = Stage(name, load(YAML, [*TASK, *overrides(changes)]), None)
    (distill if name == "distill" else evaluate)(stage)
    stage.publish()
    return stage


def test_the_stage_exports_the_student_that_inference_names(images: Tensor) -> None:
    weights = {}
    for named in ("compensated", "raw", "off"):
        chosen = {"enabled": False} if named == "off" else {"enabled": True, "inference": named}
        stage = run_stage("distill", **{f"deconfound.{k}": v for k, v in chosen.items()})
        assert ("deconfound_overhead" in stage.track_values) == (named != "off")
        weights[named] = (STUDENT / "weights.safetensors").read_bytes()
        found = load_network(STUDENT)
        assert (found.net.compensation is not None) == (named == "compensated")
        assert found.card.parameters == parameters(found.net)
    assert weights["compensated"] == weights["raw"] != weights["off"]
    assert not (STUDENT / "compensation.safetensors").exists()


@pytest.mark.parametrize("named", ["compensated", "raw"])
@pytest.mark.parametrize("method", ["kd", "simkd"])
def test_evaluate_measures_both_answers(images: Tensor, method: str, named: Any) -> None:
    run_stage("distill", method=method, **{"deconfound.enabled": True})
    net: Any = load_network(STUDENT, "compensated").net
    net.fc.bias.sub_(load_network(STUDENT, "raw").net(images).mean(0))  # all classes are answered
    net.compensation.fuse.weight.normal_(std=0.1)
    save_network(STUDENT, net, read_json(STUDENT / "config.json"), named)
    write_manifest(STUDENT)
    run_stage("evaluate")
    found = read_json(Path("data/evaluate/metrics.json"))
    for which in ("compensated", "raw"):
        logits = load_network(STUDENT, which).net(images)
        share = float((logits.argmax(1) == torch.tensor(LABELS)).double().mean())
        assert found[f"{which}_top1"] == pytest.approx(share, abs=1e-6)
    assert found["raw_top1"] != found["compensated_top1"]
    assert found["top1"] == found[f"{named}_top1"]
    graph = onnxruntime.InferenceSession("data/evaluate/student.onnx")
    answers = torch.from_numpy(graph.run(None, {"images": (images.numpy() + 1) / 2})[0])
    torch.testing.assert_close(answers, load_network(STUDENT).net(images), atol=1e-4, rtol=1e-4)


def test_params_know_which_methods_draw() -> None:
    names = get_args(Distill.model_fields["method"].annotation)
    modules = [importlib.import_module(f"stages.distill.methods.{name}") for name in names]
    found = {
        name
        for name, module in zip(names, modules, strict=True)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Method) and kind.draws
    }
    assert found == set(DRAWING)
