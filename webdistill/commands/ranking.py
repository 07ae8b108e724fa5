"""`results --experiments`: DVC's experiments, the best student first. Held-out pool images judge, without labels."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webdistill.core.errors import UserError

MEASURED = "data/distill/metrics.json"
IMAGES = ("data/fetch/pool", "data/select/selection.parquet")
# How the keys begin that students of the same images may differ in ...
DECIDING = ("distill.", "task.seed")
# ... and those of them that say how long and how often was tried, not what.
ASIDE = ("distill.epochs", "distill.steps_per_epoch", "task.seed")


@dataclass(frozen=True)
class Experiment:
    """One experiment that has trained a student."""

    name: str
    params: Mapping[str, Any]  # "distill.lr" -> value
    measured: Mapping[str, float]  # data/distill/metrics.json
    facts: tuple[object, ...]  # held-out agreement is comparable where these are equal

    @property
    def rank(self) -> tuple[float, float]:
        return -self.measured["holdout_agreement"], self.measured["holdout_kl"]

    def value(self, key: str) -> str:
        """What was used, in YAML: where it is `null`, the method's own, the metrics may have it."""
        value = self.params.get(key)
        return _yaml(self.measured.get(key.removeprefix("distill.")) if value is None else value)


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def ranking(root: Path) -> str:
    """A table of the current commit's experiments and how to go on. Raises UserError when there is none."""
    workspace, *commits = _shown(root)
    if workspace["error"]:
        raise UserError(f"`dvc exp show` failed: {workspace['error']['msg']}")
    own, here = _params(workspace["data"]), _facts(workspace["data"])
    entries = [entry for commit in commits for entry in commit["experiments"] or []]
    found = [one for entry in entries if (one := _finished(entry)) is not None]
    same = {json.dumps([one.params, one.measured]): one for one in found if one.facts == here}
    ranked = sorted(same.values(), key=lambda one: one.rank)  # what ran twice stands there once
    if not ranked:
        raise UserError(
            "no experiment of this commit has trained a student with distill.holdout on the images that are selected "
            "here; docs/methods.md, 'Finding a rate', shows how to run some"
        )
    keys = _differing(ranked)
    lines = [*_table(ranked, keys), ""]
    held = int(ranked[0].measured["holdout_images"])
    lines.append(f"ranked by agreement with the teacher on {held:,} held-out images, no label read")
    if others := sum(one.facts != here for one in found):
        lines.append(f"{others} not shown: of other images, another teacher or another holdout")
    if unfinished := len(entries) - len(found):
        lines.append(
            f"{unfinished} without a figure: see `dvc queue status`, or distill.holdout is 0 there"
        )
    return "\n".join([*lines, *_advice(ranked, keys, own)])


def _shown(root: Path) -> list[dict[str, Any]]:
    """What DVC knows: the workspace, then commits with their experiments."""
    command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = "".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-1:])
        raise UserError(f"`dvc exp show` failed: {reason}")
    shown: list[dict[str, Any]] = json.loads(done.stdout)
    return shown


def _facts(data: Mapping[str, Any]) -> tuple[object, ...]:
    """Which images were held out and who answered for them, of a revision as DVC shows it."""
    params, deps = _params(data), data.get("deps") or {}
    read = (*IMAGES, str(params.get("task.teacher")))
    hashes = tuple((deps.get(path) or {}).get("hash") for path in read)
    return (params.get("task.image_size"), params.get("distill.holdout"), *hashes)


def _params(data: Mapping[str, Any]) -> dict[str, Any]:
    def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from flat(f"{prefix}.{key}" if prefix else key, inner)
        else:
            yield prefix, value

    files = data.get("params") or {}
    return dict(flat("", (files.get("params.yaml") or {}).get("data") or {}))


def _finished(entry: Mapping[str, Any]) -> Experiment | None:
    """An experiment that has measured held-out images; None for what waits, runs, failed or held none out.

    What has not succeeded is shown by DVC with the figures of the commit that it began from. An experiment without an
    executor ran in the workspace, or came from a colleague.
    """
    revision = entry["revs"][0]
    state = (entry["executor"] or {"state": "success"})["state"]
    data = revision["data"] or {}
    measured = ((data.get("metrics") or {}).get(MEASURED) or {}).get("data") or {}
    if state != "success" or revision["error"] or "holdout_agreement" not in measured:
        return None
    return Experiment(entry["name"], _params(data), measured, _facts(data))


def _differing(ranked: Sequence[Experiment]) -> list[str]:
    """Keys in which the experiments differ, in the order of params.yaml."""
    keys = dict.fromkeys(key for one in ranked for key in one.params if key.startswith(DECIDING))
    return [key for key in keys if len({json.dumps(one.params.get(key)) for one in ranked}) > 1]


def _table(ranked: Sequence[Experiment], keys: Sequence[str]) -> list[str]:
    rows = [("experiment", "agreement", "KL", *keys)]
    for one in ranked:
        agreement, kl = (one.measured[f"holdout_{name}"] for name in ("agreement", "kl"))
        used = (one.value(key) for key in keys)
        rows.append((one.name, f"{agreement:.1%}", f"{kl:.3f}", *used))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _advice(ranked: Sequence[Experiment], keys: Sequence[str], own: Mapping[str, Any]) -> list[str]:
    """What to run next, and what the table does not show. `own`: the parameters of the workspace."""
    best, lines = ranked[0], []
    if [key for key in keys if key not in ASIDE] == ["distill.lr"]:
        rates = [float(one.value("distill.lr")) for one in ranked]
        low, high = min(rates), max(rates)
        if low < high and rates[0] in (low, high):
            end = "smallest" if rates[0] == low else "largest"
            lines.append(f"the best distill.lr is the {end} that was tried: try beyond it")
    if len({one.measured["steps"] for one in ranked}) > 1:
        lines.append("trainings of different lengths: a longer one is better for that alone")
    changed = [
        f"-S {key}={_yaml(value)}"
        for key, value in best.params.items()
        if key.startswith("distill.") and key not in ASIDE and value != own.get(key)
    ]
    lines.append(f"the best in full: {' '.join(['dvc exp run', *changed])}")
    return lines
