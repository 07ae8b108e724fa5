"""python -m benchmarks.kd3_step: how fast an epoch of KD3 is, beside a straightforward version of it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.children import Child, measure, read_pixels
from benchmarks.plan import SECTIONS, VARIANTS, Setting
from webdistill.core.errors import UserError


def result(child: Child) -> dict[str, Any]:
    """Speed of a variant's measured epochs, and what it said of itself."""
    speeds = [run["images"] / run["seconds"] for run in child.runs]
    return {
        "images_per_second": statistics.median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        "seconds": [run["seconds"] for run in child.runs],
        **child.facts,
    }


def ratios(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Speed of every measured row of every table, divided by that of its reference where that was measured too."""
    return [
        {
            "table": section.title,
            "variant": name,
            "reference": reference,
            "ratio": results[name]["images_per_second"] / results[reference]["images_per_second"],
        }
        for section in SECTIONS
        for name, reference in section.rows
        if name in results and reference in results
    ]


def tables(results: dict[str, Any], skipped: dict[str, str]) -> str:
    """Markdown: one table per section; ratios first."""
    lines = []
    found = ratios(results)
    for section in SECTIONS:
        rows = [row for row in found if row["table"] == section.title]
        if not any(row["variant"] != row["reference"] for row in rows):
            continue
        lines += [
            f"| {section.title} | ratio | img/s | lowest - highest | peak MiB | warm-up s |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        lines += [_line(row, results[row["variant"]]) for row in rows]
        lines.append("")
    if "compiled" in results:
        one = results["compiled"]
        compiling = one["warm_up"] - statistics.median(one["seconds"])
        lines.append(f"Compiling took {compiling:.1f} s (warm-up less one epoch).")
    lines += [f"Left out: {name} ({reason})." for name, reason in skipped.items()]
    return "\n".join(lines).strip()


def _line(row: dict[str, Any], result: dict[str, Any]) -> str:
    label = VARIANTS[row["variant"]].label
    memory = result.get("peak_device_mib", result["peak_mib"])
    cells = (
        f"{label} ({result['precision']})",
        f"{row['ratio']:.2f}",
        f"{result['images_per_second']:.0f}",
        f"{result['lowest']:.0f} - {result['highest']:.0f}",
        f"{memory:.0f}",
        f"{result['warm_up']:.1f}",
    )
    return f"| {' | '.join(cells)} |"


def heading(setting: Setting, results: dict[str, Any], count: int, repeat: int) -> str:
    """What was measured on what, in one line."""
    device = next(iter(results.values()))["device"]
    return (
        f"KD3, {setting.teacher} -> {setting.student}, batch {setting.batch}, {count} images an epoch, {device}, "
        f"{setting.threads} threads, torch {version('torch')}; median of {repeat} interleaved repetitions"
    )


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kd3_step", description=__doc__)
    add = parser.add_argument
    add(
        "--images",
        default="../shared/data/tinyimagenet64",
        metavar="FOLDER",
        help="Parquet files with a column `image`, or `synthetic` for noise (default: %(default)s)",
    )
    add("--images-count", type=int, default=1024, metavar="N", help="per epoch (%(default)s)")
    add("--teacher", default="resnet56", help="architecture (%(default)s)")
    add("--student", default="resnet20", help="architecture (%(default)s)")
    add("--batch", type=int, default=256, metavar="N", help="images per step (%(default)s)")
    add("--threads", type=int, default=2, metavar="N", help="of every variant (%(default)s)")
    add("--workers", type=int, default=2, metavar="N", help="of the plain loaders (%(default)s)")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--repeat", type=int, default=3, metavar="N", help="measured epochs (%(default)s)")
    add(
        "--variants",
        nargs="+",
        default=list(VARIANTS),
        choices=list(VARIANTS),
        metavar="NAME",
        help=f"some of: {', '.join(VARIANTS)}",
    )
    add(
        "--compile-limit",
        type=float,
        default=600,
        metavar="SECONDS",
        help="for torch.compile (%(default)s)",
    )
    add("--out", type=Path, metavar="FILE", help="write the results as JSON too")
    chosen = parser.parse_args(given)
    if not 1 <= chosen.batch <= chosen.images_count or chosen.repeat < 1:
        parser.error("--images-count must be at least --batch, and --repeat at least 1")
    return chosen


def main(given: Sequence[str] | None = None) -> None:
    chosen = arguments(given)
    setting = Setting(
        chosen.teacher, chosen.student, chosen.batch, chosen.threads, chosen.workers, chosen.device
    )
    names = [name for name in VARIANTS if name in chosen.variants]
    skipped = {}
    if "compiled" in names and not shutil.which(os.environ.get("CXX", "g++")):
        names.remove("compiled")
        skipped["compiled"] = "no C++ compiler here"
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder, "inductor"))  # compiles anew
        pixels = Path(folder, "pixels.npy")
        read_pixels(chosen.images, chosen.images_count, pixels)
        children, late = measure(names, setting, pixels, chosen.repeat, chosen.compile_limit)
    skipped |= late
    results = {child.name: result(child) for child in children}
    print(heading(setting, results, chosen.images_count, chosen.repeat))
    print(f"(load average before the run: {load:.2f})\n")
    print(tables(results, skipped))
    if chosen.out:
        report = {
            "setting": asdict(setting), "images": chosen.images, "images_count": chosen.images_count,
            "repeat": chosen.repeat, "torch": version("torch"), "load_before": load,
            "results": results, "ratios": ratios(results), "skipped": skipped,
        }  # fmt: skip
        chosen.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
