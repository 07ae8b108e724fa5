"""Rows by id as columns, against dictionaries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from stages.report.columns import Columns, batches, first, names, text, words
from stages.report.ledger import OWN, read_ledger
from webdistill.core.errors import UserError
from webdistill.core.files import write_table

IDS = ["b" * 32, "", "a", "zz", "c" * 32]


def test_ids_come_back_as_they_were_from_any_part_of_a_column() -> None:
    column = pa.chunked_array([IDS[:2], IDS[2:]])
    assert [text(name) for name in names(column)] == IDS
    assert [text(name) for name in names(column.slice(1, 3))] == IDS[1:4]
    assert names(pa.array(IDS).slice(2)).tolist() == [b"a", b"zz", b"c" * 32]
    assert len(names(pa.array([], pa.string()))) == 0


def test_look_ups_equal_those_of_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    known = [f"{n:08x}" for n in rng.permutation(5000)[:2000]]
    values = rng.normal(size=2000)
    table, plain = (
        Columns(names(pa.array(known)), value=values),
        dict(zip(known, values, strict=True)),
    )
    asked = [f"{n:08x}" for n in rng.integers(0, 5000, 3000)] + ["", "0" * 40, known[0] + "0"]
    wanted = names(pa.array(asked))
    expected = [plain.get(name, -9.0) for name in asked]
    assert table.of(wanted, "value", -9.0).tolist() == expected
    assert table.has(wanted).tolist() == [name in plain for name in asked]
    assert [name in table for name in asked] == [name in plain for name in asked]
    assert table.places(table.ids).tolist() == list(range(2000))
    nobody = Columns(table.ids[:0], value=values[:0])
    assert nobody.of(wanted, "value", 7.0).tolist() == [7.0] * len(asked)
    assert not nobody.has(wanted).any()


def test_the_first_ones_equal_a_whole_sort() -> None:
    rng = np.random.default_rng(1)
    key = rng.integers(0, 20, 500).astype(float)  # many ties
    ids = names(pa.array([f"{n:04x}" for n in rng.permutation(500)]))
    for number in (1, 7, 499, 500, 900):
        expected = sorted(range(500), key=lambda at: (key[at], ids[at]))[:number]
        assert first(key, ids, number).tolist() == expected


def test_equal_words_are_one_object() -> None:
    found = words(pa.chunked_array([["low score", None], ["low score"]]))
    assert found.tolist() == ["low score", None, "low score"]
    assert found[0] is found[2]


def test_of_the_ledgers_addresses_hosts_are_kept(tmp_path: Path) -> None:
    rows = 40_000  # several batches
    own = [f"{OWN}, which ..." if n == 39_999 else "" for n in range(rows)]
    table = pa.table(
        {
            "row": list(range(rows)),
            "id": [f"{n:032x}" for n in range(rows)],
            "url": [f"https://u:secret@h{n % 3}.example:80/{n}" for n in range(rows)],
            "status": ["ok" if n % 2 else "timeout" for n in range(rows)],
            "licence": [f"l{n % 5}" for n in range(rows)],
            "licence_url": ["" for _ in range(rows)],
            "landing_page": ["" if n % 2 else "https://land.example/1" for n in range(rows)],
            "detail": own,
        }
    )
    write_table(table, tmp_path / "ledger.parquet")
    found = read_ledger(tmp_path / "ledger.parquet")
    hosts = [f"h{n % 3}.example" if n % 2 else "land.example" for n in range(rows)]
    assert found["host"].to_pylist() == hosts
    for name in ("row", "id", "status", "licence"):
        assert found[name].to_pylist() == table[name].to_pylist()
    assert found["own"].to_pylist() == [n == 39_999 for n in range(rows)]
    assert found.nbytes < 70 * rows
    write_table(table.slice(0, 0), tmp_path / "none.parquet")
    assert read_ledger(tmp_path / "none.parquet").schema.names == found.schema.names
    with pytest.raises(UserError, match=r"ledger\.parquet has no column 'nothing'"):
        list(batches(tmp_path / "ledger.parquet", ["nothing"]))
