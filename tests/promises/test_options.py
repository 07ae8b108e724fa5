"""Promise R6, second half: an option of a stage changes what the stage writes. The table is in test_every_parameter.

Fetch and the options of single methods have such tests beside their other ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import stages.embed.__main__ as embed_program
import stages.evaluate.__main__ as evaluate_program
import stages.search.__main__ as search_program
from stages.evaluate import export, int8
from stages.report.gather import gather
from stages.report.page import page
from stages.report.params import Report
from stages.search.found import SCORES
from tests.stages import test_distill as distilling
from tests.stages import test_embed as embedding
from tests.stages import test_evaluate as evaluating
from tests.stages import test_prototypes as clustering
from tests.stages import test_search as searching
from tests.stages import test_select as selecting
from tests.stages.filter_project import finish, photo, stage_for
from tests.stages.report_project import build_project
from tests.stages.report_stage import Stage as ReportStage
from webdistill.core.errors import UserError
from webdistill.core.files import sha256_file
from webdistill.harness.params import load
from webdistill.harness.stage import Stage, run
from webdistill.models.device import pick_device

pytestmark = pytest.mark.usefixtures("place")

ROOT = Path(__file__).parents[2]
tiny = embedding.tiny
stage = evaluating.stage


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): sha256_file(p) for p in folder.rglob("*") if p.is_file()
    }  # fmt: skip


# -- task -----------------------------------------------------------------------------------------------------
def test_threads_are_those_of_the_numerical_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr("webdistill.harness.stage.die_with_parent", lambda: None)
    seen: list[str] = []

    def main(_stage: Stage) -> None:
        import os

        seen.append(os.environ["OMP_NUM_THREADS"])

    for threads in ("3", "5"):
        with pytest.raises(SystemExit) as ended:
            run(
                "select",
                main,
                [f"--params={ROOT / 'params.yaml'}", f"--set=task.threads={threads}"],
            )
        assert ended.value.code == 0
    assert seen == ["3", "5"]


# -- search ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        {"local": "other.csv"},
        {"columns": {"caption": "title"}},
        {"keywords": {"cat": ["kitten"]}},
        {"negative": ["grey"]},
    ],
    ids=str,
)
def test_search(tmp_path: Path, changes: dict[str, Any]) -> None:
    head = "url,caption,title\n"
    rows = "http://a.example/1,a grey cat,a dog\nhttp://a.example/2,a kitten,a truck\n"
    (tmp_path / "web.csv").write_text(head + rows)
    (tmp_path / "other.csv").write_text(head + "http://a.example/3,a dog,a dog\n")
    found = []
    for number, chosen in enumerate(({}, changes)):
        at_work = searching.stage(tmp_path / str(number), **chosen)
        search_program.main(at_work)
        at_work.publish()
        found.append(files(tmp_path / str(number) / "search"))
    assert found[0].keys() == found[1].keys()
    assert found[0]["candidates.parquet"] != found[1]["candidates.parquet"]


# -- embed ----------------------------------------------------------------------------------------------------
def test_embed_model_and_precision(
    tmp_path: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    from safetensors.torch import load_file, save_file

    source = Path(tiny.removeprefix("local-dir:"))
    (other / "open_clip_config.json").write_bytes(
        (source / "open_clip_config.json").read_bytes()
    )  # fmt: skip
    weights = load_file(source / "open_clip_model.safetensors")
    weights["visual.proj"] = weights["visual.proj"].flip(1).contiguous()
    save_file(weights, other / "open_clip_model.safetensors")
    found = []
    for number, (model, precision) in enumerate(
        ((tiny, "float32"), (tiny, "bfloat16"), (f"local-dir:{other}", "float32"))
    ):
        place = tmp_path / str(number)
        embedding.write_pool(embedding.rows(6), place / "data/fetch/pool", 6)
        embedding.write_manifest(place / "data/fetch/pool")
        monkeypatch.chdir(place)
        at_work = embedding.stage_for(model)
        at_work.params = at_work.params.model_copy(update={"precision": precision})
        embed_program.main(at_work)
        at_work.publish()
        found.append(embedding.vectors(place))
    assert not np.array_equal(found[0], found[1])
    assert np.allclose(found[0], found[1], atol=0.05)
    assert not np.allclose(found[0], found[2], atol=0.05)


# -- filter ---------------------------------------------------------------------------------------------------
TWO_LEVELS = Image.fromarray(np.tile(np.array([0, 200], np.uint8), (32, 16))).convert("RGB")
IMAGES = [
    photo(0), photo(0).resize((70, 70)), photo(50), photo(5, 10), photo(6).resize((90, 30)),
    Image.new("RGB", (40, 40), (9, 9, 9)), TWO_LEVELS, photo(7), photo(8), photo(9), photo(10),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "dropped"),
    [
        ("leak_similarity", 0.88, {2}), ("licences", ("by",), {9}), ("unknown_licence", "drop", {10}),
        ("max_unsafe", 0.5, {0}), ("min_side", 16, {3}), ("max_aspect", 2.5, {4}), ("min_contrast", 2.0, {5}),
        ("min_entropy", 2.0, {5, 6}), ("min_score", 0.2, {7}), ("min_margin", 0.0, {8}),
        ("duplicate_similarity", 0.88, {1}), ("per_class", 9, {1, 7}), ("max_punsafe", 0.5, {9}),
        ("max_nsfw", 0.5, {9}), ("max_pwatermark", 0.5, {9}), ("min_aesthetic", 0.5, {10}),
        ("min_similarity", 0.5, {10}),
    ],
)  # fmt: skip
def test_filter(tmp_path: Path, key: str, value: object, dropped: set[int]) -> None:
    stated = dict.fromkeys(range(10), ("CC BY 4.0", "")) | {9: ("CC BY-ND 2.0", "")}
    at_work = stage_for(
        tmp_path, IMAGES, score=[0.9, 0.3, *[0.5] * 5, 0.1, 0.5, 0.5, 0.5], margin=[0.5] * 8 + [-0.2] + [0.5] * 2,
        unsafe=[0.9] + [0.1] * 10, test=[photo(50)], licence=stated,
        listed=dict.fromkeys(SCORES, [None] * 8 + [0.5, 0.6, 0.4]), **{key: value},
    )  # fmt: skip
    _, found = finish(at_work)
    assert {int(name, 16) for name in found} == dropped


# -- select ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "confident"}, {"rule": "random"}, {"rule": "all"}, {"budget": 13}, {"budget": 0.5},
        {"source": "pool"}, {"agree": True},
    ],
    ids=str,
)  # fmt: skip
def test_select(tmp_path: Path, changes: dict[str, Any]) -> None:
    names, found = selecting.make_ids(60), []
    for place, chosen in ((tmp_path / "a", {}), (tmp_path / "b", changes)):
        lost = dict.fromkeys(names[:30], "low_score")
        selecting.make_cell(place, selecting.make_logits(60), np.arange(60), 25, lost)
        found.append(selecting.run_stage(place, allow_empty_classes=True, **chosen)[0])
    assert not found[0].equals(found[1])


# -- prototypes -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [{"space": "logits"}, {"count": 7}, {"dims": 3}, {"iterations": 1}, {"sample": 40}],
    ids=str,
)
def test_prototypes(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = []
    for place, chosen in ((tmp_path / "a", {}), (tmp_path / "b", changes)):
        clustering.make_cell(place, clustering.blobs(300), np.arange(300), [200])
        clustering.run_stage(place, **({"dims": 3} | chosen if "space" in changes else chosen))
        found.append(files(place / "prototypes"))
    assert found[0]["assignment.parquet"] != found[1]["assignment.parquet"]
    assert found[0]["prototypes.safetensors"] != found[1]["prototypes.safetensors"]


# -- distill --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # such small networks are slower on two
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plain(one_thread: None) -> dict[str, torch.Tensor]:
    return student()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "kd"}, {"student": "resnet14"}, {"epochs": 3}, {"steps_per_epoch": 1}, {"batch_size": 7},
        {"lr": 0.1}, {"decay": "steps"}, {"warmup_epochs": 0.0}, {"weight_decay": 0.1}, {"temperature": 2.0},
        {"lr": None}, {"optimizer": "sgd"}, {"shift": 0.2},
        {"min_scale": 0.5}, {"mixup": 0.0}, {"views": 1}, {"precision": "bfloat16"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("one_thread")
def test_distill(changes: dict[str, Any], plain: dict[str, torch.Tensor]) -> None:
    found = student(**changes)
    same = plain.keys() == found.keys() and all(
        torch.equal(tensor, found[name]) for name, tensor in plain.items()
    )
    assert not same


def student(**changes: Any) -> dict[str, torch.Tensor]:
    """Trained for two short epochs."""
    made = distilling.make(**{"epochs": 2, **changes})
    for number in range(made.settings.epochs):
        list(made.epoch(number))
    return made.method.student().state_dict()


@pytest.mark.parametrize("key", ["distill.device", "evaluate.device"])
def test_device(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for present, auto in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda it=present: it)
        assert pick_device("auto", key).type == auto
        assert pick_device("cpu", key).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"{key} = cuda, but torch sees no CUDA"):
        pick_device("cuda", key)


# -- evaluate -------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("one_thread")
def test_evaluate(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, compared = export.parity, []

    def count(graph: Any, images: Any, expected: Any) -> Any:
        compared.append(len(images))
        return real(graph, images, expected)

    monkeypatch.setattr(export, "parity", count)
    monkeypatch.setattr("stages.evaluate.latency.SECONDS", 0.0)
    calibration, graphs = [], []
    for changes in ({}, {"parity_images": 9, "calibration_bins": 100, "int8_images": 8}):
        stage.params = stage.params.model_copy(update=changes)
        evaluate_program.main(stage)
        calibration.append((tmp_path / "out/calibration.csv").read_bytes())
        graphs.append((tmp_path / "out/int8/student_int8.onnx").read_bytes())
    assert compared == [20, 9]
    assert calibration[0] != calibration[1]
    assert graphs[0] != graphs[1]


def test_evaluate_int8_max_loss() -> None:
    right = np.arange(400) % 10 > 0  # 90 %
    worse = right & (np.arange(400) % 10 > 1)  # 80 %
    int8.check(worse, right, int8_max_loss := 0.1)
    with pytest.raises(UserError, match="the int8 student loses 10.0 .* evaluate.int8_max_loss"):
        int8.check(worse, right, int8_max_loss / 2)


# -- report ---------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    build_project(root)
    return root


@pytest.mark.parametrize(
    "changes",
    [{"pictures": 2}, {"prototypes": 1}, {"nearest": 2}, {"hosts": 1}, {"truth": True}],
    ids=str,
)
def test_report(project: Path, changes: dict[str, Any]) -> None:
    base, counts = ReportStage(project), []
    for chosen in ({}, changes):
        at_work = ReportStage(project)
        at_work.params = Report(**(base.params.model_dump() | chosen))
        at_work.settings.sections["report"] = at_work.params
        text = page(gather(at_work))
        counts.append((text.count("<img"), text.count("<tr"), text.count("<h2")))
    assert counts[0] != counts[1]  # all parameters are stated, too: whole pages differ in any case


def rows_of(test: Any) -> list[Any]:
    (table,) = (mark.args[1] for mark in test.pytestmark if mark.name == "parametrize")
    return list(table)


def test_the_committed_file_names_the_options_tested_above() -> None:
    """A new option of these sections needs a row above."""
    values = load(ROOT / "params.yaml").raw
    rows = {
        name: {key for change in rows_of(test) for key in change}
        for name, test in (
            ("prototypes", test_prototypes), ("select", test_select), ("report", test_report),
            ("distill", test_distill),
        )
    }  # fmt: skip
    rows["filter"] = {row[0] for row in rows_of(test_filter)}
    elsewhere = {
        "device", "embedding_neighbours", "allow_empty_classes", "holdout", "student_weights", "images", "processes",
    }  # fmt: skip
    for name, keys in rows.items():
        plain = {key for key, value in values[name].items() if not isinstance(value, dict)}
        assert plain - elsewhere == keys, name
