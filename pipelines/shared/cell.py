"""Run one cell of a matrix pipeline: some stages of the main pipeline with changed parameters, in a folder of its own.

    python -m pipelines.shared.cell pipelines/compare kd 0      one arm with one seed -> pipelines/compare/cells/kd-0/
    python -m pipelines.shared.cell pipelines/compare           the pool that its cells share -> pipelines/compare/pool/
    python -m pipelines.shared.cell pipelines/out_of_domain kd 0 --setting photo     -> .../cells/photo-kd-0/
    python -m pipelines.shared.cell pipelines/out_of_domain --setting photo          -> .../pool/photo/
    python -m pipelines.shared.cell pipelines/out_of_domain --setting photo --pool web_pool   -> .../web_pool/photo/

The pipeline's params.yaml names:

    stages   what a cell runs; an arm may name fewer
    common   parameters of every cell, by section as in the main params.yaml
    arms     per arm, the parameters that it changes, by section or as `section.key: value`
    data     folder with the outputs of earlier stages; without it the main pipeline's data/; an arm may name another
    pool     `stages` that make such a folder, and their parameters by section; any name will do, see --pool
    settings names of the settings in which every arm is run, such as domains; the texts above may hold {setting}, which
             stands for the name. Without it there is one setting, without a name

What it does not name comes from the main params.yaml. A cell writes nothing outside its folder but the state of an
unfinished training, checkpoints at the ends of training phases, which cells share, and tracking records, all in .work/;
so cells may run side by side.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from webdistill.core.errors import UserError
from webdistill.harness.lifetime import die_with_parent
from webdistill.harness.params import read_yaml


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """{"distill": {"lr": 0.1}, "select.rule": "all"} -> ("distill.lr", 0.1), ("select.rule", "all")"""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def in_setting(settings: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """A pipeline's params.yaml for one of its settings: {setting} in every text replaced by the name."""
    known = settings.get("settings", [])
    if name is None and known:
        raise UserError(f"params.yaml has settings; name one, as --setting {' or '.join(known)}")
    if name is not None and name not in known:
        raise UserError(
            f"there is no setting '{name}'; params.yaml has {', '.join(known) or 'none'}"
        )
    if name is None:
        return dict(settings)

    def named(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: named(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [named(inner) for inner in value]
        return value.replace("{setting}", name) if isinstance(value, str) else value

    return {key: named(value) for key, value in settings.items()}


def changes(settings: Mapping[str, Any], arm: str, seed: int) -> dict[str, Any]:
    """Parameters of one cell that differ from the main params.yaml."""
    arms = settings["arms"]
    if arm not in arms:
        raise UserError(f"there is no arm '{arm}'; params.yaml has {', '.join(arms)}")
    own = {key: value for key, value in arms[arm].items() if key not in ("data", "stages")}
    return {**dict(flat(settings.get("common", {}))), "task.seed": seed, **dict(flat(own))}


def stages_of(settings: Mapping[str, Any], arm: str) -> list[str]:
    """What a cell of an arm runs."""
    stages: list[str] = settings["arms"][arm].get("stages", settings["stages"])
    return stages


def commands(pipeline: Path, arm: str, seed: int, setting: str | None = None) -> list[list[str]]:
    """The stage commands of a cell. Raises UserError for an arm or setting that the pipeline does not have."""
    settings = in_setting(read_yaml(pipeline / "params.yaml"), setting)
    folder = pipeline / "cells" / "-".join(filter(None, (setting, arm, str(seed))))
    values = changes(settings, arm, seed)
    data = settings["arms"][arm].get("data", settings.get("data"))
    stages = stages_of(settings, arm)
    return _commands(stages, folder, ["--from", data] if data else [], values)


def pool_commands(
    pipeline: Path, setting: str | None = None, pool: str = "pool"
) -> list[list[str]]:
    """The stage commands of a pool of the pipeline: no seed, and the facts of `task` that all its cells share."""
    settings = in_setting(read_yaml(pipeline / "params.yaml"), setting)
    if pool not in settings:
        raise UserError(f"{pipeline / 'params.yaml'} has no '{pool}'; name an arm and a seed")
    own = {"task": settings["common"]["task"], **settings[pool]}
    stages = own.pop("stages")
    return _commands(stages, pipeline / pool / (setting or ""), [], dict(flat(own)))


def _commands(
    stages: list[str], folder: Path, source: list[str], values: Mapping[str, Any]
) -> list[list[str]]:
    flags = [
        part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")
    ]
    cell = ["--cell", str(folder), *source]
    return [[sys.executable, "-m", f"stages.{stage}", *cell, *flags] for stage in stages]


def _processor_seconds() -> float:
    """Of all programs that this one started and that have ended: what a busy neighbour changes little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", type=Path, help="folder of the pipeline")
    parser.add_argument("arm", nargs="?", help="without one: make the pool")
    parser.add_argument("seed", type=int, nargs="?", default=0, help="default: 0")
    parser.add_argument("--setting", help="one of the pipeline's `settings`, if it has any")
    parser.add_argument(
        "--pool", default="pool", metavar="SECTION", help="which pool to make; default: pool"
    )
    arguments = parser.parse_args()
    die_with_parent()
    try:
        if arguments.arm is None:
            todo = pool_commands(arguments.pipeline, arguments.setting, arguments.pool)
        else:
            todo = commands(arguments.pipeline, arguments.arm, arguments.seed, arguments.setting)
        for command in todo:
            before = _processor_seconds()
            code = subprocess.call(command)
            if code:
                return code
            used = _processor_seconds() - before
            print(f"cell: {command[2]} took {used:.1f} s of processor time", file=sys.stderr)
    except UserError as error:
        print(f"cell: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
