"""Text for a terminal: inert, aligned, wrapped. And `--help` that waits for nothing."""

from __future__ import annotations

import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from webdistill.commands.provenance.text import (
    LONGEST,
    as_json,
    columns,
    inert,
    labelled,
    table,
    wrapped,
)

ROOT = Path(__file__).parents[3]


def test_no_code_point_survives_that_could_drive_a_terminal_or_hide() -> None:
    far = range(0x30000, sys.maxunicode + 1, 7)
    for code in [*range(0x20000), *range(0xE0000, 0xE1000), *far]:
        shown = inert(chr(code))
        assert all(unicodedata.category(c)[0] not in "C" for c in shown), hex(code)
        assert "\u2028" not in shown
        assert "\u2029" not in shown
        if 0x20 <= code < 0x7F and chr(code) != "\\":
            assert shown == chr(code)


def test_two_texts_never_look_the_same_once_made_inert() -> None:
    pairs = [
        ("\x1b", "\\x1b"),
        ("\u202e", "\\u202e"),
        ("\\", "\\\\"),
        ("\n", "\\x0a"),
        ("\u00ad", "\\xad"),
    ]
    for a, b in pairs:
        assert inert(a) != inert(b)


@pytest.mark.parametrize("seed", range(20))
def test_wrapping_loses_nothing_and_keeps_the_width(seed: int) -> None:
    draw = random.Random(seed)
    letters = "abc\u732b\u00e9e\u0301"
    words = ["".join(draw.choices(letters, k=draw.randrange(1, 30))) for _ in range(40)]
    lines = wrapped(" ".join(words), 20)
    assert "".join(lines).replace(" ", "") == "".join(words)
    assert all(columns(line) <= 20 for line in lines)


def test_an_address_is_not_broken() -> None:
    address = "https://example.org/" + "a" * 100
    assert wrapped(f"see {address} there", 20) == ["see", address, "there"]


def test_columns_are_aligned_also_under_wide_letters() -> None:
    lines = table(["name", "n"], [["\u732b\u732b", 1], ["abcdefg", 1000]], frozenset({1}))
    assert [columns(line) for line in lines] == [13, 13, 13]
    assert lines[1] == "\u732b\u732b" + " " * 8 + "1"


def test_a_label_stands_beside_the_first_line_only() -> None:
    lines = labelled("caption", "word " * 30)
    assert lines[0].startswith("caption     word")
    assert all(line.startswith(" " * 12 + "word") for line in lines[1:])
    assert str(10 * LONGEST) in " ".join(labelled("x", "y" * 10 * LONGEST)).replace(",", "")


def test_json_is_ascii_and_knows_no_nan() -> None:
    document = as_json({"a": float("nan"), "b": [float("inf"), "\x7f\x9b\u202e"]})
    assert document.isascii()
    assert "\x7f" not in document
    assert '"nan"' in document
    assert '"inf"' in document


@pytest.mark.parametrize("command", ["why", "lost", "prove-absent"])
def test_help_answers_without_loading_anything_heavy(command: str) -> None:
    program = (
        "import sys\n"
        "from webdistill.__main__ import main\n"
        "try:\n"
        f"    main([{command!r}, '--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print({'pyarrow', 'numpy', 'torch', 'pandas'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--json" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    """`python -m webdistill ... | head -1`"""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "data/fetch").mkdir(parents=True)
    groups = [f"q{n}" + "x" * 20 for n in range(3000)]
    ledger = {"status": ["ok"] * 3000, "id": [f"{n:032x}" for n in range(3000)], "query": groups}
    pq.write_table(pa.table(ledger), tmp_path / "data/fetch/ledger.parquet")
    command = [sys.executable, "-m", "webdistill", "lost", "--by", "query", "--json"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0
