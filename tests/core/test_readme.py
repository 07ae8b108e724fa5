"""The README's links lead somewhere, its figures have records. Its commands: tests/docs/test_commands.py."""

from __future__ import annotations

import json
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.docs.pages import PAGES, ROOT, commands

QUICKSTART, CHANNELS = "2026-11-29-quickstart", "2026-11-29-quickstart-channels"
NOW, AMX = "2026-11-30-quickstart-avx512", "2026-11-30-quickstart-amx"
STAGES, MEMORY = r"the ten stages took (\d+) s", r'"peak_memory_mib": ([\d.]+)'
CUT = "2026-11-30-real-task-seeds"
MADE = "2026-11-30-generators-seeds"
LADDER, SCARCE = "2026-11-29-ladder", "2026-11-29-scarce"
DOMAIN = "2026-11-26-out-of-domain"
FEW = "2026-11-29-augkd-few-labels"
SEEN = "2026-11-30-augkd-seen-domain"
LONG = "2026-11-30-augkd-long-phase"
START = "2026-11-29-teacher-start"


def row(arm: str) -> str:
    """The mean of an arm of three seeds in a comparison.md."""
    return rf"\| {arm}(?:,[^|]*)? \| 3 \| [\d,]+ \| [\d,]+ \| ([\d.]+) ±"


def spread(arm: str) -> str:
    """Its standard deviation."""
    return row(arm).replace("([\\d.]+) ±", "[\\d.]+ ± ([\\d.]+)")


# The README's words around a figure, the record's file, its words around the same figure (two figures: their
# difference), and how many of the README's units one of the record's is. LEAKS: the copies planted.
FIGURES = [
    (
        r"without a GPU, ([\d,]+) candidates",
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
    (r"\*\*([\d.]+) ±", CHANNELS, "record.json", r"training: ([\d.]+) \+-", "1"),
    (
        r"\*\*[\d.]+ ± ([\d.]+) %\*\*",
        CHANNELS,
        "record.json",
        r"training: [\d.]+ \+- ([\d.]+)",
        "1",
    ),
    (
        r"three seeds; ([\d.]+) ±",
        CHANNELS,
        "record.json",
        r"\), ([\d.]+) \+- [\d.]+ % on the other",
        "1",
    ),
    (r"seeds; [\d.]+ ± ([\d.]+) % on", CHANNELS, "record.json", r"([\d.]+) % on the other", "1"),
    (r"% on the other ([\d,]+) test", CHANNELS, "record.json", r"the other ([\d,]+) of", "1"),
    (r"three seeds \| ([\d.]+) ± [\d.]+ %, int8", CUT, "README.md", r"\| mean[ |]+([\d.]+) ±", "1"),
    (
        r"three seeds \| [\d.]+ ± ([\d.]+) %, int8",
        CUT,
        "README.md",
        r"\| mean[ |]+[\d.]+ ± ([\d.]+)",
        "1",
    ),
    (
        r"a minute of one core with ([\d,]+) foreign",
        MADE,
        "cells.csv",
        r"simkd,0,[\d.]+,[\d.]+,\d+,(\d+),",
        "1",
    ),
    (r"itself \| ([\d.]+) ± [\d.]+ % with SimKD", MADE, "comparison.md", row("simkd"), "1"),
    (r"itself \| [\d.]+ ± ([\d.]+) % with SimKD", MADE, "comparison.md", spread("simkd"), "1"),
    (r"with SimKD; ([\d.]+) ± [\d.]+ % with CMI", MADE, "comparison.md", row("cmi"), "1"),
    (r"with SimKD; [\d.]+ ± ([\d.]+) % with CMI", MADE, "comparison.md", spread("cmi"), "1"),
    (r"int8 level with it; teacher ([\d.]+)", CUT, "record.json", r"teacher ([\d.]+) %", "1"),
    (r"has seen; ([\d.]+) ±", NOW, "README.md", r"\| mean \| ([\d.]+) ±", "1"),
    (r"has seen; [\d.]+ ± ([\d.]+) and", NOW, "README.md", r"\| mean \| [\d.]+ ± ([\d.]+)", "1"),
    (
        r"has seen; [\d.]+ ± [\d.]+ and ([\d.]+) ±",
        NOW,
        "README.md",
        r"\| mean \|[^|]*\| ([\d.]+) ±",
        "1",
    ),
    (
        r"has seen; [\d.]+ ± [\d.]+ and [\d.]+ ± ([\d.]+)",
        NOW,
        "README.md",
        r"\| mean \|[^|]*\| [\d.]+ ± ([\d.]+)",
        "1",
    ),
    (r"pipeline on (\d+) cores", AMX, "record.json", r'"cores": (\d+)', "1"),
    (r"candidates \| ([\d.]+) minutes", AMX, "README.md", STAGES, "1/60"),
    (r"with AMX, ([\d.]+) from", AMX, "record.json", r'"seconds": ([\d.]+)', "1/60"),
    (r"included; ([\d,]+) MiB in its", AMX, "record.json", MEMORY, "1"),
    (r"with AVX512 \| ([\d.]+) and", NOW, "README.md", STAGES, "1/60"),
    (r"AVX512 \| [\d.]+ and ([\d.]+) m", NOW, "record.json", r'"seconds": ([\d.]+)', "1/60"),
    (r"AVX512 \| .{,40} minutes, ([\d,]+) MiB", NOW, "record.json", MEMORY, "1"),
    (
        r"\| (\d+) of \d+ found",
        QUICKSTART,
        "metrics/report.json",
        r'"recall/leak_guard": ([\d.]+)',
        "LEAKS",
    ),
    (
        r"found, ([\d.]+) % false",
        QUICKSTART,
        "metrics/report.json",
        r'"false_alarms/leak_guard": ([\d.]+)',
        "100",
    ),
    (
        r"in int8, seed \d \| ([\d.]+) %",
        CHANNELS,
        "metrics/evaluate.json",
        r'"int8_top1": ([\d.]+)',
        "100",
    ),
    (r"in int8, seed (\d)", CHANNELS, "params.yaml", r"seed: (\d)", "1"),
    (r"float32 ([\d.]+) %", CHANNELS, "metrics/evaluate.json", r'"top1": ([\d.]+)', "100"),
    (
        r"; ([\d.]+) MB instead",
        CHANNELS,
        "metrics/evaluate.json",
        r'"int8_bytes": (\d+)',
        "1/1000000",
    ),
    (
        r"instead of ([\d.]+) MB",
        CHANNELS,
        "metrics/evaluate.json",
        r'"onnx_bytes": (\d+)',
        "1/1000000",
    ),
    (r"SimKD on ([\d,]+) unselected", LADDER, "README.md", r"on ([\d,]+) unselected", "1"),
    (r"equal steps \| ([\d.]+) and", LADDER, "comparison.md", row("kd3"), "1"),
    (r"equal steps \| [\d.]+ and ([\d.]+) %", LADDER, "comparison.md", row("simkd"), "1"),
    (r"plain distillation ([\d.]+) % with their", LADDER, "comparison.md", row("kd_muon"), "1"),
    (r"optimiser, ([\d.]+) % with SGD", LADDER, "comparison.md", row("kd"), "1"),
    (r"of KD3 and SimKD \| ([\d.]+) and", START, "comparison.md", row("kd3_teacher"), "1"),
    (r"SimKD \| [\d.]+ and ([\d.]+) %", START, "comparison.md", row("simkd_teacher"), "1"),
    (
        r"and [\d.]+ %; plain distillation ([\d.]+) % \|",
        START,
        "comparison.md",
        row("kd_teacher"),
        "1",
    ),
    (
        r"equal steps \| ([\d.]+) % with the most",
        SCARCE,
        "comparison.md",
        row("agree_balanced"),
        "1",
    ),
    (r"confirms, ([\d.]+) % with random", SCARCE, "comparison.md", row("random"), "1"),
    (r"images, ([\d.]+) % with KD3", SCARCE, "comparison.md", row("kd3_pool"), "1"),
    (
        r"\| (\d+) points above",
        DOMAIN,
        "record.json",
        r"AuG-KD [\d.]+ %, ([\d.]+) points above plain KD",
        "1",
    ),
    (
        r"labels, (\d+) points below",
        DOMAIN,
        "record.json",
        r"AuG-KD ([\d.]+) %.*supervised ([\d.]+)",
        "1",
    ),
    (
        r"5 labels per class \| ([\d.]+) %",
        FEW,
        "results.md",
        r"\| augkd \|[^|]*\| ([\d.]+) \(5\)",
        "1",
    ),
    (
        r"62.6 %, labels alone ([\d.]+) %",
        FEW,
        "results.md",
        r"\| supervised \|[^|]*\| ([\d.]+) \(5\)",
        "1",
    ),
    (
        r"where the teacher is right for ([\d.]+) %",
        SEEN,
        "results.md",
        r"right for ([\d.]+) %",
        "1",
    ),
    (r"new domain \| ([\d.]+) %", SEEN, "results.md", r"\| augkd \| ([\d.]+) \(5\)", "1"),
    (
        r"data-free steps, labels alone ([\d.]+) %",
        SEEN,
        "results.md",
        r"\| supervised \| ([\d.]+) \(5\)",
        "1",
    ),
    (r"([\d.]+) % after ten", LONG, "results.md", r"\| augkd_long \| ([\d.]+) \(5\)", "1"),
    (r"on the labels, ([\d.]+) %", LONG, "results.md", r"\| tuned \| ([\d.]+) \(5\)", "1"),
    (r"with (\d) labels per class, where", SEEN, "results.md", r"\| (\d) labels per class \|", "1"),
    (r"weights with (\d) labels per", FEW, "results.md", r"\| (\d) labels per class \| all", "1"),
]
PLANTED = r"\| \d+ of (\d+) found"
NAMES = r"WRN-\d+-\d+|CIFAR-\d+|\bbfloat16|\bKD3|\bint8|\bfloat32|\bAVX512"


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
    named = set(re.findall(r"\]\((records/[^/)]+)", (ROOT / "README.md").read_text()))
    assert named
    for folder in named:
        found = json.loads((ROOT / folder / "record.json").read_text())
        assert found["claim"], folder
        assert found["command"], folder
        assert found["hardware"]["processor"], folder


def test_the_readme_runs_the_two_commands() -> None:
    assert {"make repro", "make test", "dvc repro"} <= set(commands(ROOT / "README.md"))
