"""What nobody may use: takedowns, opt-outs, licences, and the looks of unsafe images."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from stages.filter import rules
from stages.filter.__main__ import main
from stages.filter.params import Filter
from stages.report import evidence
from stages.select.scores import QUALITY
from tests.stages.filter_project import LOOSE, finish, name, photo, stage_for
from tests.stages.report_project import build_project, webp
from tests.stages.report_stage import rendered
from webdistill.commands.provenance import absence
from webdistill.core.errors import UserError
from webdistill.core.files import write_table


@pytest.mark.parametrize(
    "entry",
    [
        name(1), "https://host1.org/a.png", "host:host1.org", "*.host1.org", f"{1:064x}",
        "https://mirror.net/1.png", f"sha256:{3 + 1 + 1:064x}",  # the same pixels from elsewhere
    ],
)  # fmt: skip
def test_a_takedown_is_gone_whatever_names_it(place: Path, entry: str) -> None:
    """Promise K4."""
    images = [photo(0), photo(1), photo(2)]
    kept, dropped = finish(stage_for(place, images, takedown=f"{entry}\n", opted_out=[1]))
    assert kept == [name(0), name(2)]
    assert dropped[name(1)]["reason"] == "takedown"


def test_a_takedown_of_one_image_leaves_its_resized_copy(place: Path) -> None:
    images = [photo(0), photo(0).resize((60, 60)), photo(1)]
    stage = stage_for(place, images, takedown=f"id:{name(0)}", duplicate_similarity=0.88)
    kept, dropped = finish(stage)
    assert kept == [name(1), name(2)]
    assert list(dropped) == [name(0)]


def test_an_entry_that_means_no_candidate_is_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be misspelt, and then somebody believes an image gone that is not."""
    text = f"host1.org/A.png\n*.gone.org\nid:{name(7)}\nid:{name(1)}\n"
    finish(stage_for(place, [photo(0), photo(1)], takedown=text))
    told = "filter: takedown.txt: no candidate is meant by line 1, 3; check the spelling\n"
    assert told in capsys.readouterr().err


def test_a_host_of_everything_says_what_to_change(place: Path) -> None:
    stage = stage_for(place, [photo(0), photo(1)], takedown="*.net")
    with pytest.raises(UserError, match=r"takedown 2.*takedown\.txt"):
        main(stage)


def test_nobody_sees_what_was_taken_down_or_opted_out_or_looks_unsafe(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another rule would have dropped it first, or an earlier one has."""
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    images = [Image.new("RGB", (40, 40), colour) for colour in colours]
    seen: list[np.ndarray] = []
    monkeypatch.setattr(
        "stages.filter.results.contact_sheet", lambda images, columns: seen.extend(images) or b""
    )
    stage = stage_for(
        place, [*images, photo(0)], takedown=name(0), opted_out=[0, 1], max_unsafe=0.5, min_contrast=2.0,
        licence={5: ("by", ""), 2: ("by-nc", "")}, licences=("by",), unknown_licence="keep",
        unsafe=[0, 0, 0.9, 0, 0, 0],
    )  # fmt: skip
    kept, dropped = finish(stage)
    assert kept == [name(5)]
    assert [dropped[name(i)]["reason"] for i in range(5)] == [
        "takedown", "opt_out", "unsafe", "blank", "blank",
    ]  # fmt: skip
    shown = {tuple(int(v) for v in picture[0, 0]) for picture in seen[1:]}
    assert shown == set(colours[3:])


def test_every_part_that_shows_images_hides_the_same() -> None:
    assert frozenset(evidence.HIDDEN) == absence.HIDDEN == rules.HIDDEN


def test_licences_count_where_the_image_came_from(place: Path) -> None:
    """Each stands in the ledger again, with all rights reserved."""
    licence = {
        0: ("CC BY-SA 4.0", ""), 1: ("", "https://creativecommons.org/publicdomain/zero/1.0/"),
        2: ("by-nc", ""), 3: ("", ""), 4: ("Own terms", "https://creativecommons.org/licenses/by/4.0/"),
    }  # fmt: skip
    for number, (allowed, unknown, wanted) in enumerate(
        [
            ((), "keep", [0, 1, 2, 3, 4]), ((), "drop", [0, 1, 2, 4]),
            (("by-sa", "cc0"), "keep", [0, 1, 3]), (("CC0 1.0",), "drop", [1]),
            (("own terms",), "drop", [4]),
        ]
    ):  # fmt: skip
        images = [photo(i) for i in range(5)]
        inner = place / str(number)
        inner.mkdir()
        with contextlib.chdir(inner):
            stage = stage_for(
                inner, images, licence=licence, licences=allowed, unknown_licence=unknown
            )
            kept, dropped = finish(stage)
            assert kept == [name(i) for i in wanted]
            assert {d["reason"] for d in dropped.values()} <= {"licence"}


def test_unsafe_without_texts_is_refused(place: Path) -> None:
    with pytest.raises(UserError, match=r"embed\.unsafe_texts"):
        main(stage_for(place, [photo(0)], max_unsafe=0.5))


def test_a_ledger_of_another_pool_is_refused(place: Path) -> None:
    stage = stage_for(place, [photo(0), photo(1)])
    table = pq.read_table("data/fetch/ledger.parquet")
    write_table(table.take([1, 0, 2, 3, 4]), place / "data/fetch/ledger.parquet")
    with pytest.raises(UserError, match="ledger.parquet is of another pool"):
        main(stage)


def test_a_licence_that_says_nothing_cannot_be_allowed() -> None:
    with pytest.raises(ValidationError, match="unknown_licence"):
        Filter(**{**LOOSE, "licences": ("cc0", "unknown")})


def test_what_is_refused_comes_before_quality_and_no_control_brings_it_back() -> None:
    """select.source: pool takes what was dropped for QUALITY, by the first reason only."""
    refused = {"takedown", "opt_out", "leak", "licence", "unsafe", "punsafe", "nsfw"}
    assert set(rules.REASONS[: len(refused)]) == refused
    assert not refused & set(QUALITY)
    assert set(QUALITY) <= set(rules.REASONS)


@pytest.mark.parametrize("reason", sorted(rules.HIDDEN))
def test_the_report_shows_no_image_that_nobody_shall_see(place: Path, reason: str) -> None:
    build_project(place)
    table = pq.read_table("data/filter/dropped.parquet")
    ids, reasons = (table[column].to_pylist() for column in ("id", "reason"))
    for old in set(reasons):  # one of every kind, some with another image beside them
        reasons[reasons.index(old)] = reason
    hidden = [n for n, new in zip(ids, reasons, strict=True) if new in (reason, "takedown")]
    assert len(hidden) >= 6
    table = table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(reasons))
    write_table(table, place / "data/filter/dropped.parquet")
    page = rendered(place)
    assert all(_picture(n) not in page for n in hidden)
    rest = [n for n in ids if n not in hidden]
    assert any(_picture(n) in page for n in rest)


def _picture(name: str) -> str:
    return base64.b64encode(webp(int(name, 16))).decode()
