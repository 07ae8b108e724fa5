"""iNaturalist: asked as its documentation says, a licence per photo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import stages.search.__main__ as program
from stages.search import inaturalist
from stages.search.found import Found
from stages.search.keywords import Keywords
from stages.search.providers import results
from tests.stages import api_server
from tests.stages.api_server import asking, observation, ok, provider, serve
from tests.stages.test_search import stage
from webdistill.core.errors import UserError
from webdistill.core.files import read_table


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBDISTILL_ALLOW_LOOPBACK", "1")
    monkeypatch.setenv("WEBDISTILL_CONTACT", "me@example.org")
    monkeypatch.setattr(inaturalist, "PAUSE", 0.0)


def test_inaturalist_is_asked_as_its_documentation_says(monkeypatch: pytest.MonkeyPatch) -> None:
    per_class = 250
    with asking("inaturalist", api_server.inaturalist(1000), monkeypatch, per_class) as (
        api, one, ask,
    ):  # fmt: skip
        found = list(results(one, ask, Keywords(["monarch_butterfly"])))
    licences = "cc0,cc-by,cc-by-sa"
    assert api.queries == [
        {
            "taxon_name": "monarch butterfly", "photos": "true", "photo_license": licences,
            "quality_grade": "research", "order_by": "votes", "per_page": "200", "page": page,
        }
        for page in ("1", "2")
    ]  # fmt: skip
    assert api.tokens == ["", ""], "no key"
    assert len(found) == per_class
    assert found[0] == Found(
        "https://inaturalist-open-data.s3.amazonaws.com/photos/10/medium.jpeg", "http", "", 0, "inaturalist",
        "monarch_butterfly", "Monarch; Danaus plexippus", "CC BY 4.0",
        "https://creativecommons.org/licenses/by/4.0/", "Ada Berg", "https://www.inaturalist.org/photos/10",
        "(c) Ada Berg, some rights reserved (CC BY)",
    )  # fmt: skip


def test_it_is_asked_where_params_yaml_enables_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "web").mkdir()
    with serve(api_server.inaturalist(3)) as api:
        monkeypatch.setenv("WEBDISTILL_INATURALIST", api.address)
        settings = {"enabled": True, "per_class": 2, "licences": ["by"]}
        at_work = stage(tmp_path / "out", local=str(tmp_path / "web"), inaturalist=settings)
        program.main(at_work)
        at_work.publish()
    table = read_table(tmp_path / "out/search/candidates.parquet")
    assert set(table["provider"].to_pylist()) == {"inaturalist"}
    assert table.num_rows == 2, "the same photos for every class, one row per address"
    assert {query["photo_license"] for query in api.queries} == {"cc-by"}


@pytest.mark.parametrize(
    ("code", "licence", "address"),
    [
        ("cc0", "CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC-BY-SA", "CC BY-SA 4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
        ("cc-by-nc", None, ""), (None, None, ""), (3, None, ""), ("by", None, ""),
    ],
)  # fmt: skip
def test_each_photo_has_a_licence_of_its_own(
    monkeypatch: pytest.MonkeyPatch, code: object, licence: str | None, address: str
) -> None:
    other = observation(1)
    other["photos"][1] |= {"license_code": code, "attribution": "(c) Bo"}
    answer = ok({"total_results": 1, "results": [other]})
    with asking("inaturalist", lambda _: answer, monkeypatch) as (_, one, ask):
        found = list(one.search(ask, "monarch"))
    assert [(f.licence, f.licence_url) for f in found[1:]] == (
        [(licence, address)] if licence else []
    )


@pytest.mark.parametrize(
    ("results", "count"),
    [
        ([], 0), ([3, None, [], {}], 0), ([observation(1, photos=None)], 0), ([observation(1, photos=[3, {}])], 0),
        ([observation(1, user=None, taxon=[], species_guess=None)], 1), ([observation(1), observation(1)], 2),
    ],
)  # fmt: skip
def test_unusable_observations_are_passed_by(
    monkeypatch: pytest.MonkeyPatch, results: list[Any], count: int
) -> None:
    answer = ok({"total_results": 1000, "results": results})
    with asking("inaturalist", lambda _: answer, monkeypatch) as (api, one, ask):
        assert len(list(one.search(ask, "monarch"))) == count
    assert len(api.queries) <= 2, "the same page again ends the search"


def test_it_is_never_asked_beyond_its_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(query: dict[str, str]) -> api_server.Answer:
        number = int(query["page"])
        return ok({"total_results": 10**6, "results": [observation(number)]})

    with asking("inaturalist", endless, monkeypatch) as (api, one, ask):
        assert len(list(one.search(ask, "monarch"))) == 50
        assert one.total(ask, "monarch") == 10_000
    assert api.queries[-1]["per_page"] == "0"


def test_what_it_says_instead_of_results_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for content, told in (
        ({"error": "Unknown taxon", "status": 422}, "it says 'Unknown taxon'"),
        ({}, "no list"),
    ):
        with asking("inaturalist", lambda _, it=content: ok(it), monkeypatch) as (_, one, ask):
            with pytest.raises(UserError, match=told) as caught:
                list(one.search(ask, "monarch"))
        assert "search.inaturalist.enabled: false" in str(caught.value)


def test_its_pace_is_what_it_asks_for() -> None:
    assert inaturalist.Inaturalist.grant is None
    assert provider("inaturalist").pause == inaturalist.PAUSE
