"""Ray Core: one task a shard, spread over the machines of a cluster that is there. We join one, and open none.

Whoever reaches the ports of a Ray cluster runs code in it: keep it on a private network, or use Ray's tokens.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from webdistill.core.errors import UserError
from webdistill.engine import worker
from webdistill.engine.jobs import Job, Task

if TYPE_CHECKING:
    from webdistill.harness.stage import Stage

BEAT = 1.0  # seconds between looks at the bar while no shard is finished
TRIES = 3  # of a shard whose worker is lost
REACH = 5.0  # seconds for the head to answer; Ray itself tries for more than a minute
ANSWER = 300.0  # for a machine to say what it is
SEEN = 60.0  # seconds in which a file that another machine wrote appears here; NFS remembers what was not there


class Cluster:
    """The workers of a stage's run."""

    def __init__(self, stage: Stage, task: Task, cpus: int) -> None:
        self._stage, self._cpus = stage, cpus
        device, files = task.facts.get("device"), stage.code_files()
        self._gpus = 1 if device == "cuda" else 0
        self._order = {
            "root": str(stage.root),
            "maker": task.name,
            "facts": task.facts,
            "threads": stage.task.threads,
            "seed": stage.task.seed,
            "files": files,
            "machine": worker.report(device, files),
        }
        self._places = -1  # not counted yet

    def note(self) -> str:
        """For the bar."""
        return "1 worker" if self._places == 1 else f"{max(self._places, 0)} workers"

    def map(self, jobs: Sequence[Job]) -> Iterator[int]:
        """Yields images done, and 0 now and then. Raises UserError of a shard as it would be raised here."""
        with connected() as ray:
            self._count(ray)
            remote = ray.remote(bootstrap("perform")).options(
                num_cpus=self._cpus,
                num_gpus=self._gpus,
                max_retries=0,
                scheduling_strategy="SPREAD",
            )
            running: dict[Any, Job] = {}
            lost: Counter[Job] = Counter()

            def submit(job: Job) -> None:
                paths = str(job.shard), str(job.target)
                running[remote.remote(self._order, *paths)] = job

            for job in jobs:
                submit(job)
            try:
                while running:
                    done, _ = ray.wait(list(running), timeout=BEAT)
                    self._count(ray)
                    for reference in done:
                        job = running.pop(reference)
                        if self._finished(ray, reference, job, lost):
                            yield job.images
                        else:
                            submit(job)
                    if not done:
                        yield 0
            finally:  # a Ctrl-C, too
                for reference in running:
                    ray.cancel(reference, force=True)

    def _finished(self, ray: Any, reference: Any, job: Job, lost: Counter[Job]) -> bool:
        """False: its worker is gone, and another one has to do it."""
        gone = (
            ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError,
            ray.exceptions.OutOfMemoryError, ray.exceptions.LocalRayletDiedError,
        )  # fmt: skip
        try:
            problem = ray.get(reference)
        except gone as error:
            lost[job] += 1
            reason = type(error).__name__.removesuffix("Error")
            if lost[job] == TRIES:
                here = isinstance(error, ray.exceptions.LocalRayletDiedError)
                hint = (
                    "does `ray status` answer on this machine?"
                    if here
                    else "has each memory for a shard?"
                )
                raise UserError(
                    f"{job.shard}: {TRIES} workers were lost one after the other ({reason}); {hint} `ray logs` says "
                    "more, and the same command goes on from here"
                ) from None
            self._stage.log(
                f"a worker was lost at {job.shard.name} ({reason}); another one takes the shard"
            )
            return False
        if problem:
            raise UserError(problem)
        if not appears(job.target):
            raise UserError(
                f"{job.target} was written by a worker and is not here: all machines must share {self._stage.root}; "
                "`python -m webdistill doctor --engine` says which one does not"
            )
        return True

    def _count(self, ray: Any) -> None:
        kind, each = ("GPU", self._gpus) if self._gpus else ("CPU", self._cpus)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        places = sum(int(node.get(kind, 0) // each) for node in nodes)
        if not places and self._places != places:
            self._stage.log(
                f"no machine of the cluster has {each} {kind}; waiting for one that has"
            )
        self._places = places


def ask(order: dict[str, Any]) -> dict[str, Any]:
    """-> of each machine of the cluster what `worker.describe` says there, or a line that says why it does not."""
    found: dict[str, Any] = {}
    with connected() as ray:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        asked = {}
        for node in (node for node in ray.nodes() if node["Alive"]):
            there = ray.remote(bootstrap("describe")).options(
                num_cpus=0, num_gpus=0.01 if node["Resources"].get("GPU") else 0, max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )  # fmt: skip
            asked[node["NodeID"]] = there.remote({**order, "node": node["NodeID"]})
        for node in (node for node in ray.nodes() if node["NodeID"] in asked):
            try:
                answer = ray.get(asked[node["NodeID"]], timeout=ANSWER)
            except (ray.exceptions.RayError, TimeoutError) as error:
                answer = f"gives no answer ({type(error).__name__}); look at it with `ray status`"
            seen = Path(order["token"]) / node["NodeID"]
            if isinstance(answer, dict) and answer["files"] == worker.SAME and not appears(seen):
                answer["files"] = "another folder"
            found[node["NodeManagerAddress"]] = answer
    return found


def bootstrap(name: str) -> Callable[..., Any]:
    """A function of `worker` that Ray carries by value: a machine may not have our code on its path, or at all."""

    def call(order: dict[str, Any], *arguments: str) -> Any:
        import os
        import socket
        import sys

        try:
            os.chdir(order["root"])
            if order["root"] not in sys.path:
                sys.path.insert(0, order["root"])
            from webdistill.engine import worker
        except (OSError, ImportError) as error:
            return (
                f"the worker on {socket.gethostname()} cannot work in {order['root']}: {error}; mount the project's "
                "folder there at the same path, and install the project"
            )
        return getattr(worker, name)(order, *arguments)

    return call


def appears(path: Path) -> bool:
    """Is the file here, or does it come soon?"""
    end = time.monotonic() + SEEN
    while not path.exists():
        if time.monotonic() > end:
            return False
        time.sleep(BEAT)
        os.listdir(path.parent)  # noqa: PTH208  (asks the server anew)
    return True


@contextmanager
def connected() -> Iterator[Any]:
    """Ray, as a driver in the cluster. Raises UserError when there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError(
            "WEBDISTILL_ENGINE = ray needs Ray, on every machine: pip install -c constraints.txt 'webdistill[ray]'"
        ) from None
    address = os.environ.get("RAY_ADDRESS") or "auto"
    _reach(address)
    before = signal.getsignal(signal.SIGTERM)  # Ray sets one of its own
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"WEBDISTILL_ENGINE = ray: no cluster at RAY_ADDRESS = {address}: {reason}; start one with "
            "`ray start --head`, and this stage on one of its machines"
        ) from None
    signal.signal(signal.SIGTERM, before)
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"RAY_ADDRESS = {address}: expected HOST:PORT of the cluster's head")
    try:
        socket.create_connection((host, int(port)), REACH).close()
    except OSError as error:
        raise UserError(
            f"WEBDISTILL_ENGINE = ray: nobody answers at RAY_ADDRESS = {address} ({error}); start the cluster's head "
            "with `ray start --head`, or correct the address"
        ) from None
