"""ODSD: which images are sampled, what the relations say, and who learns from them."""

from __future__ import annotations

import copy
import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.distill.loop import Run
from stages.distill.methods import Batch, Pool, build
from stages.distill.methods.kd import kl_divergence
from stages.distill.methods.odsd import (
    Odsd,
    find_prototypes,
    relation_loss,
    relations,
    sampling_scores,
    share_below,
    spread_start,
)
from stages.distill.params import Distill
from tests.stages.short_runs import check_resume, state, train
from webdistill.harness.params import read_yaml
from webdistill.images.views import Views
from webdistill.models.zoo import build as network

ROOT = Path(__file__).parents[2]
COUNT, SIZE, CLASSES = 45, 12, 3
CHANGES = {
    "student": "resnet8", "epochs": 3, "steps_per_epoch": 2, "batch_size": 8,
    "warmup_epochs": 0.0, "views": 2, "device": "cpu",
}  # fmt: skip


def make(method: str = "odsd", precision: str = "float32", **odsd: Any) -> Run:
    raw = read_yaml(ROOT / "params.yaml")["distill"] | {"optimizer": "sgd"}
    raw |= CHANGES | {"method": method, "precision": precision, "odsd": raw["odsd"] | odsd}
    settings = Distill.model_validate(raw)
    torch.manual_seed(0)
    pool = torch.randint(0, 256, (COUNT, SIZE, SIZE, 3), dtype=torch.uint8)
    pool = (pool * torch.rand(COUNT, 1, 1, 3)).byte()  # tints, so that features differ
    teacher = network("wrn-10-2", CLASSES).eval().requires_grad_(False)
    deviation = (0.25, 0.25, 0.25)
    return Run(
        settings=settings,
        seed=1,
        views=Views(pool, (0.5, 0.5, 0.5), deviation, seed=1, min_scale=0.5, mixup=0.2),
        teacher=teacher,
        method=build(settings, network(settings.student, CLASSES), teacher, SIZE),
        weight=torch.linspace(0.5, 1.5, COUNT),
        ids=[f"image{i}" for i in range(COUNT)],
        classes=("a", "b", "c"),
    )


def logits_of(labels: list[int], confidences: list[float], classes: int) -> Tensor:
    """Logits whose softmax gives `confidence` to the label and the rest evenly to the others."""
    rows = []
    for label, confidence in zip(labels, confidences, strict=True):
        row = [math.log((1 - confidence) / (classes - 1))] * classes
        row[label] = math.log(confidence)
        rows.append(row)
    return torch.tensor(rows)


def choose(logits: Tensor, features: Tensor, keep: float, prototypes: int) -> Tensor:
    """What `select` keeps of a pool with these answers of the teacher, [N] bool."""
    run = make(keep=keep, prototypes=prototypes, relation=0.0)
    no_labels = torch.full((len(logits),), -1)
    choice = run.method.select(
        Pool(lambda: (logits, features), lambda: logits, lambda _: 1.0, no_labels), 0, 3
    )
    assert choice is not None
    return choice.keep


def bundle(direction: int, count: int, seed: int) -> Tensor:
    """`count` vectors [count, 8] that point roughly along axis `direction`, of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    vectors = 0.1 * torch.randn(count, 8, generator=generator) + F.one_hot(
        torch.tensor(direction), 8
    )
    return vectors * (1 + torch.rand(count, 1, generator=generator))


# -- prototypes ------------------------------------------------------------------------------------------------
def test_prototypes_are_the_directions_of_the_clusters_and_no_outlier_is_one() -> None:
    outlier = torch.zeros(1, 8)
    outlier[0, 7] = 3.0
    features = torch.cat([bundle(0, 30, 1), bundle(1, 20, 2), bundle(2, 10, 3), outlier])
    found = find_prototypes(features, 4)
    unit = F.normalize(features, dim=1)
    means = [F.normalize(each.sum(0), dim=0) for each in unit[:60].split([30, 20, 10])]
    order = found.argmax(1).argsort()
    assert found.shape == (3, 8)
    torch.testing.assert_close(found[order], torch.stack(means), atol=1e-5, rtol=0)


def test_every_prototype_is_the_mean_direction_of_the_images_nearest_to_it() -> None:
    torch.manual_seed(1)
    features = torch.randn(120, 5) + 1
    found = find_prototypes(features, 6)
    assert 1 < len(found) <= 6
    unit = F.normalize(features, dim=1)
    nearest = (unit @ found.T).argmax(1)
    for place, prototype in enumerate(found):
        mean = F.normalize(unit[nearest == place].sum(0), dim=0)
        torch.testing.assert_close(prototype, mean, atol=1e-5, rtol=0)


def test_prototypes_do_not_depend_on_other_random_numbers_and_need_ten_images_each() -> None:
    features = torch.cat([bundle(0, 20, 1), bundle(1, 20, 2)])
    torch.manual_seed(1)
    first = find_prototypes(features, 3)
    torch.manual_seed(2)
    assert torch.equal(find_prototypes(features, 3), first)
    assert len(find_prototypes(features, 64)) <= 4
    assert len(find_prototypes(features[:5], 64)) == 1


def test_the_start_holds_different_images_and_stops_where_all_are_taken() -> None:
    unit = torch.eye(4)[[0, 1, 2, 0, 1, 2, 0]]
    start = spread_start(unit, 7)
    assert sorted(start.argmax(1).tolist()) == [0, 1, 2]


# -- sampling --------------------------------------------------------------------------------------------------
def test_ranks_are_shares_of_smaller_values() -> None:
    values = torch.tensor([3.0, -1.0, 3.0, 1000.0, 2.0])
    wanted = [sum(a < b for a in values.tolist()) / 5 for b in values.tolist()]
    assert share_below(values).tolist() == wanted


def test_scores_equal_the_naive_loop() -> None:
    torch.manual_seed(3)
    logits, distance, keep = torch.randn(40, 3).double(), torch.rand(40).double(), 0.3
    probability = torch.softmax(logits, 1).tolist()
    sure, label = [max(p) for p in probability], [p.index(max(p)) for p in probability]
    base = []
    for i in range(40):
        less_sure = sum(each < sure[i] for each in sure) / 40
        nearer = sum(each < float(distance[i]) for each in distance.tolist()) / 40
        base.append(less_sure - nearer)
    wanted = []
    for i in range(40):
        before = [j for j in range(40) if label[j] == label[i] and (-base[j], j) < (-base[i], i)]
        wanted.append(base[i] - len(before) / (keep * 40 / 3))
    found = sampling_scores(logits, distance, keep)
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), atol=1e-12, rtol=0)


def test_outliers_are_left_out() -> None:
    """Two classes, two clusters; every fifth image points elsewhere, and the teacher is as sure of it."""
    torch.manual_seed(4)
    features = torch.cat([bundle(0, 40, 1), bundle(1, 40, 2)])
    strange = torch.arange(80) % 5 == 0
    features[strange] = torch.cat([torch.zeros(16, 2), torch.randn(16, 6)], 1)
    logits = logits_of([0] * 40 + [1] * 40, [0.9] * 80, 2)
    keep = choose(logits, features, keep=0.75, prototypes=2)
    assert int(keep.sum()) == 60
    assert int((keep & strange).sum()) == 0


def test_unsure_answers_are_left_out() -> None:
    confidence = [0.6 if i % 4 == 0 else 0.95 for i in range(80)]
    features = F.one_hot(torch.arange(80) // 40, 8).float()
    keep = choose(logits_of([0] * 40 + [1] * 40, confidence, 2), features, keep=0.75, prototypes=2)
    assert keep.tolist() == [i % 4 != 0 for i in range(80)]


def test_a_crowded_class_does_not_take_all_the_places() -> None:
    """60 images of one class, each surer than all 20 of the other: the surest half would hold one class only."""
    labels = [0] * 60 + [1] * 20
    confidence = [0.99 - 0.001 * i for i in range(80)]
    features = F.one_hot(torch.tensor(labels), 8).float()
    keep = choose(logits_of(labels, confidence, 2), features, keep=0.5, prototypes=2)
    # the n-th of one class scores (80 - n) / 80 - (n - 1) / 20, the m-th of the other (20 - m) / 80 - (m - 1) / 20;
    # these are equal where n - m = 12, and n + m = 40
    assert keep.nonzero()[:, 0].tolist() == [*range(26), *range(60, 74)]


def test_the_choice_is_made_once_and_names_the_teachers_classes() -> None:
    run = make(keep=0.4)
    logits, _ = run.forward.look(run.teacher)
    choice = run.method.select(run.pool, 0, 3)
    assert choice is not None
    assert int(choice.keep.sum()) == 18
    assert torch.equal(choice.pseudo_class, logits.argmax(1))
    torch.testing.assert_close(choice.confidence, torch.softmax(logits, 1).amax(1))
    assert run.method.select(run.pool, 1, 3) is None


# -- relations -------------------------------------------------------------------------------------------------
def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_relations_and_their_loss_equal_the_naive_loops() -> None:
    torch.manual_seed(5)
    weight = torch.rand(4).double()
    prototypes = torch.randn(2, 3).double()
    both, rows = [], []
    for _ in range(2):
        features = torch.randn(4, 3).double()
        table = []
        for i in range(4):
            others = [features[j].tolist() for j in range(4) if j != i] + prototypes.tolist()
            odds = [math.exp(cosine(features[i].tolist(), other) / 0.1) for other in others]
            table.append([each / sum(odds) for each in odds])
        found = relations(features, prototypes)
        torch.testing.assert_close(
            found.exp(), torch.tensor(table, dtype=torch.float64), atol=1e-12, rtol=0
        )
        both.append(found)
        rows.append(table)
    total = 0.0
    for w, q, p in zip(weight.tolist(), *rows, strict=True):
        total += w * sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)) / 4
    assert float(relation_loss(both[0], both[1], weight)) == pytest.approx(total, abs=1e-12)


def test_relations_know_no_scale_and_no_rotation() -> None:
    torch.manual_seed(6)
    features, prototypes = torch.randn(5, 4).double(), torch.randn(3, 4).double()
    turn = torch.linalg.qr(torch.randn(4, 4).double()).Q
    length = torch.rand(5, 1).double() + 0.5
    turned = relations(length * features @ turn, 7 * prototypes @ turn)
    torch.testing.assert_close(turned, relations(features, prototypes))
    assert float(relation_loss(turned, relations(features, prototypes), torch.ones(5))) < 1e-12


def test_student_and_map_get_exactly_the_gradient_of_both_losses() -> None:
    run = make(relation=0.3)
    assert isinstance(run.method, Odsd)
    run.method.select(run.pool, 0, 3)
    method, rows = run.method.train(), torch.arange(8)
    images = run.views(0, rows)
    with torch.no_grad():
        maps = run.teacher.features(images)
        logits, features = run.teacher.classify(maps), run.teacher.pool(maps)
    net, head = copy.deepcopy(method.net), copy.deepcopy(method.map)
    batch = Batch(images, logits, maps, run.weight[rows], rows, np.random.default_rng(5))
    losses, found = method.losses(batch)
    torch.stack(list(losses.values())).sum().backward()

    pooled = net.pool(net.features(images))
    prototypes = find_prototypes(run.forward.look(run.teacher)[1], run.settings.odsd.prototypes)
    teacher, student = relations(features, prototypes), relations(head(pooled), prototypes)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    wanted = net.fc(pooled)
    relation = 0.3 * (run.weight[rows] * divergence).mean()
    kd = kl_divergence(wanted, logits, run.settings.softness, run.weight[rows])
    (kd + relation).backward()
    assert len(prototypes) > 1
    assert torch.equal(found, wanted)
    torch.testing.assert_close(losses["relation"], relation)
    for ours, theirs in ((method.net, net), (method.map, head)):
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert a.grad is not None, name
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4, msg=name)
    assert float(head.weight.grad.abs().max()) > 1e-5
    assert all(parameter.grad is None for parameter in run.teacher.parameters())


# -- whole runs ------------------------------------------------------------------------------------------------
def test_no_byte_of_the_teacher_changes_and_it_is_not_saved() -> None:
    run = make()
    before, student = state(run.teacher), state(run.method.student())
    train(run, 2)
    for name, tensor in run.teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not run.teacher.training
    assert any(not torch.equal(v, student[k]) for k, v in run.method.student().state_dict().items())
    parts = {name.partition(".")[0] for name in run.method.state_dict()}
    assert parts == {"net", "map", "prototypes"}
    assert not run.method.adam()


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    """In bfloat16; test_distill resumes every method in float32."""
    check_resume(lambda: make(precision="bfloat16"), tmp_path, 1, 3)


def test_without_relations_and_sampling_it_is_plain_distillation() -> None:
    plain, bare = make("kd"), make(keep=1.0, relation=0.0)
    train(plain, 2)
    train(bare, 2)
    assert bare.rows == plain.rows
    assert not bare.method.needs_maps
    weights = bare.method.student().state_dict()
    for name, tensor in plain.method.student().state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("change", [{"keep": 0.9}, {"prototypes": 1}, {"relation": 0.5}], ids=str)
def test_every_option_reaches_the_student(change: dict[str, Any]) -> None:
    changed = make(**change)
    train(changed, 1)
    weights = changed.method.student().state_dict()
    assert not all(torch.equal(v, weights[k]) for k, v in plain().items())


@functools.cache
def plain() -> dict[str, Tensor]:
    run = make()
    train(run, 1)
    return state(run.method.student())


def test_relations_come_closer_to_the_teachers() -> None:
    run = make(keep=1.0)
    run.settings = run.settings.model_copy(update={"epochs": 15})
    train(run, 15)
    first, last = run.rows[0]["relation"], run.rows[-1]["relation"]
    assert last < 0.8 * first
