"""What runs on another machine: it makes the task from its facts once, after a look at what this machine is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from webdistill.core import determinism
from webdistill.core.errors import UserError
from webdistill.engine import jobs, machine
from webdistill.harness import closure

SAME = "the same folder"
Order = Mapping[str, Any]  # as JSON: what all shards of a run have in common
_made: dict[str, jobs.Function] = {}


def perform(order: Order, shard: str, target: str) -> str:
    """-> what went wrong, in one line for the user; empty when the file is there.

    An exception would come to the driver inside one of Ray's, with the traceback of a machine that nobody knows.
    """
    try:
        for _ in jobs.perform(_function(order), Path(shard), Path(target)):
            pass
    except UserError as error:
        return str(error)
    return ""


def _function(order: Order) -> jobs.Function:
    key = json.dumps(order, sort_keys=True)
    if key not in _made:
        device = _prepare(order)
        if other := machine.difference(order["machine"], report(device, order["files"])):
            raise UserError(
                f"the worker on {socket.gethostname()} would compute other bytes: {other}"
            )
        _made[key] = jobs.maker(order["maker"])(order["facts"])
    return _made[key]


def _prepare(order: Order) -> str | None:
    """Before torch is imported. -> the device"""
    device: str | None = order["facts"].get("device")
    if device == "cpu":  # Ray shows the GPUs also to those who have asked for none
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    determinism.prepare(order["threads"], order["seed"])
    return device


def describe(order: Order) -> dict[str, str]:
    """For `doctor`: what decides bytes here, and whether the driver's files are seen here."""
    device = _prepare(order)
    import torch

    from webdistill.models.precision import low_precision

    low = low_precision(order["precision"], torch.device(device or "cpu"))
    found = {**report(device, order["files"]), "precision": "bfloat16" if low else "float32"}
    if "token" not in order:
        return found
    token = Path(order["token"])
    try:
        same = (token / "word").read_text(encoding="utf-8") == token.name
        (token / order["node"]).touch()
    except OSError as error:
        return {**found, "files": f"another folder ({error.strerror})"}
    return {**found, "files": SAME if same else "another folder"}


def report(device: str | None, files: list[str]) -> dict[str, str]:
    """What decides bytes here. `files`: code, relative to where it is installed."""
    present = [path for file in files if (path := closure.CODE / file).is_file()]
    return {"code": closure.digest(closure.CODE, present)[:12], **machine.facts(device)}
