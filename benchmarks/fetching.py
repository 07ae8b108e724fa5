"""python -m benchmarks.fetching: the stage `fetch` beside img2dataset, on one local server.

Scenarios: plain (in turns with the peer), faults (a share fails, another is never answered), memory (many more
candidates), resume (kill -9 half-way, then the same command again).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.children import progress
from benchmarks.crawls import STORE_SIDE, Crawls, Job, Measured, Setting
from benchmarks.image_server import SYNTHETIC, Faults, write_pictures
from webdistill.core.errors import UserError

SCENARIOS = ("plain", "faults", "memory", "resume")
FAILING, HANGING = 0.10, 0.02
FEW = 8  # pictures of a crawl that stands for start and end of the program


@dataclass(frozen=True)
class Row:
    """A crawl that is measured, and the name of the one that its speed is divided by."""

    label: str
    job: Job
    beside: str
    once: bool = False


def plan(chosen: argparse.Namespace) -> dict[str, Row]:
    """The table's rows by name; the first is always our crawl of the first size without faults."""
    plain, first = "plain" in chosen.scenarios, f"ours-{chosen.sides[0]}"
    fair = Faults(latency=chosen.latency)
    rows: dict[str, Row] = {}
    for side in chosen.sides if plain else chosen.sides[:1]:
        ours, peer = f"ours-{side}", f"peer-{side}"
        beside = peer if plain and chosen.peer else ours
        rows[ours] = Row(f"fetch, {side} px", Job("ours", side, chosen.count, fair), beside)
        if plain and chosen.webp:
            job = Job("ours", side, chosen.count, fair, "webp")
            rows[f"webp-{side}"] = Row(f"fetch as lossless WebP, {side} px", job, beside)
        if beside == peer:
            label = f"img2dataset, {side} px"
            rows[peer] = Row(label, Job("peer", side, chosen.count, fair), peer)
    if "faults" in chosen.scenarios:
        faults = Faults(FAILING, HANGING, chosen.latency)
        label = f"fetch, {FAILING:.0%} fail, {HANGING:.0%} hang"
        rows["faults"] = Row(label, Job("ours", chosen.sides[0], chosen.count, faults), first)
    if "memory" in chosen.scenarios:
        label = f"fetch, {chosen.many:,} candidates"
        rows["many"] = Row(label, Job("ours", chosen.sides[0], chosen.many, fair), first, once=True)
    return rows


def measure(rows: Mapping[str, Row], crawls: Crawls, repeat: int) -> dict[str, list[Measured]]:
    """All rows in turns, every other time backwards; what takes long once, at the end.

    Each crawl also has the processor seconds of one of a few pictures, which is start and end and nothing else.
    """
    found: dict[str, list[Measured]] = {name: [] for name in rows}
    turn = [name for name, row in rows.items() if not row.once]
    order = [name for n in range(repeat) for name in (turn if n % 2 == 0 else reversed(turn))]
    order += [name for name, row in rows.items() if row.once]
    start: dict[tuple[str, str], float] = {}
    for at, name in enumerate(order, 1):
        job = rows[name].job
        program = job.tool, job.file_format
        if program not in start:
            start[program] = crawls.whole(replace(job, count=FEW))["cpu_seconds"]
        found[name].append({**crawls.whole(job), "start_cpu_seconds": start[program]})
        progress(f"{at} of {len(order)}: {name}: {found[name][-1]['seconds']:.1f} s")
    return found


def rates(one: Measured, count: int) -> dict[str, float]:
    """Images and candidates per second; candidates without start and end of the program; the last two by processor."""
    work = max(one["cpu_seconds"] - one["start_cpu_seconds"], 0.01)
    return {
        "images": one["states"]["images"] / one["seconds"],
        "candidates": count / one["seconds"],
        "between_requests": count / one["first_to_last_request"],
        "cpu": count / one["cpu_seconds"],
        "cpu_without_start": count / work,
    }


def results(
    rows: Mapping[str, Row], found: Mapping[str, Sequence[Measured]]
) -> dict[str, dict[str, Any]]:
    """Figures by row: medians, peaks of all, sorted ratios of the speeds in each pair with the row beside."""
    out: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        mine = [rates(one, row.job.count) for one in found[name]]
        beside = [rates(one, rows[row.beside].job.count) for one in found[row.beside]]
        pairs = list(zip(mine, beside, strict=False))  # one, for what is measured once
        ratios = {kind: sorted(a[kind] / b[kind] for a, b in pairs) for kind in mine[0]}
        medians = {
            key: statistics.median(one[key] for one in found[name])
            for key in (
                "seconds",
                "to_first_request",
                "cpu_seconds",
                "start_cpu_seconds",
                "server_cpu_seconds",
            )
        }
        peaks = {
            key: max(one[key] for one in found[name]) for key in ("peak_rss_mib", "peak_pss_mib")
        }
        out[name] = {
            "label": row.label,
            "beside": row.beside,
            "candidates": row.job.count,
            "images": min(one["states"]["images"] for one in found[name]),
            "images_per_second": statistics.median(one["images"] for one in mine),
            "ratios": ratios,
            **medians,
            **peaks,
            "runs": list(found[name]),
        }
    return out


def speeds(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: ratios."""
    lines = [
        (
            "| crawl | images/s, times those of | ratio | lowest - highest | of candidates/s | without start | "
            "candidates per CPU s | without start |"
        ),
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in found.values():
        ratios = one["ratios"]
        cells = (
            one["label"],
            found[one["beside"]]["label"],
            f"{statistics.median(ratios['images']):.2f}",
            f"{ratios['images'][0]:.2f} - {ratios['images'][-1]:.2f}",
            *(
                f"{statistics.median(ratios[kind]):.2f}"
                for kind in ("candidates", "between_requests", "cpu", "cpu_without_start")
            ),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def costs(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: what belongs to this machine."""
    lines = [
        (
            "| crawl | images | s | to the first request, s | images/s | CPU s | "
            "for start and end | server's CPU s | peak RSS, MiB | PSS |"
        ),
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in found.values():
        cells = (
            one["label"],
            f"{one['images']:,} of {one['candidates']:,}",
            *(f"{one[key]:.1f}" for key in ("seconds", "to_first_request")),
            f"{one['images_per_second']:.0f}",
            *(
                f"{one[key]:.1f}"
                for key in ("cpu_seconds", "start_cpu_seconds", "server_cpu_seconds")
            ),
            *(f"{one[key]:.0f}" for key in ("peak_rss_mib", "peak_pss_mib")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def resumed(one: Measured, whole: Measured) -> str:
    """What was measured about a killed crawl."""
    same = "the same bytes as after" if one["pool"] == whole["pool"] else "OTHER BYTES THAN AFTER"
    return (
        f"Killed (kill -9) when {one['asked_before']:,} pictures had been asked for: "
        f"{one['to_first_new_request']:.1f} s from the second start to the first new request "
        f"({whole['to_first_request']:.1f} s in a crawl from the beginning), {one['asked_twice']:,} asked for twice; "
        f"the pool has {same} an uninterrupted crawl."
    )


def heading(chosen: argparse.Namespace, peer: str, load: float) -> str:
    """What was measured on what."""
    beside = f", by img2dataset {peer} as jpg" if peer else ""
    return (
        f"{chosen.count:,} JPEGs ({chosen.images}), stored with a shorter side of {STORE_SIDE} px as jpeg"
        f"{beside}; {chosen.processes} processes, {chosen.slots} requests at once; median of {chosen.repeat} "
        f"interleaved repetitions; load average before the run: {load:.2f}"
    )


def peer_version(python: Path) -> str:
    """Raises UserError unless this interpreter has img2dataset."""
    ask = "from importlib.metadata import version; print(version('img2dataset'))"
    try:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UserError(
            f"--peer {python}: no Python that has img2dataset; install it there"
        ) from None
    return done.stdout.strip()


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fetching",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    with_images = "Parquet file with encoded images in the column `image` (%(default)s)"
    add("--images", default=SYNTHETIC, metavar="FILE", help=with_images)
    add("--peer", type=Path, metavar="PYTHON", help="one that has img2dataset; default: none")
    add("--out", type=Path, metavar="FILE", help="write all figures as JSON too")
    add("--scenarios", nargs="+", default=SCENARIOS, choices=SCENARIOS, help="default: all")
    help_sides = "shorter sides of the JPEGs; scenarios but plain take the first (%(default)s)"
    add("--sides", nargs="+", type=int, default=[64, 256], metavar="PX", help=help_sides)
    add("--no-webp", dest="webp", action="store_false", help="leave out ours with lossless WebP")
    for name, default, meaning in (
        ("count", 20_000, "candidates"),
        ("many", 200_000, "candidates of the scenario memory"),
        ("processes", 2, "of both"),
        ("slots", 64, "requests at once of both"),
        ("repeat", 3, "crawls of each kind, but for memory and resume"),
    ):
        add(f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (%(default)s)")
    add("--latency", type=float, default=0.0, metavar="S", help="before each answer (%(default)s)")
    chosen = parser.parse_args(given)
    if min(chosen.processes, chosen.repeat, chosen.slots // max(chosen.processes, 1)) < 1:
        parser.error("--processes and --repeat must be at least 1, --slots at least --processes")
    if min(chosen.count, *chosen.sides) < 8 or not chosen.count <= chosen.many < 255 * chosen.count:
        parser.error("--count and --sides must be at least 8, --many from --count to 254 x --count")
    return chosen


def main(given: Sequence[str] | None = None) -> None:
    chosen = arguments(given)
    peer = peer_version(chosen.peer) if chosen.peer else ""
    rows, load = plan(chosen), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for side in sorted({row.job.side for row in rows.values()}):
            progress(f"making {chosen.count:,} JPEGs of {side} px")
            write_pictures(chosen.images, chosen.count, side, work / f"pictures-{side}")
        interpreter = chosen.peer and chosen.peer.absolute()
        setting = Setting(work, interpreter, chosen.processes, chosen.slots)
        crawls = Crawls(setting)
        found = measure(rows, crawls, chosen.repeat)
        first = next(iter(rows))
        killed = crawls.killed(rows[first].job) if "resume" in chosen.scenarios else None
    figures = results(rows, found)
    print(heading(chosen, peer, load), speeds(figures), costs(figures), sep="\n\n")
    if killed is not None:
        print("\n" + resumed(killed, found[first][0]))
    if chosen.out:
        report = {
            "setting": vars(chosen),
            "peer": peer,
            "load_before": load,
            "results": figures,
            "resume": killed,
        }
        chosen.out.write_text(json.dumps(report, indent=1, default=str) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
