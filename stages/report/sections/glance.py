"""The one glance on top: large figures, then in a few sentences what is worth knowing and where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from stages.report.evidence import Evidence
from stages.report.html import Child, Html, join, tag
from stages.report.sections.experiments import comparable
from stages.report.sections.fit import SURE, measure
from stages.report.sections.funnel import steps
from stages.report.wording import POOL_FREE, count, half_width, percent, ratio, short

AS_SURE = 0.02  # mean confidence this near to the accuracy counts as equal
LATENCY = join(
    (
        "Milliseconds depend on the machine and so are not in this file: ",
        tag("code", "python -m webdistill results"),
        " names those of this one with the number of threads, MLflow has them as ",
        tag("code", "latency_*"),
        " of the run of evaluate.",
    )
)


def glance(evidence: Evidence, shown: Set[str]) -> Html:
    """Student, teacher, size, work and images as large figures; what to look at, with links to the sections `shown`."""
    return join((_tiles(evidence), _summary(evidence, shown)), "\n")


def _tiles(evidence: Evidence) -> Html:
    figures, collected = evidence.measured.figures, evidence.collected
    used, note = len(collected.selected), f"of {count(collected.ledger.num_rows)} candidates"
    if evidence.params["distill"]["method"] in POOL_FREE:
        used, note = 0, f"of the web; {evidence.params['distill']['method']} makes its own"
    margin = half_width(figures["top1"], int(figures["test_images"]))
    return tag(
        "div",
        _tile(
            "Student",
            percent(figures["top1"]),
            f"± {100 * margin:.1f} points (95 %), {count(figures['test_images'])} test images",
            "main",
        ),
        _tile(
            "Teacher",
            percent(figures["teacher_top1"]),
            f"same class on {percent(figures['agreement'])} of images",
        ),
        _smaller("Size", figures, "parameters", "parameters"),
        _smaller("Work per image", figures, "multiply_adds", "multiply-adds"),
        _tile(
            "Images used",
            count(used),
            note,
        ),
        class_="glance",
    )


def _smaller(title: str, figures: Mapping[str, float], name: str, unit: str) -> Html:
    """The student as a fraction of its teacher, alone where the teacher's figure is not known."""
    own, other = figures[name], figures.get(f"teacher_{name}", 0)
    if not other:
        return _tile(title, short(own), unit)
    return _tile(title, f"1 / {other / own:.1f}", f"{short(own)} of {short(other)} {unit}")


def _tile(title: str, value: str, note: str, kind: str | None = None) -> Html:
    return tag(
        "div",
        tag("h3", title),
        tag("strong", value),
        tag("p", note),
        class_=f"tile {kind}" if kind else "tile",
    )


def _summary(evidence: Evidence, shown: Set[str]) -> Html:
    found: Sequence[tuple[str, str, str]] = [
        ("Pool", pool_line(evidence), "funnel"),
        ("Fit", fit_line(evidence), "fit"),
        ("Training", training_line(evidence), "training"),
        ("Classes", classes_line(evidence), "results"),
        ("Sureness", sureness_line(evidence), "results"),
        ("Earlier", earlier_line(evidence), "experiments"),
    ]
    rows: list[Child] = []
    for name, line, anchor in found:
        if line:
            term = tag("a", name, href=f"#{anchor}") if anchor in shown else name
            rows += [tag("dt", term), tag("dd", line)]
    rows += [tag("dt", "Speed"), tag("dd", LATENCY)]
    return tag("dl", *rows, class_="summary")


def pool_line(evidence: Evidence) -> str:
    """What was left at each step, and the two largest losses."""
    found = steps(evidence.collected)
    left = ", ".join(f"{count(step.images)} {step.name}" for step in found if not step.loss)
    lost = sorted((step for step in found if step.loss), key=lambda step: -step.images)[:2]
    text = left[0].upper() + left[1:] + "."
    if lost:
        text += (
            " Largest losses: " + " and ".join(f"{s.name} ({count(s.images)})" for s in lost) + "."
        )
    return text


def fit_line(evidence: Evidence) -> str:
    """How sure the teacher is of the pool, how often CLIP agrees, how many classes that amounts to."""
    found = measure(evidence.collected, evidence.classes)
    seen = [row for row in found.classes if row.seen]
    least = min(seen, key=lambda row: (row.clip / row.seen, row.name), default=None)
    worst = f", least for {least.name} ({ratio(least.clip, least.seen, 0)})" if least else ""
    return (
        f"The teacher is at least {percent(SURE, 0)} sure of {ratio(found.sure, found.images)} of the pool. CLIP names "
        f"the same class for {ratio(found.agreeing, found.images)}{worst}. Effective classes: {found.effective:.1f} in "
        f"the pool, {found.effective_selected:.1f} selected, of {len(evidence.classes)}."
    )


def training_line(evidence: Evidence) -> str:
    """The method, how long, and how far its own choice of images moved."""
    settings = evidence.params["distill"]
    epochs = max((e for points in evidence.measured.curve.values() for e, _ in points), default=0.0)
    text = f"Method {settings['method']}, {epochs:.0f} epochs"
    text += (
        ", with compensation for confounders"
        if settings["deconfound"]["dictionary"] != "none"
        else ""
    )
    kept = evidence.measured.choices.get("kept_share", [])
    if len(kept) > 1:
        churn = evidence.measured.choices.get("churn", [(0.0, 0.0)])
        text += (
            f"; the share of images that it selects went from {percent(kept[0][1], 0)} to {percent(kept[-1][1], 0)}, "
            f"and {percent(churn[-1][1], 1)} changed in the last selection"
        )
    if held := evidence.measured.curve.get("holdout_agreement"):
        text += f"; it agrees with the teacher on {percent(held[-1][1])} of the held-out images"
    return text + "."


def classes_line(evidence: Evidence) -> str:
    """The weakest class and the one that lost most against the teacher."""
    rows = [
        (row["class"], float(row["accuracy"]), float(row["teacher_accuracy"]))
        for row in evidence.measured.per_class
        if row["accuracy"]
    ]
    if not rows:
        return ""
    weakest = min(rows, key=lambda row: row[1])
    behind = max(rows, key=lambda row: row[2] - row[1])
    text = f"Weakest: {weakest[0]}, {percent(weakest[1])} (teacher {percent(weakest[2])})."
    if behind[2] > behind[1]:
        text += f" Furthest behind the teacher: {behind[0]}, by {100 * (behind[2] - behind[1]):.1f} points."
    return text


def sureness_line(evidence: Evidence) -> str:
    """Mean confidence against accuracy, from the calibration bins."""
    bins = evidence.measured.calibration
    images = sum(n for _, _, n in bins)
    if not images:
        return ""
    sure = sum(confidence * n for confidence, _, n in bins) / images
    right = sum(accuracy * n for _, accuracy, n in bins) / images
    word = (
        "about as sure as"
        if abs(sure - right) < AS_SURE
        else "surer than"
        if sure > right
        else "less sure than"
    )
    return (
        f"The student is {word} it is right: {percent(sure)} sure, {percent(right)} right, calibration error "
        f"{percent(evidence.measured.figures['ece'])}."
    )


def earlier_line(evidence: Evidence) -> str:
    """The best kept experiment."""
    found = comparable(evidence)
    if not found:
        return ""
    best, own = found[0], evidence.measured.figures["top1"]
    gap = 100 * (own - best.figures["top1"])
    if abs(gap) < 0.05:
        return f"Level with the best of {count(len(found))} kept, {best.name}."
    return (
        f"Best of {count(len(found))} kept: {best.name}, {percent(best.figures['top1'])}; this one is "
        f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} it."
    )
