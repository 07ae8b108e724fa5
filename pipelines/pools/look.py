"""What `fit` says of pools, without test images: all of their images count, none is left to a sample.

python -m pipelines.pools.look tiny pacs_art      -> pipelines/pools/signals/tiny.json, pacs_art.json
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pipelines.shared.program import argument, run_study
from webdistill.commands.fit.measuring import Sources, measure
from webdistill.commands.fit.signals import signals
from webdistill.core.files import write_json
from webdistill.models.checkpoint import load_network

HERE = Path(__file__).parent
LEFT_OUT = ("licensed", "success")  # the same for all these pools
SIMILARITY = 0.88  # of near-duplicates


def look(settings: Mapping[str, Any], pool: str) -> dict[str, float]:
    """-> key of a signal, its value. Raises UserError when the pool is not there."""
    task = settings["common"]["task"]
    torch.set_num_threads(task["threads"])
    found = measure(
        load_network(Path(task["teacher"])),
        Sources.below(HERE / "pool" / pool, None),
        task["image_size"],
        settings["prepare"]["images"],
        SIMILARITY,
        task["threads"],
    )
    return {s.key: s.value for s in signals(found, task["classes"]) if s.key not in LEFT_OUT}


def main(settings: Mapping[str, Any], pools: Sequence[str]) -> None:
    (HERE / "signals").mkdir(exist_ok=True)
    for pool in pools:
        values = {key: round(value, 6) for key, value in look(settings, pool).items()}
        write_json(values, HERE / "signals" / f"{pool}.json")


if __name__ == "__main__":
    run_study(main, argument("pools", nargs="+", metavar="POOL"))
