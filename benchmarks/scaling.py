"""The stages `embed` and `score` on a Ray cluster of this machine, beside the local engine, in turns.

    python -m benchmarks.scaling [--shards 4] [--images 2000] [--stages score embed] [--repeat 2] [--out FILE]

engines   images/s here, with one worker and with two; the time that a killed worker costs
driver    memory of the driver at few shards and at `--many`

The pool repeats the quickstart's test pictures. The cluster is that of the tests: a head with one CPU and, for two
workers, a second raylet, in a network of its own. Each run is a program of its own, whose whole time counts.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.children import progress
from benchmarks.image_server import encoded_images
from benchmarks.process_tree import Tree, check
from tests.engine.ray_cluster import RayCluster, descendants
from tests.small_project import Project, create, set_params
from webdistill.core.errors import UserError
from webdistill.core.files import remove, write_manifest
from webdistill.images.pool import PoolRow, write_pool
from webdistill.images.stored import encode

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("local", "ray, 1 worker", "ray, 2 workers")
WORKER = b"ray::"  # how Ray names a process that computes,
OTHERS = (b"ray::IDLE", b"ray::DashboardAgent", b"ray::RuntimeEnvAgent")  # and those that do not


def make_pool(root: Path, shards: int, images: int) -> None:
    """`shards` x `images` pictures of 64 px."""
    pool = root / "data/fetch/pool"
    remove(pool)
    files = []
    for data in encoded_images(ROOT / "data/quickstart/test/images.parquet", 400):
        with Image.open(io.BytesIO(data)) as image:
            files.append(encode(image.convert("RGB").resize((64, 64))))
    count = shards * images
    rows = (
        PoolRow(f"{n:032x}", data, 64, 64, "cat", "")
        for n, data in enumerate(islice(cycle(files), count))
    )
    write_pool(rows, pool, images)
    write_manifest(pool)


class Runs:
    """Runs of stages of one project, each from the beginning."""

    def __init__(self, project: Project, cluster: RayCluster) -> None:
        self._project, self._cluster = project, cluster

    def whole(self, stage: str, engine: str, *, kill: bool = False) -> dict[str, Any]:
        """One run. `kill`: a worker, half-way through what a run without takes."""
        root = self._project.root
        for folder in (root / "data" / stage, root / ".work" / stage):
            shutil.rmtree(folder, ignore_errors=True)
        with self._second(engine.startswith("ray, 2")):
            begun, killed = time.monotonic(), False
            command = [sys.executable, "-m", f"stages.{stage}"]
            name = "local" if engine == "local" else "ray"
            environment = {
                **self._cluster.environment,
                "PYTHONPATH": str(root),
                "WEBDISTILL_ENGINE": name,
            }
            environment["OMP_NUM_THREADS"] = "1"
            inside = [] if name == "local" else self._cluster.inside
            tree = Tree([*inside, *command], root, environment, root / "log")
            try:
                while tree.running():
                    if kill and not killed and (worker := self._at_work()):
                        time.sleep(2)  # it is within a shard
                        os.kill(worker, 9)
                        killed = True
                check(tree, f"{stage}, {engine}")
            finally:
                tree.end()
        if kill and not killed:
            raise UserError("no worker was at work long enough to be killed; raise --images")
        return {
            "seconds": time.monotonic() - begun,
            "driver_cpu_seconds": tree.cpu_seconds,
            "driver_peak_rss_mib": tree.peak_rss_mib,
        }

    def _at_work(self) -> int | None:
        for pid in descendants(os.getpid()):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if words.startswith(WORKER) and not words.startswith(OTHERS):
                return pid
        return None

    @contextmanager
    def _second(self, wanted: bool) -> Iterator[None]:
        raylet = self._cluster.second() if wanted else None
        try:
            yield
        finally:
            if raylet is not None:
                self._cluster.stop(raylet)


def engines(runs: Runs, stages: Sequence[str], images: int, repeat: int) -> list[dict[str, Any]]:
    """Rows stage x engine, measured in turns; then one in which a worker is killed."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for turn in range(repeat):
        for stage in stages:
            for engine in ENGINES if turn % 2 == 0 else reversed(ENGINES):
                found.setdefault((stage, engine), []).append(runs.whole(stage, engine))
                progress(f"{stage}, {engine}: {found[stage, engine][-1]['seconds']:.1f} s")
    for stage in stages:
        name = "ray, 2 workers, one killed"
        found[stage, name] = [runs.whole(stage, ENGINES[2], kill=True)]
        progress(f"{stage}, {name}: {found[stage, name][0]['seconds']:.1f} s")
    rows = []
    for (stage, engine), mine in found.items():
        pairs = zip(mine, found[stage, "local"], strict=False)
        rows.append(
            {
                "stage": stage,
                "engine": engine,
                "images": images,
                "seconds": statistics.median(one["seconds"] for one in mine),
                "ratios": sorted(b["seconds"] / a["seconds"] for a, b in pairs),
                "driver_peak_rss_mib": max(one["driver_peak_rss_mib"] for one in mine),
                "runs": mine,
            }
        )
    return rows


def driver(runs: Runs, project: Project, many: int) -> Iterator[dict[str, Any]]:
    """Rows of `score` with few and with many shards of 8 images; a batch is filled up, so it is as small."""
    set_params(project.root, ["score.batch_size=8"])
    for shards in (10, many) if many else ():
        make_pool(project.root, shards, 8)
        one = runs.whole("score", ENGINES[1])
        progress(f"{shards} shards: {one['driver_peak_rss_mib']:.0f} MiB, {one['seconds']:.0f} s")
        name = f"ray, 1 worker, {shards:,} shards"
        yield {"stage": "score", "engine": name, "images": 8 * shards, "ratios": [], **one}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| stage | engine | images | s | images/s | times local | lowest - highest | driver's peak RSS, MiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in rows:
        speed, ratios = one["images"] / one["seconds"], one["ratios"]
        middle = (
            f"{statistics.median(ratios):.2f}" if ratios else ""
        )  # none without the local engine
        spread = f"{ratios[0]:.2f} - {ratios[-1]:.2f}" if ratios else ""
        lines.append(
            f"| {one['stage']} | {one['engine']} | {one['images']:,} | {one['seconds']:.1f} | {speed:.0f} | "
            f"{middle} | {spread} | {one['driver_peak_rss_mib']:.0f} |"
        )
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    for name, default, meaning in (
        ("shards", 4, "of the pool"),
        ("images", 2000, "per shard"),
        ("many", 1000, "shards of 8 images each, for the driver's memory; 0 = not measured"),
        ("repeat", 2, "runs of each kind; 0 = the driver's memory alone"),
    ):
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (%(default)s)")
    add("--stages", nargs="+", default=["score", "embed"], choices=["score", "embed"])
    add("--out", type=Path, metavar="FILE", help="write all figures as JSON too")
    chosen = parser.parse_args(given)
    if min(chosen.shards, chosen.images) < 1 or min(chosen.repeat, chosen.many) < 0:
        parser.error("--shards and --images must be at least 1, --repeat and --many at least 0")
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        project = create(Path(folder) / "project")
        set_params(project.root, ["task.threads=1"])
        rows: list[dict[str, Any]] = []
        if chosen.repeat:
            make_pool(project.root, chosen.shards, chosen.images)
            with RayCluster(project.environment) as cluster:
                runs = Runs(project, cluster)
                rows = engines(runs, chosen.stages, chosen.shards * chosen.images, chosen.repeat)
            save(rows, chosen.out)
        # A cluster of its own: the other one has had a worker killed.
        with RayCluster(project.environment) as cluster:
            rows += driver(Runs(project, cluster), project, chosen.many)
    save(rows, chosen.out)
    print(f"{chosen.shards} shards of {chosen.images:,} images; load average before: {load:.1f}\n")
    print(table(rows))


def save(rows: Sequence[dict[str, Any]], path: Path | None) -> None:
    """What is there so far, as JSON."""
    if path:
        path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
