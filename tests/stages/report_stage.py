"""Stands in for the harness of the report stage, and reads the page it makes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

from stages.report.gather import gather
from stages.report.page import page
from stages.report.params import Report
from tests.stages.report_project import CLASSES
from webdistill.core.files import digest

DISTILL = {"method": "kd", "deconfound": {"dictionary": "none"}}
FLAT = {"distill.method": "kd", "distill.epochs": "3"}


class Stage:
    """Stands in for the harness."""

    def __init__(self, root: Path, truth: bool = False) -> None:
        self.root = root
        self.params = Report(pictures=6, prototypes=2, nearest=4, hosts=2, truth=truth)
        self.task = SimpleNamespace(
            classes=CLASSES,
            teacher="teacher",
            test_images="tests.parquet",
            model_dump=lambda mode, exclude: {
                "classes": list(CLASSES),
                "test_images": "tests.parquet",
            },
            idle=set,
        )
        other = SimpleNamespace(model_dump=lambda mode, exclude: DISTILL, idle=set)
        self.settings = SimpleNamespace(
            sections={"distill": other, "report": self.params}, flat=lambda: dict(FLAT)
        )
        self.inputs: dict[str, str] = {}
        self.found: dict[str, float] = {}
        self.opened: list[str] = []

    def input(self, name: str) -> Path:
        path = self.root / name
        self.opened.append(name)
        self.inputs[name] = digest(path)
        return path

    @contextlib.contextmanager
    def output(self, name: str) -> Iterator[Path]:
        yield self.root / name

    def metrics(self, values: Mapping[str, float]) -> None:
        self.found.update(values)

    def artifact(self, path: Path) -> None:
        assert path.exists()

    def log(self, message: str) -> None:
        assert message


def rendered(root: Path, truth: bool = True) -> str:
    return page(gather(Stage(root, truth)))


class Reader(HTMLParser):
    """Collects every tag with its attributes, and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, name: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((name, dict(attrs)))
        if name not in ("meta", "img", "br", "hr"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name
