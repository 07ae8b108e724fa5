"""The processes of one training find each other, on this machine alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from stages.distill.training import Prepared
from webdistill.harness.crew import crew
from webdistill.harness.stage import Stage

PATIENCE = timedelta(days=7)  # who waits is ended by harness.crew, not by a clock


@contextmanager
def shared(stage: Stage, prepared: Prepared) -> Iterator[None]:
    """Inside, this process is rank 0 of the training's processes; the others are started and run `rank.py`.

    Raises UserError when one of them ends early.
    """
    count = prepared.processes
    if count == 1:
        yield
        return
    stage.log(f"{count} processes train together, {stage.params.batch_size // count} images each")
    device = prepared.run.device
    with crew(stage, count, prepared.state.parent) as folder, joined(0, count, folder, device):
        yield


@contextmanager
def joined(rank: int, count: int, folder: Path, device: torch.device) -> Iterator[None]:
    """Inside, `ranks` speaks for process `rank` of `count`, which meet in `folder`: NCCL on GPUs, gloo elsewhere."""
    if sys.platform == "linux":  # nobody outside of this machine is to reach them
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = dist.FileStore(str(folder / "store"), count)  # type: ignore[attr-defined]  # of a C module
    store.set_timeout(PATIENCE)
    dist.init_process_group(backend, timeout=PATIENCE, world_size=count, rank=rank, store=store)
    try:
        yield
    except BaseException:
        if backend == "gloo":  # NCCL would wait for the others, which may be gone
            dist.destroy_process_group()
        raise
    dist.destroy_process_group()
