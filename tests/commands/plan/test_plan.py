"""python -m webdistill plan: counts, steps, memory and disk against independent counts; seconds only for presence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from stages.distill import answers
from stages.distill.loop import Run
from stages.distill.methods import build as build_method
from stages.distill.params import Distill
from webdistill.__main__ import main
from webdistill.commands.plan import sizes, trial
from webdistill.commands.plan.command import duration, size
from webdistill.commands.plan.costs import Counts, stored
from webdistill.commands.plan.counting import Counted, counted, searched
from webdistill.harness.params import Params, load, read_yaml
from webdistill.images.encoded import WAITING
from webdistill.images.views import Views
from webdistill.models.checkpoint import Network, load_network, save_network
from webdistill.models.zoo import build

ROOT = Path(__file__).parents[3]
SIDE, CLASSES, PICTURES = 16, ["a", "b", "c"], 60


def settings_of(**changes: Any) -> Params:
    chosen = {
        "task.classes": CLASSES, "task.image_size": SIDE, "task.teacher": "teacher", "task.threads": 1,
        "distill.student": "resnet8", "distill.method": "kd", "distill.batch_size": 4, "distill.epochs": 2,
        "distill.precision": "float32", "distill.device": "cpu", "distill.views": 1, "select.rule": "all",
        "search.local": "web", **changes,
    }  # fmt: skip
    return load(ROOT / "params.yaml", [f"{k}={json.dumps(v)}" for k, v in chosen.items()])


def distill_of(**changes: Any) -> Distill:
    found = settings_of(**{f"distill.{k}": v for k, v in changes.items()}).sections["distill"]
    assert isinstance(found, Distill)
    return found


def teacher(folder: Path) -> Network:
    half = (0.5, 0.5, 0.5)
    facts = {"classes": CLASSES, "image_size": SIDE, "mean": half, "std": half}
    torch.manual_seed(0)
    save_network(folder, build("resnet8", len(CLASSES)), {"architecture": "resnet8", **facts})
    return load_network(folder)


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    monkeypatch.chdir(tmp_path)
    return teacher(Path("teacher"))


def real_run(settings: Distill, guide: Network, count: int) -> Run:
    pool = torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8)
    views = Views(pool, (0.5,) * 3, (0.5,) * 3, seed=0, min_scale=1.0, mixup=0.0)
    method = build_method(settings, build("resnet8", 3), guide.net, SIDE)
    ids = [str(n) for n in range(count)]
    return Run(settings, 0, views, guide.net, method, torch.ones(count), ids, tuple(CLASSES))


@pytest.mark.parametrize(
    "changes",
    [{}, {"steps_per_epoch": 7}, {"holdout": 0.25}, {"method": "simkd"}],
    ids=str,
)
def test_steps_pixels_and_kept_answers_are_those_of_a_real_training(
    guide: Network, changes: dict[str, Any]
) -> None:
    settings = distill_of(**changes)
    trained = PICTURES - round(settings.holdout * PICTURES)
    run = real_run(settings, guide, trained)
    steps = sum(1 for number in range(settings.epochs) for _ in run.epoch(number))
    tried = trial.prepare(settings_of(**{f"distill.{k}": v for k, v in changes.items()}), guide)
    found = Counts(settings, PICTURES, SIDE, tried.answer_bytes, encoded=False)
    assert (found.steps, found.trained) == (steps, trained)
    kept = run.feed.answers.kept.values()
    size = sum(t.nbytes for k in kept for t in (k.logits, k.maps) if isinstance(t, torch.Tensor))
    assert found.answers == ("memory", size)
    assert size > 0
    pool = run.views.pool
    assert isinstance(pool, torch.Tensor)
    assert found.pixels * trained == pool.nbytes * PICTURES


def test_answers_lie_where_the_training_would_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = distill_of(views=2, epochs=9)

    def where(encoded: bool) -> tuple[str, int]:
        return Counts(settings, PICTURES, SIDE, 1000, encoded).answers

    size = 1000 * 54 * 2
    assert where(False) == where(True) == ("memory", size)
    monkeypatch.setattr(answers, "ENCODED_LIMIT", size - 1)
    assert (where(False), where(True)) == (("memory", size), ("files", size))
    monkeypatch.setattr(answers, "FILE_LIMIT", size - 1)
    assert where(True) == ("nothing", 0)
    once = Counts(distill_of(views=8, epochs=1), PICTURES, SIDE, 1000, encoded=False)
    assert once.answers == ("nothing", 0), "no view comes again"


def test_encoded_pictures_cost_what_is_decoded_ahead() -> None:
    found = Counts(distill_of(), 100_000, 224, 1000, encoded=True)
    assert found.pixels == 3 * 224 * 224 * WAITING * 4


def test_networks_and_a_step_are_counted_by_hand(guide: Network) -> None:
    """SGD: weights, gradients, momentum; of a step what goes into and out of the student's layers, nearly."""
    tried = trial.prepare(settings_of(**{"distill.optimizer": "sgd"}), guide)
    method = tried.run.method
    weights = sum(p.numel() for p in method.parameters())
    other = sum(b.nbytes for b in method.buffers())
    other += sum(t.nbytes for t in guide.net.state_dict().values())
    networks, step = tried.memory()
    assert networks == 3 * 4 * weights + other
    kept: dict[int, torch.Tensor] = {}

    def note(_: nn.Module, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        kept.update({t.data_ptr(): t for t in (*given, out)})

    student = method.student().train()
    hooks = [m.register_forward_hook(note) for m in student.modules() if not list(m.children())]
    student(torch.randn(4, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    layers = sum(t.nbytes for t in kept.values())
    assert 0.5 * layers < step < 2 * layers


def test_seconds_follow_what_is_computed() -> None:
    tried = trial.Seconds(step=3.0, teacher=1.0, student=0.5, scored=1.0, tried=5)
    always = Counts(distill_of(views=0), 400, SIDE, 1000, encoded=False)  # 360 in batches of 4
    steps, held = 2 * 90, 40 / 4
    assert always.seconds(tried, 0.0) == steps * 3.0 + 2 * held * 0.5
    kept = Counts(distill_of(views=1), 400, SIDE, 1000, encoded=False)
    assert kept.seconds(tried, 0.0) == steps * 2.0 + 90 * 1.0 + 2 * held * 0.5
    decoded = Counts(distill_of(views=0, holdout=0.0), 400, SIDE, 1000, encoded=True)
    assert decoded.seconds(tried, 0.1) == 200 * 3.0 + (200 + 200) * 4 * 0.1
    choosing = distill_of(method="kd3", views=0, holdout=0.0, **{"kd3.reselect_every": 2})
    looks = Counts(choosing, 400, SIDE, 1000, encoded=False)
    assert looks.seconds(tried, 0.0) == 200 * 3.0 + 100 * 1.0 + 100 * 0.5


# -- how many pictures -----------------------------------------------------------------------------------------
def write(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": [str(n) for n in range(rows)]}), path)


@pytest.mark.usefixtures("guide")
def test_pictures_are_counted_by_the_last_stage_that_ran() -> None:
    raw = settings_of(**{"select.rule": "balanced", "select.budget": 0.5}).raw
    write(Path("web/list.parquet"), 50)
    assert counted(raw) == Counted(50, 25, "web")
    write(Path("data/search/candidates.parquet"), 40)
    assert counted(raw) == Counted(40, 20, "data/search")
    for shard, rows in (("0", 20), ("1", 10)):
        write(Path(f"data/fetch/pool/{shard}.parquet"), rows)
    assert counted(raw) == Counted(30, 15, "data/fetch", fetched=True)
    write(Path("data/filter/kept.parquet"), 24)
    assert counted(raw) == Counted(30, 12, "data/filter", fetched=True)
    write(Path("data/select/selection.parquet"), 11)
    assert counted(raw) == Counted(30, 11, "data/select", exact=True, fetched=True)
    assert counted(raw, 1000) == Counted(1000, 500, "--pictures")


@pytest.mark.usefixtures("guide")
def test_lists_folders_and_apis_are_counted_before_any_search() -> None:
    search = dict(settings_of().raw["search"])
    Path("web/a").mkdir(parents=True)
    for number in range(3):
        Path(f"web/a/{number}.png").write_bytes(b"picture")
    Path("web/list.csv").write_text("url\nhttps://a.example/1.png\nhttps://a.example/2.png\n")
    assert searched(search, CLASSES) == (5, "web")
    search["openverse"] = {"enabled": True, "per_class": 7}
    assert searched(search, CLASSES) == (5 + 7 * 3, "web and openverse")
    search["local"] = "nowhere"
    assert searched(search, CLASSES) == (21, "openverse")


# -- the table -------------------------------------------------------------------------------------------------
def project(**changes: Any) -> None:
    from webdistill.commands.init.template import rendered_params

    raw = settings_of(**changes).raw
    flat = {
        f"{section}.{key}": value
        for section in ("task", "distill", "search", "select")
        for key, value in raw[section].items()
        if not isinstance(value, dict)
    }
    Path("params.yaml").write_text(rendered_params(flat))


@pytest.mark.usefixtures("guide")
def test_the_table_has_every_row_and_seconds_of_a_real_trial(
    capsys: pytest.CaptureFixture[str],
) -> None:
    threads = torch.get_num_threads()
    project(**{"distill.images": "encoded"})
    assert main(["plan", "--pictures", "1000", "--seconds", "0.2"]) == 0
    shown = capsys.readouterr().out
    assert "1,000 in the pool (--pictures), 1,000 selected at most: 900 to train on, 100 held out" in shown  # fmt: skip
    assert "kd, resnet8: 450 steps of 4 at 16 px, 2 epochs, 2.0 passes" in shown
    tried = re.search(r"time +distill (\S+) (s|min|h), score (\S+) (s|min|h), by (\d+) steps", shown)  # fmt: skip
    assert tried, shown
    assert int(tried[5]) >= 1
    pool = stored(1000, 64, "webp")
    assert f"disk      {size(3 * pool)}: pool {size(pool)} at most" in shown  # pool, cache, encoded
    assert "pictures (encoded, those decoded ahead)" in shown
    assert "processes" not in shown
    assert not Path("data").exists()
    project(**{"distill.processes": 2, "distill.epochs": 1, "task.threads": 2})
    assert main(["plan", "--pictures", "1000", "--seconds", "0.2"]) == 0
    assert torch.get_num_threads() == threads
    shown = capsys.readouterr().out
    assert ", 1 epoch, " in shown
    assert "; one process was tried, not distill.processes = 2\n" in shown


@pytest.mark.usefixtures("guide")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--pictures", "0"], "--pictures = 0: expected 1 or more"),
        (["--seconds", "-1"], "--seconds = -1: expected 0 or more"),
        ([], "web holds no pictures that can be counted; say how many with --pictures"),
    ],
)
def test_what_cannot_be_planned_is_one_line(
    given: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project()
    assert main(["plan", *given]) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


@pytest.mark.usefixtures("guide")
def test_hours_stay_unknown_where_steps_do_not_say_them(capsys: pytest.CaptureFixture[str]) -> None:
    project(**{"distill.method": "deepinv"})
    assert main(["plan", "--pictures", "1000", "--seconds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "time      not tried: deepinv makes its images before each epoch" in shown
    assert "memory    not tried: deepinv makes its images before each epoch" in shown


def test_help_imports_no_torch() -> None:
    lines = [
        "import sys",
        "from webdistill.__main__ import main",
        "try:",
        "    main(['plan', '--help'])",
        "finally:",
        "    assert 'torch' not in sys.modules",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--seconds" in done.stdout


# -- defaults by size ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("side", "pictures", "batch", "store_as", "stored_at"),
    [(32, 10_000, 32, "webp", 64), (64, 10_000, 32, "webp", 64), (96, 10_000, 64, "jpeg", 96),
     (224, 50_000, 64, "jpeg", 224), (224, 1_000_000, 64, "jpeg", 224)],
)  # fmt: skip
def test_defaults_follow_size_and_count(
    side: int, pictures: int, batch: int, store_as: str, stored_at: int
) -> None:
    found = sizes.sized(side, pictures, lambda: 4000, {})
    assert (found["distill.batch_size"], found["fetch.format"]) == (batch, store_as)
    assert (found["fetch.store_size"], found["distill.lr"]) == (stored_at, None)
    own = {key: value for key, value in found.items() if key.startswith("distill.")}
    settings = distill_of(**{key.removeprefix("distill."): value for key, value in own.items()})
    counts = Counts(settings, pictures, side, 4000, encoded=False)
    assert counts.steps >= sizes.STEPS * 0.95
    assert counts.passes >= 0.99, "a large pool is seen whole"
    assert counts.steps_per_epoch <= sizes.EPOCH


def test_few_pictures_make_small_batches_and_no_endless_training() -> None:
    found = sizes.sized(224, 40, lambda: 4000, {})
    assert found["distill.batch_size"] == 4  # of 36 that are trained on
    assert found["distill.epochs"] == sizes.PASSES[1]
    assert found["distill.steps_per_epoch"] is None


def test_views_are_as_many_as_answers_can_be_kept_of() -> None:
    room = answers.FILE_LIMIT // 4
    for count in (8, 4, 2):
        assert sizes.views(100, room // (100 * count)) == count
    assert sizes.views(100, room // 200 + 1) == 0
    assert sizes.sized(224, 100_000, lambda: 250_000, {})["distill.views"] == 0


def test_what_the_user_set_is_followed() -> None:
    found = sizes.sized(32, 10_000, lambda: 0, {"distill.batch_size": 8, "distill.holdout": 0.0})
    assert found["distill.batch_size"] == 8
    assert (found["distill.epochs"], found["distill.steps_per_epoch"]) == (15, sizes.EPOCH)


def test_durations_have_the_unit_that_suits_them() -> None:
    assert [duration(s) for s in (5, 600, 7200)] == ["5 s", "10 min", "2.0 h"]
    assert read_yaml(ROOT / "params.yaml")["distill"]["lr"] is None
