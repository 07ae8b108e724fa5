"""Tracking: a stage leaves a record in a spool folder; a process of its own carries it to MLflow.

A stage never imports MLflow and never talks to a server: it writes one small file and starts
`webdistill.tracking.flush` in the background. A dead, slow or failing server therefore costs a stage
nothing, and nothing is lost: what did not get through stays in `.work/spool` and goes with the next
flush.

Environment: MLFLOW_TRACKING_URI (default: SQLite in the project), MLFLOW_EXPERIMENT_NAME (default:
webdistill), WEBDISTILL_TRACKING=off (nothing is recorded).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from webdistill.harness import closure
from webdistill.harness.dvc_lock import read_lock
from webdistill.harness.records import Record, Workspace, from_json, to_json

FLUSH_SECONDS = 120  # a background flush ends itself after waiting so long for its server
MOMENT = 1.0  # seconds that a stage waits for a DVC that writes dvc.lock
LOG_BYTES = 1_000_000  # flush.log starts anew beyond this size
# What decides about outputs: the code among the dependencies in dvc.yaml
CODE = (
    "stages", "webdistill/core", "webdistill/images", "webdistill/models", "webdistill/web",
    "webdistill/clustering.py", "webdistill/experiments.py", "webdistill/takedown.py",
)  # fmt: skip

_USERINFO = re.compile(r"(?<=://)[^/\s?#]*@")
_QUERY_SECRET = re.compile(  # the keys that `normalise` strips from stored URLs; a key is gone through once
    r"(?i)([?&;#](?:(?=[\w.%\[\]-]*?(?:token|secret|passw(?:or)?d|passphrase|signature|credential|api[_-]?key"
    r"|access[_-]?key|session|oauth|bearer|jwt|hmac))[\w.%\[\]-]*+|[\w.-]*sig|key|auth|authorization|sid|pwd|pass)=)"
    r"[^&;#\s]+"
)
_HEADER_SECRET = re.compile(  # as programs print the headers of a request, in quotes or not: up to the next quote
    r"(?i)\b((?:(?:proxy-)?authorization|(?:x-[\w-]{0,40})?api-?key|(?:private|x-[\w-]{0,40})-token)[\"']?[ \t]*:[ \t]*"
    r"[\"']?)[^\s\"'][^\"'\r\n]*"
)
_BEARER = re.compile(  # a word of letters alone may be a word, as in "bearer bond"
    r"(?i)\b(bearer\s+)(?:[a-z]{24,}|(?=[a-z]*[\d.~+/=_-])[\w.~+/=-]+)"
)
_SECRET_NAME = re.compile(
    r"(?i)(^|_)(token|secret|passw(or)?d|(api|access)?_?key|credentials?|contact|tracking_uri)"
    r"(_|$)"
)


PAGE = "page"  # a file of the spool: where MLflow shows the experiments


def code_digest(root: Path, *places: str) -> str:
    """sha256 over names and bytes of these files of `root`, and of all *.py files below these folders."""
    found = [root / place for place in places]
    files = [each for path in found for each in ([path] if path.is_file() else path.rglob("*.py"))]
    return closure.digest(root, files)


def experiment_key(params: Mapping[str, object], root: Path) -> str:
    """32 hex digits from the resolved parameters and the code below `root` that stages depend on."""
    text = json.dumps(params, sort_keys=True, default=str) + code_digest(root, *CODE)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def locked(root: Path) -> tuple[str, dict[str, str]]:
    """-> text of dvc.lock, {stage: text of its metrics.json}: what a flush needs to know of stages that DVC skipped.

    As text: a stage has no time to parse it.
    """
    files = {file.parent.name: file for file in sorted((root / "data").glob("*/metrics.json"))}
    measured = {stage: _text(file) for stage, file in files.items()}
    return read_lock(root / "dvc.lock", root, MOMENT), {
        stage: text for stage, text in measured.items() if text
    }


def _text(path: Path) -> str:
    """Empty if it is not there, or not any more: DVC may be running another stage."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def run_name(record: Record) -> str:
    """A name for people, `3fa2c1 · kd wrn-16-1`: what tells runs apart is first, for MLflow cuts long names.

    For `dvc exp run` that is the experiment's name, else the start of the key.
    """
    if record.name or not isinstance(record, Workspace):
        return record.name
    params = record.parent_params
    method = str(params.get("distill.method", record.subject))
    first = os.environ.get("DVC_EXP_NAME") or record.parent_key[:6]
    return f"{first} · {method} {params.get('distill.student', '?')}"


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without userinfo and token query keys in URLs, credentials of headers, and the given strings."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _USERINFO.sub("", text)
    for pattern in (_QUERY_SECRET, _HEADER_SECRET, _BEARER):
        text = pattern.sub(r"\1***", text)
    return text


def secrets() -> list[str]:
    """Values of environment variables that must reach no file, longest first."""
    found = {v for k, v in os.environ.items() if _SECRET_NAME.search(k) and len(v) >= 8}
    return sorted(found, key=len, reverse=True)


def project_root(root: Path) -> Path:
    """`root`, or the project a throw-away copy under `.dvc/tmp/exps` (`dvc exp run --temp`) belongs to."""
    root = root.resolve()
    for folder in root.parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parent.parent.parent
    return root


def store_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or an SQLite file in the project; a file's path from `root` on, so good in any folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    dialect, separator, file = uri.partition(":///")
    if not (separator and dialect.startswith("sqlite")):
        return uri
    return f"{dialect}:///{os.path.normpath(root.resolve() / file)}"


def write(record: Record, folder: Path) -> Path:
    """Write `record` to `folder`/<key>.json, its artifacts to `folder`/<key>.files/; -> the former

    Atomic. Strings are redacted here, so a secret does not even rest in the spool.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = f"{record.parent_key[:12]}-{record.subject}-{uuid.uuid4().hex}"
    names = _copy(record.artifacts, folder / f"{key}.files")
    entry = replace(record, artifacts=(), name=run_name(record))
    content = _clean({**to_json(entry), "artifacts": names}, secrets())
    path = folder / f"{key}.json"
    partial = folder / f"{key}.json.partial"
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, sort_keys=True, default=str)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path


def _copy(sources: Iterable[Path], folder: Path) -> list[str]:
    names: list[str] = []
    for number, source in enumerate(sources):
        if not source.is_file():  # a stage that failed may never have written it
            continue
        folder.mkdir(exist_ok=True)
        name = source.name if source.name not in names else f"{number}-{source.name}"
        shutil.copyfile(source, folder / name)
        names.append(name)
    return names


def _clean(value: Any, hidden: Sequence[str]) -> Any:
    """`value` with every string in it, keys too, redacted."""
    if isinstance(value, str):
        return redact(value, hidden)
    if isinstance(value, Mapping):
        return {redact(str(k), hidden): _clean(v, hidden) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v, hidden) for v in value]
    return value


def load(path: Path) -> Record:
    """The spooled record; `artifacts` are the copies. Raises ValueError, TypeError or KeyError."""
    content = json.loads(path.read_text(encoding="utf-8"))
    files = path.with_suffix(".files")
    content["artifacts"] = [files / name for name in content["artifacts"]]
    return from_json(content)


def launch_flush(folder: Path, seconds: int = FLUSH_SECONDS) -> int:
    """Start a flush of `folder` in the background, which waits `seconds` for its store at most. -> process id"""
    log = folder / "flush.log"
    mode = "ab" if not log.exists() or log.stat().st_size < LOG_BYTES else "wb"
    # not a throw-away copy of the code, which goes before the flush does
    package = str(project_root(Path(__file__).resolve().parents[2]))
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-m", "webdistill.tracking.flush", "--background"]
    with log.open(mode) as output:
        process = subprocess.Popen(
            [*command, "--wait", str(seconds), "--folder", str(folder.resolve())],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # outlives the stage, and Ctrl-C in its terminal
        )
    process.returncode = 0  # nobody waits for it: without this, Popen warns when collected
    return process.pid


def switched_off() -> bool:
    return os.environ.get("WEBDISTILL_TRACKING", "").lower() == "off"


def submit(record: Record, folder: Path) -> None:
    """Spool `record` and start a flush. Never fails a stage: trouble is one line on stderr."""
    submit_all([record], folder)


def submit_all(records: Sequence[Record], folder: Path) -> None:
    """Spool `records` in this order and start one flush, as `submit` does."""
    if switched_off():
        return
    folder = project_root(folder.parent.parent) / ".work" / "spool"
    try:
        for record in records:
            write(record, folder)
        launch_flush(folder)
    except OSError as error:
        sys.stderr.write(f"{records[0].subject}: not tracked, the run is unaffected: {error}\n")
