"""The crawl: chunks of candidates, several under way at once; each is read or downloaded, judged and journalled.

Order and bytes of the results depend neither on the number of processes nor on which chunk finishes first.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import PIL

from stages.fetch.candidates import Candidate, Candidates
from stages.fetch.http import Client, contact_address
from stages.fetch.journal import Journal, digest
from stages.fetch.outcomes import Body, Job, Outcome, crashed, judge, may_pass, without_body
from stages.fetch.params import Fetch
from stages.fetch.sources import EmbeddedImages, file_mark, read_file
from webdistill.images.gate import GATE_VERSION
from webdistill.images.workers import Workers

CHUNK = 250  # candidates journalled together: what a kill costs at most, times WINDOW
WINDOW = 24  # chunks under way, so that one slow URL does not hold up the others
BATCH = 32  # local files handed to a worker process together,
BATCH_BYTES = 8 << 20  # or fewer as soon as they reach this size


class Crawl:
    """One pass over all candidates. Raises UserError when http(s) candidates meet no contact address.

    `downloads`: folder for chunks with http(s) rows, which outlive a change of code; `scratch`: for all others.
    """

    def __init__(
        self,
        candidates: Candidates,
        params: Fetch,
        downloads: Path,
        scratch: Path,
        processes: int,
    ) -> None:
        self._candidates = candidates
        self._params = params
        self._processes = processes
        self._downloads, self._scratch = Journal(downloads), Journal(scratch)
        self._folder = candidates.list_path.parent
        self._starts = range(0, len(candidates), CHUNK)
        self._keys = [self._key(candidates.part(start, CHUNK)) for start in self._starts]
        sources = candidates.table.column("source").to_pylist()
        self._contact = contact_address(os.environ) if "http" in sources else ""
        self._journals = [
            self._downloads if "http" in sources[start : start + CHUNK] else self._scratch
            for start in self._starts
        ]

    def run(self) -> Iterator[int]:
        """Work through everything that the journals do not hold; yields the length of each finished chunk."""
        params = self._params
        embedded = EmbeddedImages(self._candidates.list_path, self._candidates.image_column)
        with Workers(self._processes, judge, crashed) as workers, asyncio.Runner() as runner:
            client = Client(self._contact, params.timeout, params.retries, params.max_bytes)
            chunks = _Chunks(params, self._folder, embedded, client, workers, self._processes)
            runner.run(client.open())
            try:
                waiting = [
                    (self._journals[n], self._keys[n], self._candidates.part(start, CHUNK))
                    for n, start in enumerate(self._starts)
                ]
                pending: set[asyncio.Task[int]] = set()
                while waiting or pending:
                    while waiting and len(pending) < WINDOW:
                        pending.add(runner.get_loop().create_task(chunks.finish(*waiting.pop(0))))
                    done, pending = runner.run(_first(pending))
                    yield from (task.result() for task in done)
            finally:
                runner.run(client.close())
                embedded.close()

    def outcomes(self) -> Iterator[Outcome]:
        """What became of each candidate, in their order, once `run` is through."""
        for journal, key in zip(self._journals, self._keys, strict=True):
            chunk = journal.load(key)
            assert chunk is not None, "a chunk vanished from the work folder during the run"
            yield from chunk

    def clean(self) -> None:
        """Drop what can be made again without the network; downloads stay, so that a later run need not ask again."""
        chunks = zip(self._journals, self._keys, strict=True)
        self._downloads.keep_only(key for journal, key in chunks if journal is self._downloads)
        self._scratch.keep_only(())

    def _key(self, part: Sequence[Candidate]) -> str:
        files = [file_mark(self._folder, one.url) for one in part if one.source == "file"]
        content = (
            self._candidates.list_sha256 if any(one.source == "embedded" for one in part) else ""
        )
        params = self._params.model_dump(include={"store_size", "max_pixels", "max_bytes"})
        versions = (GATE_VERSION, PIL.__version__)
        return digest(versions, params, content, [astuple(one) for one in part], files)


class _Chunks:
    """Brings one chunk after the other to its end."""

    def __init__(
        self,
        params: Fetch,
        folder: Path,
        embedded: EmbeddedImages,
        client: Client,
        workers: Workers[Job, Outcome],
        processes: int,
    ) -> None:
        self._params = params
        self._folder = folder
        self._embedded = embedded
        self._client = client
        self._workers = workers
        self._reading = asyncio.Lock()
        self._batches_free = asyncio.Semaphore(2 * processes)

    async def finish(self, journal: Journal, key: str, part: Sequence[Candidate]) -> int:
        """Fill in what is missing or may pass now; save if anything was done."""
        known = journal.load(key)
        places = range(len(part)) if known is None else _worth_retrying(known)
        if known is None or places:
            outcomes: dict[int, Outcome] = {} if known is None else dict(enumerate(known))
            local = [n for n in places if part[n].source != "http"]
            remote = [n for n in places if part[n].source == "http" and not part[n].opt_out]
            reading = self._read_all([part[n] for n in local])
            loading = asyncio.gather(*(self._download(part[n].url) for n in remote))
            near, far = await asyncio.gather(reading, loading)
            outcomes |= dict(zip(local, near, strict=True)) | dict(zip(remote, far, strict=True))
            for n in places:
                if part[n].opt_out:  # the id, where known, lets filter find other copies
                    outcomes[n] = Outcome("opted_out", outcomes[n].id if n in outcomes else "")
            journal.save(key, [outcomes[n] for n in range(len(part))])
        return len(part)

    async def _read_all(self, part: Sequence[Candidate]) -> list[Outcome]:
        """Few batches are in memory at a time, and rows come in rising order: a row group is read once."""
        judging = []
        async with self._reading:
            for bodies in self._batches(part):
                await self._batches_free.acquire()
                judging.append(asyncio.ensure_future(self._judge(bodies)))
                judging[-1].add_done_callback(lambda _: self._batches_free.release())
        return [outcome for batch in judging for outcome in await batch]

    def _batches(self, part: Sequence[Candidate]) -> Iterator[list[Body]]:
        bodies: list[Body] = []
        for one in part:
            bodies.append(self._read(one))
            if len(bodies) == BATCH or sum(len(body.data) for body in bodies) >= BATCH_BYTES:
                yield bodies
                bodies = []
        if bodies:
            yield bodies

    def _read(self, one: Candidate) -> Body:
        if one.source == "embedded":
            return self._embedded.read(one.row, self._params.max_bytes)
        return read_file(self._folder, one.url, self._params.max_bytes)

    async def _download(self, url: str) -> Outcome:
        async with self._client.get(url) as body:
            return (await self._judge([body]))[0]

    async def _judge(self, bodies: Sequence[Body]) -> list[Outcome]:
        jobs = [
            Job(b, self._params.max_pixels, self._params.store_size)
            for b in bodies
            if b.status == "ok"
        ]
        judged = iter(await self._workers.apply(jobs)) if jobs else iter(())
        return [next(judged) if body.status == "ok" else without_body(body) for body in bodies]


def _worth_retrying(known: Sequence[Outcome]) -> list[int]:
    return [n for n, outcome in enumerate(known) if may_pass(outcome.status, outcome.http_status)]


async def _first(
    pending: set[asyncio.Task[int]],
) -> tuple[set[asyncio.Task[int]], set[asyncio.Task[int]]]:
    return await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
