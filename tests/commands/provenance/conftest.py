"""A dozen candidates on their way through all stages, as small files in an empty folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from webdistill.__main__ import main
from webdistill.core.files import digest, read_table, write_table
from webdistill.images.pool import PoolRow, write_pool

CLASSES = ["cat", "dog", "race car"]
HOSTILE = "hi\x1b]0;owned\x07\x1b[31m\r\nred \u202eesrever\u2069 \x9b2J back\\slash \x7f"
IDS = {
    "a": "aaaa1111" + "0" * 24, "b": "bbbb" + "1" * 28, "c": "cccc" + "2" * 28, "d": "dddd" + "3" * 28,
    "e": "aaaa2222" + "4" * 24, "f": "ffff" + "5" * 28, "g": "abab" + "6" * 28, "h": "1234" + "7" * 28,
}  # fmt: skip
LEAKED = "9999" + "8" * 28  # a test image


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class One:
    """A candidate and its fate; `dropped`: (reason, value, threshold, other)."""

    url: str
    status: str = "ok"
    id: str = ""
    query: str = "cat"
    caption: str = ""
    provider: str = "list"
    source: str = "http"
    file: str = ""
    dropped: tuple[str, float, float, str] | None = None
    selected: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


CANDIDATES = (
    One("https://a.example.org/1.jpg", id=IDS["a"], caption="a tabby cat", selected=True,
        facts={"http_status": 200, "robots": "allowed", "licence": "CC BY 4.0", "creator": "Ann",
               "licence_url": "https://creativecommons.org/licenses/by/4.0/"}),
    One("https://b.example.net/copy.jpg?x=1&y=2", "duplicate", IDS["a"], provider="openverse"),
    One("https://a.example.org/2.jpg", id=IDS["b"], query="dog", dropped=("low_score", 0.0125, 0.25, "")),
    One("https://img.a.example.org/3.jpg", id=IDS["c"], dropped=("duplicate", 0.98, 0.95, IDS["a"])),
    One("https://b.example.net/4.jpg", id=IDS["d"], query="dog"),
    One("https://no.robots.example/5.jpg", "robots", facts={"robots": "disallowed"}),
    One("https://b.example.net/6.jpg", "not_found", query="dog", facts={"http_status": 404}),
    One("https://c.example.net/7.jpg", "opted_out", facts={"opt_out": "noai"}),
    One("https://a.example.org/8.jpg", id=IDS["e"], query="race car", selected=True),
    One("cat/9.jpg", id=IDS["f"], source="file", file="photos", provider="folder",
        dropped=("takedown", 1.0, 0.0, "")),
    One("https://d.example.net/10.jpg", id=IDS["g"], query="dog", caption=HOSTILE, selected=True,
        facts={"landing_page": "https://page.example.com/10"}),
    One("https://d.example.net/11.jpg", id=IDS["h"], query="", dropped=("leak", 0.99, 0.9, LEAKED)),
)  # fmt: skip


class World:
    """Writes the stages' files into `root/data`; `skip` names stages that have not run."""

    ids = IDS
    leaked = LEAKED
    hostile = HOSTILE
    classes = CLASSES

    def __init__(self, root: Path, candidates: tuple[One, ...] = CANDIDATES) -> None:
        self.root, self.data = root, root / "data"
        self.candidates = candidates
        self.pool = [one for one in candidates if one.status == "ok"]
        self.kept = [one for one in self.pool if one.dropped is None]
        self.selected = [one for one in self.pool if one.selected]

    def write(self, *skip: str) -> World:
        for stage in (
            "search", "fetch", "embed", "filter", "score", "select", "prototypes", "distill", "evaluate", "report",
        ):  # fmt: skip
            if stage not in skip:
                (self.data / stage).mkdir(parents=True)
                getattr(self, f"_{stage}")(self.data / stage)
        return self

    def table(
        self, path: str, columns: dict[str, Any], header: dict[str, str] | None = None
    ) -> None:
        write_table(pa.table(columns), self.data / path, header)

    def append(self, path: str, **values: Any) -> None:
        """One more row, null where nothing is given."""
        table = read_table(self.data / path)
        row = {name: [values.get(name)] for name in table.column_names}
        longer = pa.concat_tables([table, pa.table(row, schema=table.schema)])
        write_table(longer, self.data / path)

    def _search(self, folder: Path) -> None:
        names = ("url", "source", "file", "provider", "query", "caption")
        columns: dict[str, Any] = {n: [getattr(o, n) for o in self.candidates] for n in names}
        for name in ("licence", "licence_url", "creator", "landing_page", "attribution", "origin"):
            columns[name] = [one.facts.get(name, "") for one in self.candidates]
        columns["opt_out"] = [one.facts.get("opt_out", "") for one in self.candidates]
        columns["row"] = list(range(len(self.candidates)))
        self.table("search/candidates.parquet", columns)

    def _fetch(self, folder: Path) -> None:
        names = ("url", "source", "file", "provider", "query", "status", "id")
        columns: dict[str, Any] = {n: [getattr(o, n) for o in self.candidates] for n in names}
        for name in (
            "licence",
            "licence_url",
            "creator",
            "landing_page",
            "origin",
            "opt_out",
            "robots",
            "detail",
        ):
            columns[name] = [one.facts.get(name, "") for one in self.candidates]
        columns["row"] = list(range(len(self.candidates)))
        columns["http_status"] = pa.array(
            [one.facts.get("http_status", 0) for one in self.candidates], pa.int32()
        )
        columns["bytes"] = [len(one.id) * 100 for one in self.candidates]
        columns["sha256"] = [sha256(one.id) if one.id else "" for one in self.candidates]
        self.table("fetch/ledger.parquet", columns)
        rows = (
            PoolRow(o.id, f"bytes of {o.id}".encode(), 64, 48, o.query, o.caption)
            for o in self.pool
        )
        write_pool(rows, folder / "pool", 3)

    def _embed(self, folder: Path) -> None:
        count = len(self.pool)
        columns = {
            "id": [one.id for one in self.pool],
            "query": [one.query for one in self.pool],
            "query_class": pa.array([0] * count, pa.int32()),
            "clip_class": pa.array([n % 3 for n in range(count)], pa.int32()),
            "score": pa.array([0.125 * n for n in range(count)], pa.float32()),
            "margin": pa.array([0.25] * count, pa.float32()),
            "unsafe": pa.array([None, *[0.5] * (count - 1)], pa.float32()),
        }
        self.table("embed/scores.parquet", columns, {"classes": json.dumps(CLASSES)})

    def _filter(self, folder: Path) -> None:
        self.table(
            "filter/kept.parquet", {"id": pa.array([one.id for one in self.kept], pa.string())}
        )
        dropped = [(one.id, *one.dropped) for one in self.pool if one.dropped is not None]
        types = {
            "id": pa.string(),
            "reason": pa.string(),
            "value": pa.float64(),
            "threshold": pa.float64(),
            "other": pa.string(),
        }
        columns = {
            name: pa.array([row[at] for row in dropped], kind)
            for at, (name, kind) in enumerate(types.items())
        }
        columns["detail"] = pa.array(
            ["takedown.txt line 9" if row[1] == "takedown" else "" for row in dropped], pa.string()
        )
        self.table("filter/dropped.parquet", columns)

    def _score(self, folder: Path) -> None:
        logits = [[0.0, 1.0, float(n)] for n in range(len(self.pool))]
        columns = {
            "id": [one.id for one in self.pool],
            "logits": pa.array(logits, pa.list_(pa.float32(), 3)),
        }
        (folder / "teacher").mkdir()
        for at in (0, 3):  # two shards
            stop = 3 if at == 0 else None
            part = {name: values[at:stop] for name, values in columns.items()}
            self.table(f"score/teacher/{at // 3:05d}.parquet", part)

    def _select(self, folder: Path) -> None:
        count = len(self.selected)
        columns = {
            "id": pa.array([one.id for one in self.selected], pa.string()),
            "teacher_class": pa.array([n % 3 for n in range(count)], pa.int32()),
            "confidence": pa.array([0.5] * count, pa.float32()),
            "weight": pa.array([1.0] * count, pa.float32()),
            "rank": pa.array(range(count), pa.int32()),
        }
        self.table("select/selection.parquet", columns)

    def _prototypes(self, folder: Path) -> None:
        columns = {
            "id": pa.array([one.id for one in self.selected], pa.string()),
            "prototype": pa.array([7] * len(self.selected), pa.int32()),
            "distance": pa.array([1.5] * len(self.selected), pa.float32()),
        }
        self.table("prototypes/assignment.parquet", columns)

    def _distill(self, folder: Path) -> None:
        """Ten choices, one per epoch: the first image was kept in 1-3, 5 and 10; the others never."""
        bits = ([b"\x17\x02"] + [b"\x00\x00"] * len(self.selected))[: len(self.selected)]
        columns = {
            "id": pa.array([one.id for one in self.selected], pa.string()),
            "times_kept": pa.array([5 * (n == 0) for n in range(len(self.selected))], pa.int32()),
            "kept": pa.array(bits, pa.binary()),
        }
        self.table("distill/selection_history.parquet", columns)
        lines = ["epoch,kept", *(f"{epoch},1" for epoch in range(1, 11))]
        (folder / "selection_history.csv").write_text("\n".join(lines) + "\n")

    def _evaluate(self, folder: Path) -> None:
        self.table("evaluate/predictions.parquet", {"id": [LEAKED], "label": [0]})

    def _report(self, folder: Path) -> None:
        """Names what it was made from, as the real one does."""
        sources = ("filter/kept.parquet", "filter/dropped.parquet", "select/selection.parquet")
        made_from = [digest(self.data / name) for name in sources if (self.data / name).exists()]
        (folder / "report.html").write_text(f"<title>{' '.join(made_from)}</title>")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """say("why", ...) -> exit code, stdout, stderr"""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([*words])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def verdicts(say: Any) -> Callable[..., dict[str, str]]:
    """verdicts(name) -> what `prove-absent` says of each file: {file: verdict}"""

    def run(*words: str) -> dict[str, str]:
        found = json.loads(say("prove-absent", *words, "--json")[1])["findings"]
        return {entry["file"]: entry["verdict"] for entry in found}

    return run


@pytest.fixture
def one() -> type[One]:
    return One


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """build("distill", ...) -> a World without these stages, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(*skip: str, candidates: tuple[One, ...] = CANDIDATES) -> World:
        return World(tmp_path, candidates).write(*skip)

    return make
