"""python -m benchmarks.duplicates: what finding near-duplicates costs, and how many planted copies are found.

Imports no numpy: on Linux a child's peak memory begins with its parent's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.children import SPAWN, progress
from webdistill.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABELS = {
    "lists": "inverted lists, as for large pools",
    "exact": "exact search, as for small pools",
}
THRESHOLD = 0.88
SYNTHETIC = "synthetic"
SIDE = 32  # px of the thumbnails, as in stages/filter
COPIES = 100  # one image in so many is a copy of another one
BLOCK = 4096


def write_pool(source: str, originals: int, images: int, tests: int, folder: Path) -> None:
    """pool.npy [images, 32, 32, 3], tests.npy, and planted.json: [[row of the copy, row of the original], ...].

    First come `originals` pictures of the source; when they are used up, the mean of two of them, which is a new
    picture with the spectrum of photographs. Copies are mirrored, or shrunk and enlarged, and get other brightness and
    noise.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    base = _base(source, min(originals, images))
    copies = max(images // COPIES, 1)
    pool = np.lib.format.open_memmap(folder / "pool.npy", "w+", np.uint8, (images, SIDE, SIDE, 3))
    different = images - copies
    for start in range(0, different, BLOCK):
        stop = min(start + BLOCK, different)
        pool[start:stop] = _pictures(base, start, stop, rng)
    chosen = rng.choice(different, copies, replace=False)
    for row, original in enumerate(chosen.tolist(), different):
        pool[row] = _copy(pool[original], rng)
    pairs = [[row, original] for row, original in enumerate(chosen.tolist(), different)]
    test = np.stack([_copy(pool[row], rng) for row in rng.choice(different, tests, replace=False)])
    np.save(folder / "tests.npy", test)
    (folder / "planted.json").write_text(json.dumps(pairs))


def _base(source: str, count: int) -> NDArray[np.uint8]:
    """Thumbnails of the source's images; `synthetic`: pictures of smooth noise."""
    import numpy as np

    if source != SYNTHETIC:
        from benchmarks.pixels import load

        return load(source, count)
    rng = np.random.default_rng(1)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    frequency[0, 0] = np.inf
    out = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for picture in out:
        noise = np.fft.rfft2(rng.normal(size=(3, SIDE, SIDE)))
        field = np.fft.irfft2((0.7 * noise[:1] + 0.3 * noise) / frequency, (SIDE, SIDE))
        picture[:] = np.clip(field / field.std() * 45 + 128, 0, 255).transpose(1, 2, 0)
    return out


def _pictures(
    base: NDArray[np.uint8], start: int, stop: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    import numpy as np

    own = base[start:stop]
    more = stop - start - len(own)
    one, two = rng.integers(0, len(base), (2, more))
    mixed = (base[one].astype(np.uint16) + base[two]) // 2
    return np.concatenate([own, mixed.astype(np.uint8)])


def _copy(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    import numpy as np
    from PIL import Image

    if rng.random() < 0.5:
        changed = picture[:, ::-1].astype(np.float32)
    else:
        image = Image.fromarray(picture).resize((24, 24), Image.Resampling.BICUBIC)
        changed = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    changed = changed * rng.uniform(0.8, 1.15) + rng.normal(0, 3, changed.shape)
    return np.clip(changed, 0, 255).astype(np.uint8)


class _OnDisk:
    """Rows of an array in a file, read when asked."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        self._open = lambda: np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self._open())

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        return self._open()[rows]


def measure(name: str, folder: Path, threads: int) -> None:
    """Writes <name>.json: seconds, CPU seconds, peak memory and found copies of one variant."""
    import numpy as np

    from webdistill.images import copies

    copies.EXACT = 0 if name == "lists" else sys.maxsize
    pool, tests = _OnDisk(folder / "pool.npy"), np.load(folder / "tests.npy")
    clock, cpu = time.perf_counter(), time.process_time()
    pairs = copies.find_pairs(pool, None, THRESHOLD, threads=threads)
    within = time.perf_counter() - clock
    leaks = copies.find_pairs(pool, tests, THRESHOLD, threads=threads)
    found = {
        "within": within,
        "against_tests": time.perf_counter() - clock - within,
        "cpu": time.process_time() - cpu,
    }
    group = copies.groups(pairs, len(pool))
    planted = np.array(json.loads((folder / "planted.json").read_text()))
    found |= {
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "found": float((group[planted[:, 0]] == group[planted[:, 1]]).mean()),
        "tests_found": len(np.unique(leaks.reference)) / len(tests),
        "pairs": len(pairs.query),
    }
    (folder / f"{name}.json").write_text(json.dumps(found))


def _alone(work: Callable[..., None], *arguments: object) -> None:
    """In a process of its own, whose memory is nobody's."""
    process = SPAWN.Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise UserError(f"{work.__name__} has failed; its message is above")


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| search | within, s | against tests, s | CPU s | peak MiB | copies found | test images found |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in found.items():
        cells = (
            LABELS[name],
            f"{one['within']:.1f}",
            f"{one['against_tests']:.1f}",
            f"{one['cpu']:.1f}",
            f"{one['peak_mib']:.0f}",
            f"{one['found']:.4f}",
            f"{one['tests_found']:.4f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.duplicates", description=__doc__)
    add = parser.add_argument
    add(
        "--source",
        default=SYNTHETIC,
        metavar="FOLDER",
        help="Parquet files with encoded images in the column `image`, or `synthetic` (%(default)s)",
    )
    add(
        "--originals",
        type=int,
        default=20_000,
        metavar="N",
        help="pictures taken from the source; further ones are means of two (%(default)s)",
    )
    add("--images", type=int, default=100_000, metavar="N", help="of the pool (%(default)s)")
    add("--tests", type=int, default=10_000, metavar="N", help="test images (%(default)s)")
    add("--threads", type=int, default=2, metavar="N", help="of every variant (%(default)s)")
    add(
        "--variants",
        nargs="+",
        default=["lists"],
        choices=list(LABELS),
        help="the exact search takes time in proportion to the square (%(default)s)",
    )
    add("--out", type=Path, metavar="FILE", help="write the results as JSON too")
    chosen = parser.parse_args(given)
    if chosen.images < COPIES or not 1 <= chosen.tests <= chosen.images // 2 or chosen.threads < 1:
        parser.error(
            f"--images must be at least {COPIES}, --tests 1 to half of them, --threads at least 1"
        )
    return chosen


def main(given: Sequence[str] | None = None) -> None:
    chosen = arguments(given)
    for library in ("OMP", "OPENBLAS", "MKL"):  # before they are imported in the children
        os.environ[f"{library}_NUM_THREADS"] = str(chosen.threads)
    load = os.getloadavg()[0]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _alone(write_pool, chosen.source, chosen.originals, chosen.images, chosen.tests, folder)
        for variant in LABELS:
            if variant in chosen.variants:
                _alone(measure, variant, folder, chosen.threads)
                found[variant] = json.loads((folder / f"{variant}.json").read_text())
                progress(f"{variant}: {found[variant]['within']:.1f} s within the pool")
    print(
        f"{chosen.images:,} images made of {chosen.originals:,} of `{Path(chosen.source).name}`, one in {COPIES} a "
        f"planted copy, and {chosen.tests:,} copies as test images; {chosen.threads} threads, "
        f"faiss-cpu {version('faiss-cpu')}, numpy {version('numpy')}\n(load average before the run: {load:.2f})\n"
    )
    print(table(found))
    if chosen.out:
        setting = {
            name: getattr(chosen, name) for name in ("originals", "images", "tests", "threads")
        }
        report = {"setting": setting, "load_before": load, "results": found}
        chosen.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
