"""What a report, a pool page and `why` cost with many images: memory, time, and the size of the page.

    python -m benchmarks.rows [--rows 100000 1000000] [--out FILE]

The project is synthetic: every table that these programs read has so many rows with addresses, licences and captions of
usual length; the pictures are few and repeat. The student's figures are those of the tests' small project.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.children import progress
from benchmarks.process_tree import Tree, check
from tests.stages.report_project import CLASSES, IMAGE, build_project, webp
from webdistill.core.errors import UserError
from webdistill.core.files import remove, write_json, write_manifest, write_table
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).resolve().parents[1]
SHARD = 10_000
SHARES = {"pool": 0.8, "kept": 0.5, "selected": 0.3}  # of the candidates
LICENCES = (("cc by 2.0", "https://creativecommons.org/licenses/by/2.0/"), ("cc0", ""), ("", ""))
COMMANDS = {
    "report": ["-m", "stages.report"],
    "pool-page": ["-m", "webdistill", "pool-page"],
    "why": ["-m", "webdistill", "why", f"{7:032x}"],
    "lost": ["-m", "webdistill", "lost"],
    "select": ["-m", "stages.select"],
}


def make_project(root: Path, rows: int) -> None:
    """All tables, with ids that are no order of their own."""
    build_project(root)
    raw = read_yaml(ROOT / "params.yaml")
    raw["task"] |= {"classes": list(CLASSES), "teacher": "teacher", "test_images": "tests.parquet"}
    raw["report"] |= {"truth": False}  # of the web nobody has any
    write_json(raw, root / "params.yaml")  # JSON is YAML
    data = root / "data"
    pool, kept, selected = (int(rows * SHARES[name]) for name in ("pool", "kept", "selected"))
    rng = np.random.default_rng(0)
    _ledger(data, rows, pool)
    remove(data / "fetch/pool")
    remove(data / "score/teacher")
    pictures = [{"bytes": webp(n), "path": None} for n in range(100)]
    scores = []
    for number, start in enumerate(range(0, pool, SHARD)):
        at = range(start, min(start + SHARD, pool))
        scores.append(_shard(data, number, at, pictures, rng))
    for folder in ("fetch/pool", "score/teacher"):
        write_manifest(data / folder)
    write_table(pa.concat_tables(scores), data / "embed/scores.parquet")
    write_table(pa.table({"id": ids(range(kept))}), data / "filter/kept.parquet")
    rest = range(kept, pool)
    dropped = {
        "id": ids(rest),
        "reason": [("low_score", "duplicate", "low_margin")[n % 3] for n in rest],
        "value": rng.random(len(rest)),
        "threshold": np.full(len(rest), 0.5),
        "other": [f"{n - kept:032x}" if n % 3 == 1 else "" for n in rest],
    }
    write_table(pa.table(dropped), data / "filter/dropped.parquet")
    chosen = {
        "id": ids(range(selected)),
        "teacher_class": pa.array(np.arange(selected) % 3, pa.int32()),
        "confidence": rng.random(selected, np.float32),
        "weight": np.ones(selected, np.float32),
        "rank": pa.array(np.arange(selected) // 3, pa.int64()),
    }
    write_table(pa.table(chosen), data / "select/selection.parquet")
    nearest = {
        "id": ids(range(selected)),
        "prototype": pa.array(rng.integers(0, 64, selected), pa.int32()),
        "distance": rng.random(selected, np.float32),
    }
    write_table(pa.table(nearest), data / "prototypes/assignment.parquet")


def ids(numbers: range) -> list[str]:
    return [f"{n:032x}" for n in numbers]


def _ledger(data: Path, rows: int, pool: int) -> None:
    numbers = range(rows)
    found = [n < pool for n in numbers]
    licence = [LICENCES[n % 3] for n in numbers]
    table = {
        "row": numbers,
        "url": [
            f"https://live{n % 5000}.example.com/{n % 97:04d}/{n:011d}_a1b2c3d4e5_b.jpg"
            for n in numbers
        ],
        "source": ["http"] * rows,
        "file": [""] * rows,
        "provider": ["list"] * rows,
        "status": ["ok" if one else "not_found" for one in found],
        "id": [f"{n:032x}" if one else "" for n, one in zip(numbers, found, strict=True)],
        "http_status": pa.array([200 if one else 404 for one in found], pa.int32()),
        "bytes": [30_000] * rows,
        "sha256": [f"{n:064x}" if one else "" for n, one in zip(numbers, found, strict=True)],
        "query": [CLASSES[n % 3] for n in numbers],
        "licence": [name for name, _ in licence],
        "licence_url": [url for _, url in licence],
        "creator": [f"Creator {n % 20_000}" for n in numbers],
        "landing_page": [f"https://www.example.org/photos/{n % 20_000}/{n:011d}" for n in numbers],
        "origin": [""] * rows,
        "attribution": [""] * rows,
        "opt_out": [""] * rows,
        "robots": ["allowed"] * rows,
        "detail": ["" if one else "HTTP 404" for one in found],
    }
    write_table(pa.table(table), data / "fetch/ledger.parquet")


def _shard(
    data: Path, number: int, at: range, pictures: list[dict[str, Any]], rng: np.random.Generator
) -> pa.Table:
    """One of pool and teacher. -> its part of the scores"""
    names, count = ids(at), len(at)
    for folder in ("fetch/pool", "score/teacher"):
        (data / folder).mkdir(exist_ok=True)
    side = pa.array([32] * count, pa.int32())
    pool = {
        "id": names,
        "image": pa.array([pictures[n % len(pictures)] for n in at], IMAGE),
        "width": side,
        "height": side,
        "query": [CLASSES[n % 3] for n in at],
        "caption": [f"a photograph of something, number {n}, as its page says" for n in at],
    }
    write_table(pa.table(pool), data / f"fetch/pool/{number:05d}.parquet")
    logits = rng.normal(0, 3, 3 * count).astype(np.float16)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(logits), 3)
    write_table(
        pa.table({"id": names, "logits": flat}), data / f"score/teacher/{number:05d}.parquet"
    )
    return pa.table(
        {
            "id": names,
            "query": pool["query"],
            "query_class": pa.array([n % 3 for n in at], pa.int32()),
            "clip_class": pa.array(rng.integers(0, 3, count), pa.int32()),
            "score": rng.random(count, np.float32),
            "margin": rng.random(count, np.float32),
        }
    )


def measure(rows: int) -> Iterator[dict[str, Any]]:
    """A row per program."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_project(root, rows)
        environment = {"PYTHONPATH": str(ROOT), "WEBDISTILL_TRACKING": "off"}
        for name, command in COMMANDS.items():
            tree = Tree([sys.executable, *command], root, environment, root / "log")
            try:
                check(tree, name)
            finally:
                tree.end()
            page = {
                "report": root / "data/report/report.html",
                "pool-page": root / ".work/pool.html",
            }.get(name)
            yield {
                "program": name,
                "rows": rows,
                "seconds": tree.ended - tree.begun,
                "cpu_seconds": tree.cpu_seconds,
                "peak_rss_mib": tree.peak_rss_mib,
                "page_mib": page.stat().st_size / 2**20 if page else None,
            }
            progress(
                f"{name}, {rows:,} rows: {tree.cpu_seconds:.0f} CPU s, {tree.peak_rss_mib:.0f} MiB"
            )


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| program | candidates | peak RSS, MiB | CPU s | s | page, MiB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for one in found:
        page = f"{one['page_mib']:.1f}" if one["page_mib"] else ""
        costs = f"{one['peak_rss_mib']:.0f} | {one['cpu_seconds']:.1f} | {one['seconds']:.1f}"
        lines.append(f"| {one['program']} | {one['rows']:,} | {costs} | {page} |")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rows",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    help_rows = "candidates (%(default)s); at least 100"
    add("--rows", type=int, nargs="+", default=[100_000, 1_000_000], metavar="N", help=help_rows)
    add("--out", type=Path, metavar="FILE", help="write all figures as JSON too")
    chosen = parser.parse_args(given)
    if min(chosen.rows) < 100:
        parser.error("--rows must be at least 100")
    found = [one for rows in chosen.rows for one in measure(rows)]
    load = f"load average afterwards: {os.getloadavg()[0]:.1f}"
    print(f"{table(found)}\n\n{load}")
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
