"""What `fit` says of pools, without test images: all of their images count, none is left to a sample.

python -m pipelines.pools.look tiny pacs_art      -> pipelines/pools/signals/tiny.json, pacs_art.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from webdistill.commands.fit.measuring import Sources, measure
from webdistill.commands.fit.signals import signals
from webdistill.core.errors import UserError
from webdistill.core.files import write_json
from webdistill.harness.lifetime import die_with_parent
from webdistill.harness.params import read_yaml
from webdistill.models.checkpoint import load_network

HERE = Path(__file__).parent
LEFT_OUT = ("licensed", "success")  # the same for all these pools
SIMILARITY = 0.88  # of near-duplicates


def look(pool: str) -> dict[str, float]:
    """-> key of a signal, its value. Raises UserError when the pool is not there."""
    settings = read_yaml(HERE / "params.yaml")
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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pools", nargs="+", metavar="POOL")
    die_with_parent()
    (HERE / "signals").mkdir(exist_ok=True)
    try:
        for pool in parser.parse_args().pools:
            values = {key: round(value, 6) for key, value in look(pool).items()}
            write_json(values, HERE / "signals" / f"{pool}.json")
    except UserError as error:
        print(f"look: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
