"""Keep the evidence for a claim: command, parameters, lock, metrics and hardware in one folder of records/.

    python -m pipelines.shared.record quickstart --claim "..." --command "make repro" [--measured seconds=312] [FILE]
    python -m pipelines.shared.record compare --pipeline pipelines/compare --claim "..." --command "..."

Writes records/<date>-<name>/: record.json, copies of the files named, and the params.yaml and dvc.lock of the moment
with metrics/<stage>.json of the main pipeline, or with the table of the matrix pipeline that is named.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from webdistill.core.files import write_json
from webdistill.harness.params import STAGES

TABLE = ("cells.csv", "comparison.md", "comparison.png")
PACKAGES = (
    "torch",
    "torchvision",
    "open-clip-torch",
    "faiss-cpu",
    "mlflow",
    "dvc",
    "numpy",
    "pillow",
    "pyarrow",
)


def hardware() -> dict[str, object]:
    """Processor, cores, memory and versions; no host name, no path."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name).split("+")[0] for name in PACKAGES},
    }


def revision() -> str:
    """The commit that was measured, with `-dirty` when the working tree differs from it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--claim", required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--pipeline", type=Path, help="a matrix pipeline instead of the main one")
    parser.add_argument("--measured", nargs="*", default=[], metavar="NAME=NUMBER")
    arguments = parser.parse_args()
    folder = Path("records") / f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}-{arguments.name}"
    folder.mkdir(parents=True, exist_ok=True)
    pipeline: Path | None = arguments.pipeline
    names = ("params.yaml", "dvc.lock", *(TABLE if pipeline else ()))
    for path in (*((pipeline or Path()) / name for name in names), *arguments.files):
        shutil.copyfile(path, folder / path.name)
    if pipeline is None:
        (folder / "metrics").mkdir(exist_ok=True)
        for stage in STAGES:
            source = Path("data") / stage / "metrics.json"
            shutil.copyfile(source, folder / "metrics" / f"{stage}.json")
    measured = {
        name: float(value) for name, _, value in (m.partition("=") for m in arguments.measured)
    }
    write_json(
        {
            "claim": arguments.claim,
            "command": arguments.command,
            "measured": measured,
            "revision": revision(),
            "hardware": hardware(),
        },
        folder / "record.json",
    )


if __name__ == "__main__":
    main()
