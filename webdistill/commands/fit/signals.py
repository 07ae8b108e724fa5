"""From measurements to signals: a value, what it means, and why it may be worth a look. None of them is an accuracy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from webdistill.commands.fit.formulas import wilson
from webdistill.commands.fit.measuring import Measured, Seen
from webdistill.commands.fit.wording import ABOUT, MEANING

SHOWN = 4  # causes, licences, hosts, classes named
RARE = 0.2  # a class with less than this part of an equal share is named
FEW = 0.5  # effective classes, of all, below which the pool counts as lopsided
FAR = 3.0  # times the test images' distance from which on activations count as foreign
FAR_ALONE = 0.5  # standard deviations, where there are no test images to compare with
MANY_COPIES = 0.1
FEW_CAME = 0.5


@dataclass(frozen=True)
class Signal:
    """`shown`: the value with its unit; `test`: that of the test images, or ""; `look`: what to look at, or ""."""

    key: str
    value: float
    shown: str
    test: str = ""
    detail: str = ""
    look: str = ""

    @property
    def about(self) -> str:
        return ABOUT[self.key]

    @property
    def meaning(self) -> str:
        return MEANING[self.key] + (f"; {self.detail}" if self.detail else "")


def signals(found: Measured, classes: Sequence[str]) -> list[Signal]:
    """Everything that could be measured, in the order shown."""
    return [
        *_answers(found.pool, found.test),
        *_balance(found.pool, found.test, classes),
        *_statistics(found.pool, found.test),
        *_clip(found, classes),
        *_variety(found),
        *_sources(found),
    ]


def missing(found: Measured) -> list[str]:
    """What could not be measured, and why."""
    out = []
    if not found.pool.layers:
        out.append("activations: the teacher has no BatchNorm statistics of its training images")
    if found.clip is None:
        out.append("CLIP: there are no scores yet; run `dvc repro embed`")
    if found.ledger is None:
        out.append("licences and success rate: there is no ledger beside the pool")
    if found.test is None:
        out.append("test images for comparison: task.test_images names fewer than 30, or none")
    return out


def _answers(pool: Seen, test: Seen | None) -> Iterator[Signal]:
    for key in ("confidence", "sure", "entropy"):
        show = _plain if key == "entropy" else _percent
        value = getattr(pool, key)
        yield Signal(key, value, show(value), "" if test is None else show(getattr(test, key)))


def _balance(pool: Seen, test: Seen | None, classes: Sequence[str]) -> Iterator[Signal]:
    k = len(classes)
    least = RARE * pool.images / k
    rare = [i for i in np.argsort(pool.counts, kind="stable") if pool.counts[i] < least]
    named = _listed([f"{classes[i]} ({pool.counts[i]})" for i in rare])
    covered = int((pool.counts > 0).sum())
    yield Signal(
        "covered",
        covered,
        f"{covered} of {k}",
        "" if test is None else f"{int((test.counts > 0).sum())} of {k}",
        look=f"few images of {named}: keywords or sources for them are missing" if rare else "",
    )
    lopsided = "a few classes have most images; `select.rule: balanced` evens the classes out"
    yield Signal(
        "effective_classes",
        pool.effective,
        f"{pool.effective:.1f} of {k}",
        "" if test is None else f"{test.effective:.1f} of {k}",
        look=lopsided if pool.effective < FEW * k else "",
    )


def _statistics(pool: Seen, test: Seen | None) -> Iterator[Signal]:
    for key in ("shift", "log_ratio", "divergence"):
        value = pool.layer_mean(key)
        if value is None:
            return
        other = None if test is None else test.layer_mean(key)
        look = ""
        if key == "shift" and value > (FAR_ALONE if other is None else FAR * other):
            worst = max(pool.layers, key=lambda layer: layer.shift)
            look = f"unlike the images that the teacher was trained on; most so in {worst.name}"
        yield Signal(key, value, _plain(value), "" if other is None else _plain(other), look=look)


def _clip(found: Measured, classes: Sequence[str]) -> Iterator[Signal]:
    if found.clip is None:
        return
    share, per_class = found.clip.agreement, found.clip.per_class
    low = [i for i in np.argsort(per_class, kind="stable") if per_class[i] < 2 / len(classes)]
    named = _listed([f"{classes[i]} ({per_class[i]:.0%})" for i in low])
    look = (
        f"hardly ever for {named}: CLIP reads the name differently, or the images show other things"
    )
    yield Signal("clip_agreement", share, _percent(share), look=look if low else "")


def _variety(found: Measured) -> Iterator[Signal]:
    pool, test = found.pool, found.test
    whole = pool.images == found.pool_images
    yield Signal(
        "duplicates",
        found.duplicates,
        _percent(found.duplicates),
        detail="" if whole else "higher in the whole pool, since a sample rarely holds both copies",
        look="`filter.duplicate_similarity` removes them" if found.duplicates > MANY_COPIES else "",
    )
    for key, show in (("novelty", _plain), ("gain", _percent)):
        value = getattr(pool, key)
        yield Signal(key, value, show(value), "" if test is None else show(getattr(test, key)))


def _sources(found: Measured) -> Iterator[Signal]:
    ledger = found.ledger
    if ledger is None or not ledger.candidates:
        return
    stated = 1 - ledger.licences[""] / max(ledger.licences.total(), 1)
    kinds = Counter({name: count for name, count in ledger.licences.items() if name})
    yield Signal(
        "licensed",
        stated,
        _percent(stated),
        detail=_counted(kinds),
        look="`filter.licences` and `filter.unknown_licence` decide which may be used"
        if stated < 1
        else "",
    )
    rate = ledger.came / ledger.candidates
    low, high = (100 * bound for bound in wilson(ledger.came, ledger.candidates))
    detail = f"{low:.0f} to {high:.0f} % expected of further candidates of this kind"
    detail += f"; others: {_counted(ledger.failures)}" if ledger.failures else ""
    detail += f"; most at {_counted(ledger.failing_hosts)}" if ledger.failing_hosts else ""
    look = "most downloads failed; if the list is old, search again" if rate < FEW_CAME else ""
    yield Signal("success", rate, _percent(rate), detail=detail, look=look)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _counted(counts: Counter[str]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return _listed([f"{name} {count:,}" for name, count in ordered])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _plain(value: float) -> str:
    return f"{value:.3f}"
