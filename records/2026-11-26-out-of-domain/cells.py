"""How the cells of this record were run, in an earlier form: one GPU, no DVC, sixteen processes side by side.

    python records/2026-11-26-out-of-domain/cells.py        in the root of the repository

Needs the outputs of the stages `prepare` and `teacher` and of `search` to `filter` of both pools. A cell runs the
stages select, distill and evaluate with the arguments of pipelines/cell.py, several cells after one another in one
process. Two things differ from them: latencies are not measured, and what a teacher says of the test images is
computed once for its cells in a process. The arms of GROUP follow one another in one process: they share module 1.
"""

from __future__ import annotations

import importlib
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pipelines import cell
from stages.distill import phases
from stages.evaluate import forward, latency
from webdistill.core import stage
from webdistill.core.params import read_yaml

PIPELINE = Path("pipelines/out_of_domain")
GROUP = ("augkd", "no_anchor", "max_softmax", "no_mixup", "labels_last")
WORKERS = 16
Job = tuple[str, int, tuple[str, ...]]  # domain, seed, arms


def score(domain: str) -> None:
    for pool in ("pool", "web_pool"):
        commands = cell.pool_commands(PIPELINE, domain, pool)
        subprocess.run(next(c for c in commands if "stages.score" in c), check=True)


def begin() -> None:
    """Once in every process."""
    torch.set_num_threads(1)
    plain = forward.logits
    known: dict[bytes, Any] = {}

    def logits(net: Any, images: Any, progress: Any, label: str) -> Any:
        if label != "teacher":
            return plain(net, images, progress, label)
        key = images.tobytes()  # every teacher has test images of its own
        if key not in known:
            known[key] = plain(net, images, progress, label)
        return known[key]

    forward.logits, latency.latencies, phases.MOST = logits, lambda *_: {}, 1000


@cache
def main_of(name: str) -> Any:
    return importlib.import_module(f"stages.{name}.__main__").main


def work(job: Job) -> None:
    domain, seed, arms = job
    for arm in arms:
        for command in cell.commands(PIPELINE, arm, seed, domain):
            name = command[2].removeprefix("stages.")
            try:
                stage.run(name, main_of(name), command[3:])
            except SystemExit as ended:
                if ended.code:
                    raise RuntimeError(f"{domain} {arm} {seed} {name}: {ended.code}") from None


def main() -> None:
    settings = read_yaml(PIPELINE / "params.yaml")
    domains: list[str] = settings["settings"]
    single = [arm for arm in settings["arms"] if arm not in GROUP]
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(score, domains))
    jobs: list[Job] = []
    for seed in settings["seeds"]:
        jobs += [(domain, seed, GROUP) for domain in domains]
        jobs += [(domain, seed, (arm,)) for arm in single for domain in domains]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(WORKERS, mp_context=fork, initializer=begin) as pool:
        list(pool.map(work, jobs))
    sys.exit(subprocess.call([sys.executable, "-m", "pipelines.out_of_domain.table"]))


if __name__ == "__main__":
    main()
