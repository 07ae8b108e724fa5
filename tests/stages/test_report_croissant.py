"""The Croissant description: every reference in it leads somewhere, and it says of the pool what the pool is."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.report.__main__ import main
from stages.report.croissant import CONTEXT, IMAGES, POOL, SOURCES, croissant, document
from stages.report.gather import gather
from tests.stages.report_project import HOSTILE, build_project
from tests.stages.report_stage import Stage
from webdistill.core.files import write_manifest

ROOT = Path(__file__).parents[2]
KINDS = {  # what a column must hold for a data type
    "sc:Text": pa.types.is_string,
    "sc:Integer": pa.types.is_integer,
    "sc:ImageObject": pa.types.is_struct,
}


@pytest.fixture(scope="module")
def found(project: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(croissant(gather(Stage(project))))
    return value


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """All JSON objects in `value` but the context."""
    if isinstance(value, dict):
        yield value
        for key, inner in value.items():
            if key != "@context":
                yield from nodes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from nodes(inner)


def test_it_is_a_dataset_of_croissant_1_0(found: dict[str, Any]) -> None:
    assert found["@type"] == "sc:Dataset"
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    for required in ("name", "description", "license", "creator", "distribution", "recordSet"):
        assert found[required]
    assert found["isLiveDataset"] is False
    assert not {"datePublished", "dateCreated", "dateModified"} & found.keys(), "no clock"
    known = set(CONTEXT) | {"@id", "@type", "@context"}
    schema_org = {
        "name",
        "description",
        "identifier",
        "license",
        "creator",
        "keywords",
        "sdVersion",
    }
    schema_org |= {
        "isBasedOn",
        "distribution",
        "contentUrl",
        "contentSize",
        "encodingFormat",
        "sha256",
    }
    schema_org |= {"containedIn"}
    assert {key for node in nodes(found) for key in node} <= known | schema_org


def test_every_reference_leads_to_a_node(found: dict[str, Any]) -> None:
    named = [node["@id"] for node in nodes(found) if "@type" in node and "@id" in node]
    assert max(Counter(named).values()) == 1
    referred = {node["@id"] for node in nodes(found) if set(node) == {"@id"}}
    assert {
        "00000.parquet",
        "00001.parquet",
        "pool",
        "ledger",
        "images/id",
        "sources/row",
    } <= referred
    assert referred <= set(named)


def test_files_are_those_of_the_pool_with_their_hashes(
    project: Path, found: dict[str, Any]
) -> None:
    files = [node for node in found["distribution"] if node["@type"] == "cr:FileObject"]
    assert [node["@id"] for node in files] == ["00000.parquet", "00001.parquet", "ledger"]
    for node in files:
        path = (project / "data/report" / node["contentUrl"]).resolve()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == node["sha256"]
        if node["@id"] != "ledger":
            assert node["contentSize"] == f"{path.stat().st_size} B"


def test_fields_are_the_columns_of_the_pool_with_their_types(
    project: Path, found: dict[str, Any]
) -> None:
    schema = pq.read_schema(project / "data/fetch/pool/00000.parquet")
    images = found["recordSet"][0]
    assert images["key"] == {"@id": "images/id"}
    columns = [field["source"]["extract"]["column"] for field in images["field"]]
    assert columns == schema.names
    for field in images["field"]:
        column = schema.field(field["source"]["extract"]["column"])
        assert KINDS[field["dataType"]](column.type)
        step = field["source"].get("transform")
        assert (step is not None) == (field["dataType"] == "sc:ImageObject")
        if step:
            assert pa.types.is_binary(column.type.field(step["jsonPath"]).type)


def test_the_columns_are_those_that_fetch_writes() -> None:
    """Against the schemas of the code that writes pool and ledger, not against this test's own project."""
    from stages.fetch import ledger
    from webdistill.images.pool import SCHEMA

    assert list(IMAGES) == SCHEMA.names
    for columns, schema in ((IMAGES, SCHEMA), (SOURCES, ledger.SCHEMA)):
        for name, (kind, _) in columns.items():
            assert KINDS[kind](schema.field(name).type), name


def test_a_pool_of_one_file_is_read_from_it(tmp_path: Path) -> None:
    build_project(tmp_path)
    (tmp_path / "data/fetch/pool/00001.parquet").unlink()
    write_manifest(tmp_path / "data/fetch/pool")
    value = document(gather(Stage(tmp_path)))
    assert [node["@id"] for node in value["distribution"]] == ["00000.parquet", "ledger"]
    for field in value["recordSet"][0]["field"]:
        assert field["source"]["fileObject"] == {"@id": "00000.parquet"}
        assert "fileSet" not in field["source"]


def test_stated_licences_are_listed_once_and_none_of_them_can_do_harm(
    project: Path, found: dict[str, Any]
) -> None:
    assert set(found["license"]) == {"https://cc.example/by", "not stated", HOSTILE}
    assert len(found["license"]) == 3
    text = croissant(gather(Stage(project)))
    assert "<" not in text, "put into a page, it cannot end the script element around it"
    assert "javascript:" not in text
    for private in ("secret", "token", "host0.example", str(project)):
        assert private not in text


def test_the_stage_writes_it_with_equal_bytes(project: Path) -> None:
    texts = []
    for _ in range(2):
        main(Stage(project))
        texts.append((project / "croissant.json").read_bytes())
    assert texts[0] == texts[1]
    assert texts[0].endswith(b"}\n")
    assert json.loads(texts[0])["distribution"][0]["contentUrl"] == f"{POOL}/00000.parquet"
