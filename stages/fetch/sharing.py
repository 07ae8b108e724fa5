"""A crawl shared out among processes, of an array job or of a Ray cluster: each asks the hosts that are its own.

A host belongs to one job, by the digest of its name, so that one process alone keeps its pace. What a job finds goes to
a journal of its own; the next run on one machine reads them all and writes the pool, in the candidates' order. So
neither the number of jobs nor who was killed when decides a byte.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stages.fetch.candidates import COLUMNS, Candidates
from stages.fetch.crawl import Crawl
from stages.fetch.params import Fetch
from stages.fetch.schedule import host_of
from webdistill.core import files
from webdistill.core.errors import UserError
from webdistill.engine import choice
from webdistill.engine.jobs import Facts, Function, Job, Task
from webdistill.engine.running import RankDoneError
from webdistill.web.intranet import VARIABLE

if TYPE_CHECKING:
    from webdistill.harness.stage import Stage

JOBS = 64  # of a Ray cluster at most,
FEW = 1000  # with so many addresses each at least
HEARD = ("WEBDISTILL_CONTACT", VARIABLE, "WEBDISTILL_ALLOW_LOOPBACK")  # of the environment, by jobs
RANKS = "ranks.json"  # how many ranks share the crawl that is under way
PLACE = re.compile(r"job-(\d+)-of-(\d+)")  # in the name of the file that a job writes
Ask = Callable[["Stage", Crawl, int], None]


def share_out(stage: Stage, candidates: Candidates, ask: Ask) -> None:
    """Have the engine of the environment ask for the addresses. Raises RankDoneError in an array job."""
    engine = choice.chosen()
    stage.tags["engine"] = engine
    if engine == "array":
        rank, ranks = choice.rank()
        _agree(stage.work / RANKS, ranks)
        mine = share(candidates, rank, ranks)
        crawl = Crawl(mine, stage.params, stage.work, None, stage.task.threads)
        ask(stage, crawl, len(mine))
        crawl.close()
        raise RankDoneError(
            f"rank {rank} of {ranks} has finished its {len(mine):,} of {len(candidates):,} candidates; `dvc repro "
            "fetch` takes them from here"
        )
    if engine == "ray":
        _on_cluster(stage, candidates)


def forget(stage: Stage) -> None:
    """The crawl is published: the next one may be shared out among another number of ranks."""
    files.remove(stage.work / RANKS)


def jobs_of(table: pa.Table, jobs: int) -> NDArray[np.int64]:
    """Of each candidate the job that asks for it; -1 for what is not on the web."""
    known: dict[str, int] = {}

    def job(url: str) -> int:
        host = host_of(url)
        if host not in known:
            digest = hashlib.sha256(host.encode("utf-8", "surrogatepass")).digest()
            known[host] = int.from_bytes(digest[:8], "big") % jobs
        return known[host]

    found = []
    for batch in table.select(["url", "source"]).to_batches(10_000):
        urls, sources = (column.to_pylist() for column in batch.columns)
        found += [
            job(url) if source == "http" else -1 for url, source in zip(urls, sources, strict=True)
        ]
    return np.array(found, np.int64)


def share(candidates: Candidates, job: int, jobs: int) -> Candidates:
    """Those on the web that are the job's own."""
    mine = candidates.table.filter(pa.array(jobs_of(candidates.table, jobs) == job))
    return Candidates(mine, {})


def asker(facts: Facts) -> Function:
    """Asks for a job's share, in any process. The file that it writes says that the share is through."""

    def work(listed: Path, target: Path) -> Iterator[int]:
        os.environ.update(facts["environment"])
        job, jobs = (int(number) for number in PLACE.findall(target.name)[0])
        given = Candidates(files.read_table(listed, COLUMNS), {})
        mine = share(given, job, jobs)
        del given
        crawl = Crawl(
            mine, Fetch(**facts["params"]), Path(facts["downloads"]), None, facts["processes"]
        )
        try:
            yield from crawl.run()
        finally:
            crawl.close()
        files.write_table(pa.table({"candidates": [len(mine)]}), target)

    return work


def _on_cluster(stage: Stage, candidates: Candidates) -> None:
    from webdistill.engine.cluster import Cluster
    from webdistill.harness.progress import progress

    before = Crawl(candidates, stage.params, stage.work, stage.scratch(), stage.task.threads)
    left = before.unasked
    before.close()
    if not left:
        return
    count = min(JOBS, -(-left // FEW))
    folder = stage.scratch() / "jobs"
    files.remove(folder)  # the journals know what is finished
    listed = stage.input("data/search/candidates.parquet")
    sizes = np.bincount(jobs_of(candidates.table, count) + 1, minlength=count + 1)[1:].tolist()
    jobs = [
        Job(listed, folder / f"job-{job:05d}-of-{count:05d}.parquet", size)
        for job, size in enumerate(sizes)
        if size
    ]
    facts = {
        "params": stage.params.model_dump(mode="json"),
        "downloads": str(stage.work),
        "processes": stage.task.threads,
        "environment": {name: os.environ[name] for name in HEARD if name in os.environ},
    }
    cluster = Cluster(stage, Task(asker, facts, asker(facts)), stage.task.threads)
    steps = cluster.map(jobs)
    total = sum(job.images for job in jobs)
    for _ in progress(steps, total=total, unit="img", label="fetch", size=int, note=cluster.note):
        pass
    files.remove(folder)


def _agree(path: Path, ranks: int) -> None:
    """All ranks of an array must share out alike, or two of them would ask one host."""
    own = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}")
    files.write_json(ranks, own)
    with suppress(FileExistsError):
        os.link(own, path)  # in one step: several ranks start at once
    files.remove(own)
    first = files.read_json(path)
    if first != ranks:
        raise UserError(
            f"a crawl of {first} ranks has begun, and this is one of {ranks}: two would ask the same host; start "
            f"{first} again, or publish what they have found by `dvc repro fetch`"
        )
