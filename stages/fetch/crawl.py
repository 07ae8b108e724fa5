"""The crawl: local bytes are read, URLs asked for, both judged by worker processes, and each result is written down.

Order and bytes of what follows depend neither on the number of processes nor on which download ends first.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import PIL

from stages.fetch.candidates import Candidate, Candidates
from stages.fetch.digests import listed, md5
from stages.fetch.journal import KEY, Journal, digest
from stages.fetch.journals import Journals
from stages.fetch.judging import BATCH, BATCH_BYTES, Finished, Judging
from stages.fetch.outcomes import Body, Gate, Outcome, Verdict, crashed, without_body
from stages.fetch.params import Fetch
from stages.fetch.schedule import Turns, host_of
from stages.fetch.sources import LocalImages
from stages.fetch.summary import NONE, Tally, safe
from webdistill.images.gate import GATE_VERSION
from webdistill.images.workers import Workers
from webdistill.web.client import Client, Manners, contact_address
from webdistill.web.intranet import allowed_hosts

WINDOW = 2000  # URLs under way, or waiting for their host's turn or for another try
AHEAD = (
    3  # times fetch.per_host of them may be of one host, so that some wait while others are asked
)
PART = 1000  # candidates turned into values at a time
COLLECT = 20_000  # new objects from one garbage collection to the next
TICK = 0.2  # seconds between two looks at what is done
MEMORY_PER_PIXEL = 48  # bytes; the hungriest files measured took 32,
MEMORY_BESIDE = 256 << 20  # and what the libraries reserve for themselves


class Crawl:
    """One pass over all candidates. Raises UserError when URLs are to be asked for without a contact address.

    `downloads`: folder of the journals of URLs, which outlive a change of code; `scratch`: of local bytes, which do
    not need to; None: this is a job of a shared crawl, whose candidates are all on the web.
    """

    def __init__(
        self,
        candidates: Candidates,
        params: Fetch,
        downloads: Path,
        scratch: Path | None,
        processes: int,
    ) -> None:
        self._candidates = candidates
        self._params = params
        self._processes = processes
        self._images = LocalImages(candidates.find)
        sources, opt_outs = candidates.table.column("source"), candidates.table.column("opt_out")
        self._remote = np.array([source == "http" for source in sources.to_pylist()], bool)
        self._refused = np.array([bool(text) for text in opt_outs.to_pylist()], bool)
        self._by_md5 = np.array([name == "md5" for name, _ in listed(candidates.table)], bool)
        self._md5: dict[int, str] = {}  # of bodies that are being judged
        self._keys = np.fromiter(self._all_keys(), KEY, len(candidates))
        self._asked = Journals(downloads, job=scratch is None)
        self._read = Journal(scratch / "journal") if scratch is not None else None
        asked = self._asked.find(self._keys)
        read = self._read.find(self._keys) if self._read is not None else asked
        # What its owner refuses is not asked for, and what an earlier run knows of it not used. Local copies are read
        # for their id, so that filter finds others.
        never = self._remote & self._refused
        self._places = np.where(never, -1, np.where(self._remote, asked, read))
        self._todo = (self._places < 0) & ~never
        self._contact = ""
        if (self._todo & self._remote).any():
            self._contact = contact_address(os.environ)
            allowed_hosts(os.environ)  # said now, if it is wrong, and not from within the crawl
        self.tally = Tally()
        self._defects: dict[str, str] = {}  # what -> the line about it; "" once it was told

    @property
    def known(self) -> int:
        """Candidates whose result an earlier run has written down."""
        return int((self._places >= 0).sum())

    @property
    def left(self) -> int:
        """Candidates of which nothing final is known."""
        return int(self._todo.sum())

    @property
    def unasked(self) -> int:
        """Addresses on the web among them."""
        return int((self._todo & self._remote).sum())

    def run(self) -> Iterator[int]:
        """Work through what is left; yields every moment how many more are done."""
        gate = Gate(self._params.max_pixels, self._params.store_size, self._params.format)
        memory = (
            MEMORY_PER_PIXEL * self._params.max_pixels + 4 * self._params.max_bytes + MEMORY_BESIDE
        )
        with (
            _few_collections(),
            Workers(self._processes, gate, crashed, memory) as workers,
            asyncio.Runner() as runner,
        ):
            if self.left:
                workers.start()
            work = runner.get_loop().create_task(self._work(workers))
            try:
                while not work.done():
                    runner.run(_wait(work))
                    yield self.tally.news()
                _raise_first(work)
            finally:
                work.cancel()
                runner.run(_wait(work))
                self._images.close()
        self._asked.sync()
        if self._read is not None:
            self._read.sync()

    def defects(self) -> Iterator[str]:
        """A line for each defect met since the last call, at the first candidate that ended "failed" of it."""
        for what, line in self._defects.items():
            if line:
                yield line
                self._defects[what] = ""

    def outcomes(self) -> Iterator[Outcome]:
        """What became of each candidate, in their order, once `run` is through."""
        rows = zip(self._remote, self._refused, self._places.tolist(), strict=True)
        for remote, refused, place in rows:
            if place >= 0:
                yield self._journal(remote).load(place)
            else:
                assert refused, "a candidate without a result"
                yield Outcome("opted_out")

    def clean(self) -> None:
        """Drop what can be made again without the network; downloads stay, so that a later run need not ask again."""
        self._asked.keep_only(self._places[self._remote & (self._places >= 0)].tolist())
        if self._read is not None:
            self._read.keep_only([])
        self.close()

    def close(self) -> None:
        """Close the journals."""
        self._asked.close()
        if self._read is not None:
            self._read.close()

    def _journal(self, remote: bool) -> Journals | Journal:
        assert remote or self._read is not None, "a job has no local candidates"
        return self._asked if remote or self._read is None else self._read

    def _all_keys(self) -> Iterator[bytes]:
        """A key per candidate, made of all that decides what becomes of it."""
        params = self._params.model_dump(
            include={"store_size", "format", "max_pixels", "max_bytes"}
        )
        settings = digest(GATE_VERSION, PIL.__version__, sorted(params.items()))
        for at, one in self._values(np.arange(len(self._candidates))):
            if one.source == "http":
                yield digest(settings, one.url, *(["md5"] if self._by_md5[at] else []))
            else:
                place = (one.source, one.url, one.file, one.row, bool(one.opt_out))
                yield digest(settings, place, self._images.mark(one))

    def _values(self, wanted: np.ndarray) -> Iterator[tuple[int, Candidate]]:
        """Candidates by their rising positions."""
        for start in range(0, len(self._candidates), PART):
            first, end = np.searchsorted(wanted, (start, start + PART))
            here = wanted[first:end]
            part = self._candidates.part(start, PART) if len(here) else []
            yield from ((at, part[at - start]) for at in here.tolist())

    async def _work(self, workers: Workers[bytes, Verdict]) -> None:
        judging = Judging(workers, self._processes, self._record)
        async with asyncio.TaskGroup() as group:
            group.create_task(judging.run())
            async with asyncio.TaskGroup() as sources:
                sources.create_task(self._read_all(judging))
                sources.create_task(self._ask_all(judging))
            judging.close()

    async def _read_all(self, judging: Judging) -> None:
        """Local bytes, one batch at a time, in rising order: a row group of a list is read once."""
        waiting = self._values(np.flatnonzero(self._todo & ~self._remote))
        while batch := await asyncio.to_thread(self._read_some, waiting):
            self._record([(at, without_body(body)) for at, body in batch if body.status != "ok"])
            for at, body in batch:
                if body.status == "ok":
                    await judging.put(at, body)

    def _read_some(self, waiting: Iterator[tuple[int, Candidate]]) -> list[tuple[int, Body]]:
        batch: list[tuple[int, Body]] = []
        size = 0
        for at, one in islice(waiting, BATCH):
            batch.append((at, self._images.read(one, self._params.max_bytes)))
            size += len(batch[-1][1].data)
            if size >= BATCH_BYTES:
                break
        return batch

    async def _ask_all(self, judging: Judging) -> None:
        wanted = np.flatnonzero(self._todo & self._remote)
        if not len(wanted):
            return
        params = self._params
        manners = Manners(
            params.timeout, params.retries, params.max_bytes, params.per_host, params.delay, True
        )
        turns = Turns((one.url for _, one in self._values(wanted)), AHEAD * params.per_host)
        urls = self._candidates.table.column("url")

        async def ask(number: int) -> None:
            at = int(wanted[number])
            async with client.get(urls[at].as_py(), partial(turns.aside, number)) as reply:
                if reply.status != "ok":
                    self._record([(at, without_body(reply))])
                    return
                if self._by_md5[at]:
                    self._md5[at] = md5(reply.data)
                await judging.put(at, reply)

        client = Client(self._contact, manners)
        await client.open()
        try:
            await turns.run(ask, WINDOW)
        finally:
            await client.close()

    def _record(self, finished: Finished) -> None:
        """Write results down; from then on they count."""
        settled = [
            (
                at,
                Outcome("opted_out", it.id)
                if self._refused[at]
                else it._replace(md5=self._md5.pop(at, "")),
            )
            for at, it in finished
        ]
        for remote in (True, False):
            some = [(at, it) for at, it in settled if self._remote[at] == remote]
            if some:
                places = self._journal(remote).append((self._keys[at], it) for at, it in some)
                self._places[[at for at, _ in some]] = places
        for at, it in settled:
            if it.status == "failed":
                host = safe(host_of(self._candidates.table.column("url")[at].as_py())) or NONE
                line = f"defect: {it.detail}, first of row {at} of the ledger, host {host}; such rows end as `failed`"
                self._defects.setdefault(it.detail, f"{line}, and a later run tries them again")
        self.tally.add(it for _, it in settled)


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """Look for unreachable cycles rarely, and never among what is there before: they cost a crawl time."""
    usual = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


async def _wait(work: asyncio.Task[None]) -> None:
    await asyncio.wait({work}, timeout=TICK)


def _raise_first(work: asyncio.Task[None]) -> None:
    """Of several failures that came together the first, as it was raised."""
    try:
        work.result()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
