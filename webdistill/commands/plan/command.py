"""Put counts, trial and formulas together: one table."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from stages.distill.params import Distill
from stages.distill.pictures import stay_encoded
from webdistill.commands.plan import trial
from webdistill.commands.plan.costs import Counts, stored
from webdistill.commands.plan.counting import Counted, counted
from webdistill.core.errors import UserError
from webdistill.harness.params import Params
from webdistill.images.pool import square
from webdistill.images.stored import decode, encode
from webdistill.models.checkpoint import load_network

POOL = Path("data/fetch/pool")
DECODED = 20  # pictures that are decoded to see how long it takes


def table(settings: Params, pictures: int | None, seconds: float) -> str:
    """Rows of the table. Raises UserError for a teacher that does not load, or where there is no picture."""
    found = counted(settings.raw, pictures)
    if not found.selected:
        raise UserError(
            f"{found.source} holds no pictures that can be counted; say how many with --pictures"
        )
    distill = settings.sections["distill"]
    assert isinstance(distill, Distill)
    threads = torch.get_num_threads()
    try:
        return _tried(settings, distill, found, seconds)
    finally:
        torch.set_num_threads(threads)


def _tried(settings: Params, distill: Distill, found: Counted, seconds: float) -> str:
    guide = load_network(Path(settings.task.teacher))
    tried = trial.prepare(settings, guide)
    side = settings.task.image_size
    encoded = stay_encoded(distill.images, 3 * side**2 * found.selected, tried.device)
    counts = Counts(distill, found.selected, side, tried.answer_bytes, encoded)
    rows = [
        ("pictures", _pictures(found, counts)),
        ("training", _training(counts)),
        ("time", _time(settings, found, counts, tried, seconds)),
        ("memory", _memory(counts, tried)),
        ("disk", _disk(settings, found, counts)),
    ]
    head = f"what the run of params.yaml will cost on {_machine(settings, tried)}"
    return "\n".join([head, *(f"  {about:<9} {text}" for about, text in rows)])


def _machine(settings: Params, tried: trial.Trial) -> str:
    if tried.device.type == "cuda":
        return "this GPU"
    count = settings.task.threads
    return f"this processor with {count} thread{'s' * (count > 1)}"


def _pictures(found: Counted, counts: Counts) -> str:
    most = "" if found.exact else " at most"
    return (
        f"{found.pool:,} in the pool ({found.source}), {found.selected:,} selected{most}: "
        f"{counts.trained:,} to train on, {counts.held:,} held out"
    )


def _training(counts: Counts) -> str:
    chosen = counts.settings
    return (
        f"{chosen.method}, {chosen.student}: {counts.steps:,} steps of {chosen.batch_size} at {counts.side} px, "
        f"{chosen.epochs:,} epoch{'s' * (chosen.epochs > 1)}, {counts.passes:.1f} passes"
    )


def _time(
    settings: Params, found: Counted, counts: Counts, tried: trial.Trial, limit: float
) -> str:
    method = counts.settings.method
    if not limit:
        return "not tried"
    if not trial.possible(counts.settings):
        return f"not tried: {method} makes its images before each epoch; time the first epoch"
    if not counts.steps:
        return "none: fewer pictures than a batch"
    measured = tried.seconds(limit)
    decoding = _decoding(settings) if counts.encoded else 0.0
    whole = counts.seconds(measured, decoding)
    scored = found.pool / counts.settings.batch_size * measured.scored
    phase = " of its first phase" if len(tried.run.phases) > 1 else ""
    wanted = counts.settings.processes
    alone = "" if wanted == 1 else f"; one process was tried, not distill.processes = {wanted}"
    return (
        f"distill {duration(whole)}, score {duration(scored)}, by {measured.tried} steps{phase} of "
        f"{measured.step:.2g} s and passes of the networks; fetching, CLIP and evaluation are not in it{alone}"
    )


def _decoding(settings: Params) -> float:
    """Seconds for a picture of the pool's format and size, with all threads: of noise, which takes a bit longer."""
    fetch, rng = settings.raw["fetch"], np.random.default_rng(0)
    side = fetch["store_size"]
    coarse = Image.fromarray(rng.integers(0, 256, (side // 8 or 1, side // 6 or 1, 3), np.uint8))
    data = encode(coarse.resize((side * 4 // 3, side), Image.Resampling.BICUBIC), fetch["format"])
    begun = time.perf_counter()
    for _ in range(DECODED):
        square(decode(data), settings.task.image_size)
    return (time.perf_counter() - begun) / DECODED / settings.task.threads


def _memory(counts: Counts, tried: trial.Trial) -> str:
    if not trial.possible(counts.settings):  # a step would begin with a whole epoch's images
        return f"not tried: {counts.settings.method} makes its images before each epoch"
    where, answers = counts.answers
    networks, step = tried.memory()
    parts = {
        f"pictures{' (encoded, those decoded ahead)' * counts.encoded}": counts.pixels,
        "the teacher's answers": answers if where == "memory" else 0,
        "networks and optimiser": networks,
        "a step": step,
    }
    told = ", ".join(f"{name} {size(part)}" for name, part in parts.items() if part)
    return f"{size(sum(parts.values()))} beyond the program itself: {told}"


def _disk(settings: Params, found: Counted, counts: Counts) -> str:
    there = 0
    if found.fetched:
        there = sum(file.stat().st_size for file in POOL.glob("*.parquet"))
    fetch = settings.raw["fetch"]
    pool = there or stored(found.pool, fetch["store_size"], fetch["format"])
    told = f"pool {size(pool)}{'' if there else ' at most'} and as much again in DVC's cache"
    blob = round(pool * counts.selected / max(found.pool, 1)) * counts.encoded
    where, answers = counts.answers
    answers *= where == "files"
    if blob or answers:
        told += f"; while it trains {size(blob)} of encoded pictures and {size(answers)} of answers"
    return f"{size(2 * pool + blob + answers)}: {told}"


def size(count: float) -> str:
    """Bytes as MiB or GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def duration(seconds: float) -> str:
    """In the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
