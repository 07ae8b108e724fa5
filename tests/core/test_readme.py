"""The README's links lead somewhere, its figures have records. Its commands: tests/docs/test_commands.py."""

from __future__ import annotations

import json
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docs.pages import PAGES, ROOT, commands

QUICKSTART, EARLIER = "2026-11-26-quickstart", "2026-11-20-quickstart"
SELECTION, COMPARE = "2026-11-20-selection", "2026-11-20-compare"
DOMAIN = "2026-11-26-out-of-domain"
# The README's words around a figure, the record's file, its words around the same figure (two figures: their
# difference), and how many of the README's units one of the record's is. LEAKS: the copies planted.
FIGURES = [
    (
        r"quickstart.* ([\d,]+) web-like candidates",
        QUICKSTART,
        "metrics/search.json",
        r'"candidates": (\d+)',
        "1",
    ),
    (
        r"\| ([\d.]+) % on 2,000 CIFAR-10",
        QUICKSTART,
        "metrics/evaluate.json",
        r'"teacher_top1": ([\d.]+)',
        "100",
    ),
    (
        r"% on ([\d,]+) CIFAR-10 test images",
        QUICKSTART,
        "record.json",
        r"on ([\d,]+) test images",
        "1",
    ),
    (r"\*\*([\d.]+) %\*\*, one seed", QUICKSTART, "record.json", r"student ([\d.]+) %", "1"),
    (r"from nothing on (\d+) cores", QUICKSTART, "record.json", r'"cores": (\d+)', "1"),
    (r"no GPU \| (\d+) minutes", QUICKSTART, "record.json", r'"seconds": ([\d.]+)', "1/60"),
    (
        r"minutes, ([\d,]+) MiB in its",
        QUICKSTART,
        "record.json",
        r'"peak_memory_mib": ([\d.]+)',
        "1",
    ),
    (r"with bfloat16 (\d+) minutes", EARLIER, "record.json", r'"seconds": ([\d.]+)', "1/60"),
    (
        r"bfloat16 \d+ minutes, ([\d,]+) MiB",
        EARLIER,
        "record.json",
        r'"peak_memory_mib": ([\d.]+)',
        "1",
    ),
    (
        r"\| (\d+) of \d+ /",
        QUICKSTART,
        "metrics/report.json",
        r'"recall/leak_guard": ([\d.]+)',
        "LEAKS",
    ),
    (
        r"of \d+ / ([\d.]+) %",
        QUICKSTART,
        "metrics/report.json",
        r'"false_alarms/leak_guard": ([\d.]+)',
        "100",
    ),
    (
        r"teacher gives ([\d.]+) ±",
        SELECTION,
        "record.json",
        r"confident selection gives ([\d.]+) ",
        "1",
    ),
    (
        r"teacher gives [\d.]+ ± ([\d.]+) %",
        SELECTION,
        "record.json",
        r"selection gives [\d.]+ \+- ([\d.]+)",
        "1",
    ),
    (
        r"random images give ([\d.]+) ±",
        SELECTION,
        "record.json",
        r"random filtered images ([\d.]+) ",
        "1",
    ),
    (
        r"images give [\d.]+ ± ([\d.]+) %",
        SELECTION,
        "record.json",
        r"filtered images [\d.]+ \+- ([\d.]+)",
        "1",
    ),
    (r"On ([\d,]+) unselected", COMPARE, "record.json", r"On ([\d,]+) unselected", "1"),
    (r"KD3 reach ([\d.]+) and", COMPARE, "record.json", r"simkd and kd3 reach ([\d.]+) and", "1"),
    (
        r"KD3 reach [\d.]+ and ([\d.]+) %",
        COMPARE,
        "record.json",
        r"kd3 reach [\d.]+ and ([\d.]+) %",
        "1",
    ),
    (r"plain distillation ([\d.]+) %, the", COMPARE, "record.json", r"\bkd ([\d.]+) %", "1"),
    (
        r"in as many steps ([\d.]+) %",
        COMPARE,
        "record.json",
        r"original data with labels ([\d.]+) %",
        "1",
    ),
    (
        r"AuG-KD is (\d+) points above",
        DOMAIN,
        "record.json",
        r"AuG-KD [\d.]+ %, ([\d.]+) points above plain KD",
        "1",
    ),
    (
        r"and (\d+) below those labels",
        DOMAIN,
        "record.json",
        r"AuG-KD ([\d.]+) %.*supervised ([\d.]+)",
        "1",
    ),
]
PLANTED = r"\| \d+ of (\d+) /"
NAMES = r"WRN-\d+-\d+|CIFAR-\d+|\bbfloat16|\bKD3"


def measured_part() -> str:
    """What the README says before its first heading, on one line, without the addresses of links."""
    text = (ROOT / "README.md").read_text().partition("\n## ")[0]
    return re.sub(r"\]\([^)]*\)", "]", " ".join(text.split()))


def planted_leaks() -> int:
    kinds = pq.read_table(ROOT / "data/quickstart/truth.parquet", columns=["kind"])["kind"]
    return kinds.to_pylist().count("test_leak")


@pytest.mark.parametrize(("words", "record", "file", "found", "factor"), FIGURES)
def test_a_figure_is_that_of_its_record(
    words: str, record: str, file: str, found: str, factor: str
) -> None:
    here = re.findall(words, measured_part())
    assert len(here) == 1, f"README.md has {words} {len(here)} times; change FIGURES with it"
    shown = Decimal(here[0].replace(",", ""))
    there = re.search(found, (ROOT / "records" / record / file).read_text())
    assert there, f"{record}/{file}: {found}"
    values = [Decimal(value.replace(",", "")) for value in there.groups()]
    value = abs(values[1] - values[0]) if len(values) == 2 else values[0]
    one, _, other = factor.replace("LEAKS", str(planted_leaks())).partition("/")
    exact = value * Decimal(one) / Decimal(other or 1)
    assert shown == exact.quantize(shown, ROUND_HALF_UP)


def test_the_planted_copies_are_counted_in_the_truth() -> None:
    assert re.findall(PLANTED, measured_part()) == [str(planted_leaks())]


def test_every_figure_is_compared_with_a_record() -> None:
    text = measured_part()
    known = [PLANTED, *(words for words, *_ in FIGURES)]
    places = {match.span(1) for words in known for match in re.finditer(words, text)}
    names = [match.span() for match in re.finditer(NAMES, text)]
    for match in re.finditer(r"\d[\d,.]*\d|\d", text):
        named = any(start <= match.start() < end for start, end in names)
        assert named or match.span() in places, text[match.start() - 30 : match.end() + 20]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files_of_the_project(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_no_placeholder_is_left() -> None:
    assert not [page for page in PAGES if "@@" in page.read_text()]


def test_every_record_of_the_readme_has_command_and_hardware() -> None:
    named = set(re.findall(r"\]\((records/[^)]+)\)", (ROOT / "README.md").read_text()))
    assert named
    for folder in named:
        found = json.loads((ROOT / folder / "record.json").read_text())
        assert found["claim"], folder
        assert found["command"], folder
        assert found["hardware"]["processor"], folder


def test_the_readme_runs_the_two_commands() -> None:
    assert {"make repro", "make test", "dvc repro"} <= set(commands(ROOT / "README.md"))
