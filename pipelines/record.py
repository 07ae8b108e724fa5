"""Keep the evidence for a claim: command, parameters, lock, metrics and hardware in one folder of records/.

    python -m pipelines.record quickstart --claim "..." --command "make repro" [--measured seconds=312] [FILE ...]

Writes records/<date>-<name>/: record.json, the params.yaml and dvc.lock of the moment, metrics/<stage>.json of the
main pipeline and copies of the files named.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from webdistill.core.files import write_json
from webdistill.core.params import STAGES

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--claim", required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--measured", nargs="*", default=[], metavar="NAME=NUMBER")
    arguments = parser.parse_args()
    folder = Path("records") / f"{dt.datetime.now(tz=dt.UTC):%Y-%m-%d}-{arguments.name}"
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        shutil.copyfile(Path("data") / stage / "metrics.json", folder / "metrics" / f"{stage}.json")
    for path in (Path("params.yaml"), Path("dvc.lock"), *arguments.files):
        taken = path.parent != Path() and path.name in ("params.yaml", "dvc.lock")
        shutil.copyfile(path, folder / (f"{path.parent.name}.{path.name}" if taken else path.name))
    measured = {
        name: float(value) for name, _, value in (m.partition("=") for m in arguments.measured)
    }
    write_json(
        {
            "claim": arguments.claim,
            "command": arguments.command,
            "measured": measured,
            "hardware": hardware(),
        },
        folder / "record.json",
    )


if __name__ == "__main__":
    main()
