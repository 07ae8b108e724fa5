"""python -m benchmarks.prototypes: what clustering all images costs, beside scikit-learn and FAISS.

Imports no numpy: on Linux a child's peak memory begins with its parent's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.children import SPAWN, Child, progress
from webdistill.core.errors import UserError

LABELS = {
    "ours": "stage `prototypes`",
    "sklearn": "scikit-learn: PCA, MiniBatchKMeans",
    "faiss": "FAISS as delivered: 25 rounds, 256 points a centroid",
    "faiss-all": "FAISS: 25 rounds, all points",
    "faiss-long": "FAISS: as many rounds as ours may take, all points",
}
PEERS = ("scikit-learn", "faiss-cpu", "numpy")


def measure(names: Sequence[str], given: dict[str, int], folder: Path, repeat: int) -> list[Child]:
    """Every variant's process, woken one after another, `repeat` times."""
    for library in ("OMP", "OPENBLAS", "MKL"):  # before they are imported in the children
        os.environ[f"{library}_NUM_THREADS"] = str(given["threads"])
    data = folder / "features.npy"
    _alone(_write, given, data)
    children: list[Child] = []
    try:
        for name in names:
            children.append(_start(name, given, folder, repeat))
            children[-1].facts = children[-1].hear() or {}
        for number in range(repeat):
            for child in children:
                child.connection.send("go")
                child.runs.append(child.hear() or {})
                seconds = child.runs[-1]["seconds"]
                progress(f"{number + 1} of {repeat}: {child.name}: {seconds:.1f} s")
        for child in children:
            child.facts |= child.hear() or {}
    finally:
        for child in children:
            child.end()
    _alone(_judge, given, data, folder, [child.name for child in children])
    for name, facts in json.loads((folder / "judged.json").read_text()).items():
        next(child for child in children if child.name == name).facts |= facts
    return children


def _start(name: str, given: dict[str, int], folder: Path, repeat: int) -> Child:
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=_serve, args=(there, name, given, folder, repeat))
    process.start()
    there.close()  # else the end of the child would never be heard
    return Child(name, process, here)


def _alone(work: Callable[..., None], *arguments: object) -> None:
    """In a process of its own, whose memory is nobody's."""
    process = SPAWN.Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise UserError(f"{work.__name__.strip('_')} has failed; its message is above")


def _serve(connection: Any, name: str, given: dict[str, int], folder: Path, repeat: int) -> None:
    from benchmarks.clusterings import Setting, serve

    data, target = folder / "features.npy", folder / f"{name}.npy"
    serve(connection, name, Setting(**given), data, target, repeat)


def _write(given: dict[str, int], target: Path) -> None:
    from benchmarks.clusterings import Setting, features

    features(Setting(**given), target)


def _judge(given: dict[str, int], data: Path, folder: Path, names: list[str]) -> None:
    from benchmarks.clusterings import Setting, judge

    found = judge(data, Setting(**given), {name: folder / f"{name}.npy" for name in names})
    (folder / "judged.json").write_text(json.dumps(found))


def results(children: Sequence[Child]) -> dict[str, dict[str, Any]]:
    """Figures by variant; seconds and inertia also as multiples of the first one's."""
    found: dict[str, dict[str, Any]] = {}
    for child in children:
        seconds = [run["seconds"] for run in child.runs]
        found[child.name] = {
            "median": statistics.median(seconds),
            "seconds": seconds,
            "cpu_median": statistics.median(run["cpu_seconds"] for run in child.runs),
            **child.facts,
        }
    first = next(iter(found.values()))
    for one in found.values():
        one["time_ratio"] = one["median"] / first["median"]
        one["inertia_ratio"] = one["inertia"] / first["inertia"]
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| clustering | time | s | lowest - highest | CPU s | peak MiB | inertia | smallest cluster | empty |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in found.items():
        cells = (
            LABELS[name],
            f"{one['time_ratio']:.2f}",
            f"{one['median']:.1f}",
            f"{min(one['seconds']):.1f} - {max(one['seconds']):.1f}",
            f"{one['cpu_median']:.1f}",
            f"{one['peak_mib']:.0f}",
            f"{one['inertia_ratio']:.4f}",
            f"{one['smallest']}",
            f"{one['empty']}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def heading(given: dict[str, int], found: dict[str, dict[str, Any]], repeat: int) -> str:
    """What was measured on what, in one line."""
    size = next(iter(found.values()))["features_mib"]
    libraries = ", ".join(f"{name} {version(name)}" for name in PEERS if _installed(name))
    return (
        f"{given['images']:,} x {given['width']} features (float16, {size:.0f} MiB) to {given['count']} clusters in "
        f"{given['dims']} dimensions, at most {given['iterations']} rounds, {given['threads']} threads, {libraries}; "
        f"median of {repeat} interleaved repetitions; time and inertia are multiples of the first row's"
    )


def _installed(name: str) -> bool:
    return name != "scikit-learn" or find_spec("sklearn") is not None


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prototypes", description=__doc__)
    add = parser.add_argument
    for name, default, meaning in (
        ("images", 100_000, "synthetic features"),
        ("width", 512, "of the features"),
        ("count", 256, "clusters"),
        ("dims", 64, "of PCA"),
        ("iterations", 100, "most rounds"),
        ("threads", 2, "of every variant"),
        ("repeat", 3, "measured clusterings of every variant"),
    ):
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (%(default)s)")
    add(
        "--variants",
        nargs="+",
        default=list(LABELS),
        choices=list(LABELS),
        metavar="NAME",
        help=f"some of: {', '.join(LABELS)}",
    )
    add("--out", type=Path, metavar="FILE", help="write the results as JSON too")
    chosen = parser.parse_args(given)
    if min(chosen.count, chosen.dims, chosen.iterations, chosen.threads, chosen.repeat) < 1:
        parser.error("--count, --dims, --iterations, --threads and --repeat must be at least 1")
    if chosen.images < 10 * chosen.count or not chosen.dims <= chosen.width <= chosen.images:
        parser.error("--images must be at least 10 x --count and --width, --width at least --dims")
    return chosen


def main(given: Sequence[str] | None = None) -> None:
    chosen = arguments(given)
    sizes = {
        key: getattr(chosen, key)
        for key in ("images", "width", "count", "dims", "iterations", "threads")
    }
    names = [name for name in LABELS if name in chosen.variants]
    skipped = {}
    if "sklearn" in names and not _installed("scikit-learn"):
        names.remove("sklearn")
        skipped["sklearn"] = "scikit-learn is not installed"
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        children = measure(names, sizes, Path(folder), chosen.repeat)
    found = results(children)
    print(heading(sizes, found, chosen.repeat))
    print(f"(load average before the run: {load:.2f})\n")
    print(table(found))
    for name, reason in skipped.items():
        print(f"\nLeft out: {name} ({reason}).")
    if chosen.out:
        report = {
            "setting": sizes, "repeat": chosen.repeat, "load_before": load, "results": found, "skipped": skipped,
            "packages": {name: version(name) for name in PEERS if _installed(name)},
        }  # fmt: skip
        chosen.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
