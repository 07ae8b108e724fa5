"""Crawls of the image server, by the stage `fetch` or by img2dataset, each a program of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.image_server import ARRIVAL, Faults
from benchmarks.process_tree import Tree, check
from webdistill.core.errors import UserError
from webdistill.core.files import digest, remove, write_json
from webdistill.harness.params import read_yaml

ROOT = Path(__file__).resolve().parents[1]
STORE_SIDE = 64  # px, shorter side of what both store
PATIENCE = 3.0  # seconds for one URL where some hang
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "WEBDISTILL_ALLOW_LOOPBACK": "1",
    "WEBDISTILL_CONTACT": "benchmark@example.org",
    "WEBDISTILL_TRACKING": "off",
    "NO_ALBUMENTATIONS_UPDATE": "1",  # the peer would ask the web whether there is a newer one
    "no_proxy": "127.0.0.1",
}
Measured = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What is crawled, by whom. `side`: of the pictures, px; `file_format`: what ours stores."""

    tool: Literal["ours", "peer"]
    side: int
    count: int
    faults: Faults
    file_format: Literal["jpeg", "webp"] = "jpeg"


@dataclass(frozen=True)
class Setting:
    """What all crawls of one run share. `slots`: requests under way at once."""

    work: Path
    peer: Path | None
    processes: int
    slots: int


class Server:
    """The image server with the pictures of one job; a context manager. `answers`: how many it gives; None: all."""

    def __init__(self, job: Job, setting: Setting, port: int, answers: int | None = None) -> None:
        self._arrivals = setting.work / "arrivals.bin"
        self._arrivals.unlink(missing_ok=True)
        options = [f"--{name}={value}" for name, value in vars(job.faults).items()]
        options += [] if answers is None else [f"--answers={answers}"]
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "benchmarks.image_server", setting.work / f"pictures-{job.side}",
                f"--port={port}", f"--arrivals={self._arrivals}", *options,
            ],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # Ctrl-C is for the benchmark, whose end ends the server
        )  # fmt: skip
        self.cpu_seconds = 0.0

    def __enter__(self) -> Server:
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self.__exit__()
            raise UserError("the image server has ended early; its message is above")
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = used.ru_utime + used.ru_stime

    def requests(self) -> int:
        """How many have come so far."""
        return self._arrivals.stat().st_size // ARRIVAL.size

    def arrivals(self) -> list[tuple[float, int]]:
        """(time, number of the picture) of each request."""
        data = self._arrivals.read_bytes()
        return list(ARRIVAL.iter_unpack(data[: len(data) // ARRIVAL.size * ARRIVAL.size]))


class Crawls:
    """Runs jobs, each against a server of its own that always has the same address, and leaves no files behind."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._out = setting.work / "crawl"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]

    def whole(self, job: Job) -> Measured:
        """One crawl from start to end."""
        with Server(job, self._setting, self._port) as server:
            tree = self._start(job, server)
            try:
                check(tree, job.tool)
            finally:
                tree.end()
            arrivals = [moment for moment, _ in server.arrivals()]
        found = {
            "seconds": tree.ended - tree.begun,
            "to_first_request": arrivals[0] - tree.begun,
            "first_to_last_request": arrivals[-1] - arrivals[0],
            "requests": len(arrivals),
            "cpu_seconds": tree.cpu_seconds,
            "server_cpu_seconds": server.cpu_seconds,
            "peak_rss_mib": tree.peak_rss_mib,
            "peak_pss_mib": tree.peak_pss_mib,
        }
        return found | self._outcome(job)

    def killed(self, job: Job) -> Measured:
        """kill -9 when half the pictures have been asked for and no more come; then the same command again."""
        half = job.count // 2
        with Server(job, self._setting, self._port, half) as server:
            tree = self._start(job, server)
            try:
                while server.requests() <= half and tree.running():
                    pass
                tree.kill()
                tree.finish()
            finally:
                tree.end()
            known = {number for _, number in server.arrivals()}
        with Server(job, self._setting, self._port) as server:
            tree = self._start(job, server)
            try:
                check(tree, job.tool)
            finally:
                tree.end()
            again = server.arrivals()
        new = [moment for moment, number in again if number not in known]
        if not new:
            raise UserError("every picture was asked for before half had come; raise --count")
        found = {
            "asked_before": len(known),
            "asked_twice": len(known & {number for _, number in again}),
            "to_first_new_request": new[0] - tree.begun,
        }
        return found | self._outcome(job)

    def _start(self, job: Job, server: Server) -> Tree:
        work = self._setting.work
        urls = work / f"urls-{job.count}.parquet"
        if not urls.exists():
            names = [f"{server.url}{number}.jpg" for number in range(job.count)]
            pq.write_table(pa.table({"url": names}), urls)
        program = command(job, self._setting, self._out, urls)
        return Tree(program, work, ENVIRONMENT, work / f"{job.tool}.log")

    def _outcome(self, job: Job) -> Measured:
        found: Measured = {"states": stored(job, self._out)}
        if job.tool == "ours":
            found["pool"] = digest(self._out / "fetch" / "pool")
        for folder in (self._out, self._setting.work / ".work"):
            remove(folder)
        return found


def command(job: Job, setting: Setting, out: Path, urls: Path) -> list[str | Path]:
    """The program that crawls `urls`, a Parquet file with the column `url`, into the folder `out`."""
    if job.tool == "ours":
        candidates = _candidates(job, setting, urls)
        return [
            sys.executable, "-m", "stages.fetch", "--params", candidates / "params.yaml",
            "--cell", out, "--from", candidates,
        ]  # fmt: skip
    assert setting.peer is not None
    shard = min(10_000, -(-job.count // setting.processes))  # its default, or fewer to busy all
    return [
        setting.peer, "-m", "img2dataset.main", f"--url_list={urls}", "--input_format=parquet",
        f"--output_folder={out}", "--output_format=parquet", f"--image_size={STORE_SIDE}",
        "--resize_mode=keep_ratio", "--resize_only_if_bigger=True", f"--number_sample_per_shard={shard}",
        f"--processes_count={setting.processes}", f"--thread_count={setting.slots // setting.processes}",
    ]  # fmt: skip


def _candidates(job: Job, setting: Setting, urls: Path) -> Path:
    """The folder with params.yaml and what the stage `search` makes of the list."""
    folder = urls.with_suffix("")
    folder.mkdir(exist_ok=True)
    params = folder / "params.yaml"
    write_json(parameters(job, setting, urls), params)  # JSON is YAML
    if not (folder / "search").exists():
        search = (sys.executable, "-m", "stages.search", "--params", params, "--cell", folder)
        tree = Tree(search, setting.work, ENVIRONMENT, setting.work / "search.log")
        try:
            check(tree, "the stage search")
        finally:
            tree.end()
    return folder


def parameters(job: Job, setting: Setting, urls: Path) -> dict[str, Any]:
    """params.yaml of this project, with the list's URLs, and none but the local server to be polite to."""
    raw: dict[str, Any] = read_yaml(ROOT / "params.yaml")
    raw["task"]["threads"] = setting.processes
    raw["search"] |= {"local": urls.name, "columns": {}}
    raw["fetch"] |= {"store_size": STORE_SIDE, "format": job.file_format}
    raw["fetch"] |= {"per_host": setting.slots, "delay": 0.0}
    if job.faults.hanging:
        raw["fetch"]["timeout"] = PATIENCE
    return raw


def stored(job: Job, out: Path) -> dict[str, int]:
    """How many candidates ended in which state; `images`: the successes, of which the stage drops doubles."""
    if job.tool == "ours":
        found = json.loads((out / "fetch" / "metrics.json").read_text())
        return {"images": found["ok"] + found["duplicate"], **{k: v for k, v in found.items() if v}}
    shards = [json.loads(path.read_text()) for path in out.glob("*_stats.json")]
    names = {"images": "successes", "candidates": "count", "not_downloaded": "failed_to_download"}
    return {ours: sum(shard[theirs] for shard in shards) for ours, theirs in names.items()}
