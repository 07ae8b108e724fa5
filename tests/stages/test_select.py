"""Selection rules against a naive reference, order independence, controls, bad input."""

from __future__ import annotations

import hashlib
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from stages.filter.rules import REASONS
from stages.select.__main__ import main
from stages.select.params import Select
from stages.select.rules import Scored, amount, choose, confidence, quotas, rank_within_class
from stages.select.scores import QUALITY
from webdistill.core.errors import UserError
from webdistill.core.files import read_json, read_table, write_manifest, write_table
from webdistill.harness.params import Params, Task
from webdistill.harness.stage import Stage

CLASSES = ("cat", "dog", "eel")
SETTINGS = {
    "rule": "balanced",
    "budget": 12,
    "source": "kept",
    "agree": False,
    "allow_empty_classes": False,
}


def make_ids(count: int) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest()[:32] for i in range(count)]


def half_lists(values: np.ndarray) -> pa.FixedSizeListArray:
    flat = pa.array(values.astype(np.float16).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def make_logits(count: int, seed: int = 0) -> np.ndarray:
    """Logits with a long tail of classes: about 70 %, 25 %, 5 %."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 3))
    logits[np.arange(count), rng.choice(3, count, p=(0.7, 0.25, 0.05))] += 4
    return logits


def make_cell(
    cell: Path, logits: np.ndarray, order: np.ndarray, cut: int, dropped: dict[str, str]
) -> None:
    """The inputs of the stage with rows in `order`, the pool cut in two shards at `cut`."""
    ids = make_ids(len(logits))
    folder = cell / "score" / "teacher"
    folder.mkdir(parents=True)
    for name, part in (("00000", order[:cut]), ("00001", order[cut:])):
        table = pa.table({"id": [ids[i] for i in part], "logits": half_lists(logits[part])})
        write_table(table, folder / f"{name}.parquet")
    write_manifest(folder)
    for stage in ("filter", "embed"):
        (cell / stage).mkdir()
    kept = [ids[i] for i in order if ids[i] not in dropped]
    write_table(pa.table({"id": kept}), cell / "filter" / "kept.parquet")
    out = pa.table({"id": list(dropped), "reason": list(dropped.values())})
    write_table(out, cell / "filter" / "dropped.parquet")
    query = pa.array([i % 4 - 1 for i in order], pa.int32())
    table = pa.table({"id": [ids[i] for i in order], "query_class": query})
    write_table(table, cell / "embed" / "scores.parquet")


def run_stage(cell: Path, seed: int = 3, **changes: Any) -> tuple[pa.Table, dict[str, float]]:
    task = Task(
        seed=seed,
        threads=1,
        classes=CLASSES,
        image_size=8,
        teacher="t",
        test_images="i",
        test_labels="l",
    )
    settings = Select.model_validate(SETTINGS | changes)
    stage = Stage("select", Params(task, {"select": settings}, {}), cell)
    main(stage)
    stage.publish()
    return read_table(cell / "select" / "selection.parquet"), read_json(
        cell / "select" / "metrics.json"
    )


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    ids = make_ids(60)
    dropped = {
        ids[0]: "opt_out",
        ids[1]: "low_score",
        ids[2]: "leak",
        ids[3]: "duplicate",
        ids[4]: "of_tomorrow",
    }
    make_cell(tmp_path, make_logits(60), np.arange(60), 25, dropped)
    return tmp_path


def test_every_reason_of_the_filter_is_either_brought_back_by_the_control_or_holds() -> None:
    held = {"takedown", "opt_out", "leak", "licence", "unsafe", "punsafe", "nsfw"}
    assert sorted([*held, *QUALITY]) == sorted(REASONS)


def test_confidence_equals_a_naive_softmax() -> None:
    logits = make_logits(40)
    best, doubt = confidence(logits)
    for row, index, value in zip(logits, best, doubt, strict=True):
        p = [math.exp(z) / sum(math.exp(y) for y in row) for z in row]
        assert index == p.index(max(p))
        assert value == pytest.approx(-math.log(max(p)), rel=1e-12)


def test_doubt_orders_what_float32_probabilities_call_equal() -> None:
    logits = np.array([[30.0, 0.0], [40.0, 0.0]], dtype=np.float16)
    doubt = confidence(logits)[1]
    assert np.float32(math.exp(-doubt[0])) == np.float32(math.exp(-doubt[1])) == 1
    assert doubt[0] > doubt[1] > 0


@pytest.mark.parametrize("budget", [0, 1, 2, 7, 20, 33, 60, 61, 1000])
def test_quotas_are_as_even_as_the_classes_allow(budget: int) -> None:
    available = np.array([40, 3, 0, 9, 9])
    quota = quotas(available, budget)
    assert quota.sum() == min(budget, available.sum())
    assert (quota <= available).all()
    # Water-filling: a class below the highest level by more than one image has given all it has.
    assert (quota[quota < quota.max() - 1] == available[quota < quota.max() - 1]).all()
    naive = np.zeros(5, dtype=int)  # one image at a time to the poorest class that has one left
    for _ in range(int(quota.sum())):
        open_classes = [c for c in range(5) if naive[c] < available[c]]
        naive[min(open_classes, key=lambda c: (naive[c], c))] += 1
    assert naive.tolist() == quota.tolist()


def test_amount_reads_an_integer_as_count_and_a_decimal_as_share() -> None:
    assert [amount(b, 50) for b in (7, 80, 0.5, 1.0, 0.001)] == [7, 50, 25, 50, 1]


def test_ranks_start_at_zero_in_every_class() -> None:
    rank = rank_within_class(np.array([1, 0, 1, 1, 0]), np.array([0.3, 0.2, 0.1, 0.3, 0.4]))
    assert rank.tolist() == [1, 0, 0, 2, 1]


@pytest.mark.parametrize("rule", ["balanced", "confident", "random", "all"])
def test_rules_against_their_definition(rule: str) -> None:
    best, doubt = confidence(make_logits(80))
    scored = Scored(np.array(sorted(make_ids(80))), best, doubt)
    picked = choose(rule, scored, 21, 3, seed=5)
    assert len(set(picked.tolist())) == len(picked) == (80 if rule == "all" else 21)
    assert (np.diff(picked) > 0).all()
    rest = np.setdiff1d(np.arange(80), picked)
    if rule == "confident":
        assert doubt[picked].max() <= doubt[rest].min()
    if rule == "balanced":
        for c in range(3):
            inside, outside = doubt[picked][best[picked] == c], doubt[rest][best[rest] == c]
            assert not len(outside) or inside.max() <= outside.min()
        counts = np.bincount(best[picked], minlength=3)
        assert counts.tolist() == quotas(np.bincount(best, minlength=3), 21).tolist()
    if rule == "random":
        assert picked.tolist() != choose(rule, scored, 21, 3, seed=6).tolist()
        assert set(picked) <= set(choose(rule, scored, 40, 3, seed=5))


def test_unknown_rule_is_a_defect() -> None:
    with pytest.raises(ValueError, match="unknown rule"):
        choose("best", Scored(np.array(["a"]), np.array([0]), np.array([0.0])), 1, 2, 0)


@pytest.mark.parametrize("rule", ["balanced", "confident", "random", "all"])
def test_order_and_shards_do_not_matter(tmp_path: Path, rule: str) -> None:
    outputs = []
    logits = np.round(make_logits(60))  # many ties
    for name, order, cut in (
        ("a", np.arange(60), 25),
        ("b", np.random.default_rng(9).permutation(60), 41),
    ):
        make_cell(tmp_path / name, logits, order, cut, {})
        run_stage(tmp_path / name, rule=rule)
        outputs.append((tmp_path / name / "select" / "selection.parquet").read_bytes())
    assert outputs[0] == outputs[1]


def test_rule_random_selects_by_the_seed(cell: Path) -> None:
    found = [
        run_stage(cell, seed, rule="random", allow_empty_classes=True)[0] for seed in (0, 0, 1)
    ]
    assert found[0].equals(found[1])
    assert not found[0].equals(found[2])


def test_table_and_metrics_of_the_stage(cell: Path) -> None:
    table, metrics = run_stage(cell)
    assert [(f.name, str(f.type)) for f in table.schema] == [
        ("id", "string"),
        ("teacher_class", "int32"),
        ("confidence", "float"),
        ("weight", "float"),
        ("rank", "int32"),
        ("keyword_class", "int32"),
    ]
    rows = table.to_pylist()
    assert [r["id"] for r in rows] == sorted(r["id"] for r in rows)
    assert not {r["id"] for r in rows} & set(make_ids(5))
    for c in range(3):
        mine = sorted((r for r in rows if r["teacher_class"] == c), key=lambda r: r["rank"])
        assert [r["rank"] for r in mine] == list(range(len(mine)))
        assert all(a["confidence"] >= b["confidence"] for a, b in pairwise(mine))
    assert (
        metrics["selected"] == len(rows) == 12 == sum(metrics[f"class/{name}"] for name in CLASSES)
    )
    assert metrics["eligible"] == 55
    assert metrics["empty_classes"] == 0
    assert metrics["mean_confidence"] == pytest.approx(
        np.mean([r["confidence"] for r in rows]), abs=1e-6
    )
    assert 0 <= metrics["agreement_with_keyword"] <= 1


@pytest.mark.parametrize(
    "changes", [{}, {"rule": "all", "agree": True}, {"source": "pool"}], ids=str
)
def test_every_image_brings_the_class_that_its_keyword_names(
    cell: Path, changes: dict[str, Any]
) -> None:
    rows = run_stage(cell, **changes)[0].to_pylist()
    place = {name: i for i, name in enumerate(make_ids(60))}
    assert [r["keyword_class"] for r in rows] == [place[r["id"]] % 4 - 1 for r in rows]
    if "agree" not in changes:
        assert {r["keyword_class"] for r in rows} == {-1, 0, 1, 2}


def test_pool_control_ignores_quality_but_never_rights_or_leaks(cell: Path) -> None:
    table, _ = run_stage(cell, source="pool", rule="all")
    ids = make_ids(60)
    assert set(table["id"].to_pylist()) == set(ids) - {ids[0], ids[2], ids[4]}


def test_agree_keeps_only_images_whose_keyword_names_the_teachers_class(cell: Path) -> None:
    table, metrics = run_stage(cell, agree=True, rule="all")
    place = {name: i for i, name in enumerate(make_ids(60))}
    assert all(place[r["id"]] % 4 - 1 == r["teacher_class"] for r in table.to_pylist())
    assert 0 < metrics["selected"] < 55
    assert metrics["agreement_with_keyword"] == 1


def test_an_empty_class_stops_unless_allowed_and_a_single_class_always(tmp_path: Path) -> None:
    logits = np.tile([5.0, 0.0, 0.0], (10, 1))
    logits[0] = [0, 5, 0]
    make_cell(tmp_path / "a", logits, np.arange(10), 5, {})
    with pytest.raises(UserError, match="no image selected for 1 of 3 classes: eel"):
        run_stage(tmp_path / "a", budget=0.5)
    _, metrics = run_stage(tmp_path / "a", budget=0.5, allow_empty_classes=True)
    assert metrics["empty_classes"] == 1
    make_cell(tmp_path / "b", logits[1:], np.arange(9), 5, {})
    with pytest.raises(UserError, match=r"teacher puts all 9 eligible .* 'cat'.* check-teacher"):
        run_stage(tmp_path / "b")
    with pytest.raises(UserError, match=r"fall into class 'cat'.* raise select\.budget"):
        run_stage(tmp_path / "a", budget=0.1)


def test_budget_beyond_the_pool_takes_all_and_says_so(
    cell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stage(cell, budget=1000)[1]["selected"] == 55
    assert "select.budget asks for 1,000 images, only 55" in capsys.readouterr().err


def test_bad_input_is_named(cell: Path, tmp_path: Path) -> None:
    write_table(pa.table({"id": pa.array([], pa.string())}), cell / "filter" / "kept.parquet")
    with pytest.raises(UserError, match="no image is left to select from"):
        run_stage(cell)
    write_table(pa.table({"id": ["f" * 32]}), cell / "filter" / "kept.parquet")
    with pytest.raises(UserError, match=r"f{32} of .*kept.parquet has no teacher score"):
        run_stage(cell)
    make_cell(tmp_path / "wide", np.zeros((4, 5)), np.arange(4), 2, {})
    with pytest.raises(UserError, match=r"holds 5 logits, task.classes names 3"):
        run_stage(tmp_path / "wide")


@pytest.mark.parametrize(
    ("key", "value"),
    [("budget", 0), ("budget", 1.5), ("budget", "many"), ("rule", "best"), ("agree", 1)],
)
def test_parameters_are_strict(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        Select.model_validate(SETTINGS | {key: value})
