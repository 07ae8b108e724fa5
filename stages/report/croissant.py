"""A description of the pool for other programs: Croissant 1.0 (JSON-LD). No clock in it, no caption, no single URL."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stages.report.evidence import HIDDEN, Evidence, Shard
from stages.report.html import printable
from stages.report.ledger import UNKNOWN
from stages.report.sections.rebuild import params_digest
from stages.report.sections.sources import licences, pooled
from stages.report.wording import count

Json = dict[str, Any]
CONFORMS = "http://mlcommons.org/croissant/1.0"
POOL, LEDGER = "../fetch/pool", "../fetch/ledger.parquet"  # seen from data/report/
PARQUET = "application/x-parquet"
TERMS = (
    "citeAs column equivalentProperty extract field fileProperty fileObject fileSet format includes isLiveDataset "
    "jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate separator source "
    "subField transform"
)
CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    **{term: f"cr:{term}" for term in TERMS.split()},
}
IMAGES: Mapping[str, tuple[str, str]] = {  # column of the pool -> its type and meaning
    "id": ("sc:Text", "first 128 bits of the sha256 of the pixels, hexadecimal"),
    "image": ("sc:ImageObject", "the picture, without metadata"),
    "width": ("sc:Integer", "pixels"),
    "height": ("sc:Integer", "pixels"),
    "query": ("sc:Text", "the keyword it was searched with; no verified label"),
    "caption": ("sc:Text", "the source's own text for it, unchanged; may be anything"),
}
SOURCES: Mapping[str, tuple[str, str]] = {  # column of the ledger -> its type and meaning
    "row": ("sc:Integer", "number of the candidate"),
    "id": ("sc:Text", "the image it led to, in the record set `images`; empty when nothing was fetched"),
    "status": ("sc:Text", "what became of it; `ok`: this candidate brought the image into the pool"),
    "url": ("sc:Text", "where it was found; none for bytes that came with a list"),
    "sha256": ("sc:Text", "of the file as it was fetched"),
    "licence": ("sc:Text", "as the source states it; not cleared"),
    "licence_url": ("sc:Text", "of that licence, as the source states it"),
    "creator": ("sc:Text", "of the picture, as the source states it"),
    "landing_page": ("sc:Text", "page the picture belongs to"),
    "origin": ("sc:Text", "address that a local file was downloaded from, as the file beside it states"),
    "attribution": ("sc:Text", "attribution that the source requires"),
    "opt_out": ("sc:Text", "the owner's objection that was found, if any"),
    "robots": ("sc:Text", "verdict of the host's robots.txt"),
}  # fmt: skip


def croissant(evidence: Evidence) -> str:
    """The JSON document. `<` is escaped, so that no text in it can end a script element it is put into."""
    text = json.dumps(document(evidence), indent=2, ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c") + "\n"


def document(evidence: Evidence) -> Json:
    """The description as plain data."""
    collected = evidence.collected
    shards = collected.shards
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": "webdistill-pool",
        "description": _description(evidence),
        "identifier": f"sha256:{evidence.inputs['data/fetch/pool']}",
        "license": _licences(evidence),
        "creator": {
            "@type": "sc:Organization",
            "name": "Creators of the single images: record set `sources`",
        },
        "citeAs": "Images from the web, collected with webdistill; credit the creators in the record set `sources`.",
        "keywords": ["images from the web", *(printable(name) for name in evidence.classes)],
        "isLiveDataset": False,
        "sdVersion": "1.0",
        "isBasedOn": f"webdistill, parameters sha256:{params_digest(evidence.params)}",
        "distribution": _files(evidence),
        "recordSet": [
            _records("images", "Pictures of the pool.", "id", _source(shards), IMAGES),
            _records(
                "sources",
                "One row per candidate: where it was found, under which stated licence, what became of it.",
                "row",
                {"fileObject": {"@id": "ledger"}},
                SOURCES,
            ),
        ],
    }


def _files(evidence: Evidence) -> list[Json]:
    shards = evidence.collected.shards
    found = [_file(shard.name, f"{POOL}/{shard.name}", shard) for shard in shards]
    if len(shards) > 1:
        found.append(
            {
                "@type": "cr:FileSet",
                "@id": "pool",
                "name": "pool",
                "description": "All shards, in order.",
                "containedIn": [{"@id": shard.name} for shard in shards],
                "encodingFormat": PARQUET,
                "includes": "*.parquet",
            }
        )
    return [*found, _file("ledger", LEDGER, evidence.inputs["data/fetch/ledger.parquet"])]


def _source(shards: Sequence[Shard]) -> Json:
    """A set of files is for several: the reference reader opens a single Parquet file, but no set of them."""
    if len(shards) == 1:
        return {"fileObject": {"@id": shards[0].name}}
    return {"fileSet": {"@id": "pool"}}


def _description(evidence: Evidence) -> str:
    collected = evidence.collected
    return (
        f"{count(len(collected.scores))} images found on the web by keywords for {len(evidence.classes)} classes, from "
        f"{count(collected.ledger.num_rows)} candidates, as they were fetched: before filters and takedown requests. "
        f"webdistill kept {count(len(collected.kept))} and trained on {count(len(collected.selected))}. Keywords are "
        "no labels. Stated licences were not verified. What must not be shown is named in data/filter/dropped.parquet "
        f"({', '.join(HIDDEN)})."
    )


def _licences(evidence: Evidence) -> list[str]:
    """Every licence stated for an image of the pool: its address if that is one, else its name."""
    found = [
        printable(url) if url.startswith(("https://", "http://")) else printable(name)
        for name, url, _ in licences(pooled(evidence.collected))
    ]
    return list(dict.fromkeys(found)) or [UNKNOWN]


def _file(name: str, address: str, facts: Shard | str) -> Json:
    size = {"contentSize": f"{facts.bytes} B"} if isinstance(facts, Shard) else {}
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": address,
        **size,
        "encodingFormat": PARQUET,
        "sha256": facts.sha256 if isinstance(facts, Shard) else facts,
    }


def _records(
    name: str,
    description: str,
    key: str,
    source: Json,
    columns: Mapping[str, tuple[str, str]],
) -> Json:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "key": {"@id": f"{name}/{key}"},
        "field": [_field(name, column, *facts, source) for column, facts in columns.items()],
    }


def _field(records: str, column: str, kind: str, meaning: str, source: Json) -> Json:
    found: Json = {
        "@type": "cr:Field",
        "@id": f"{records}/{column}",
        "name": f"{records}/{column}",
        "description": meaning,
        "dataType": kind,
        "source": {**source, "extract": {"column": column}},
    }
    if kind == "sc:ImageObject":
        found["source"]["transform"] = {"jsonPath": "bytes"}
    if (records, column) == ("sources", "id"):
        found["references"] = {"field": {"@id": "images/id"}}
    return found
