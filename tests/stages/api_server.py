"""Servers on 127.0.0.1, in a thread of the test, with the APIs of Openverse, Wikimedia Commons and iNaturalist.

The shapes are those that their documentation shows; pictures, names and texts are made up.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from stages.search.asking import Asking
from stages.search.params import Search
from stages.search.providers import Provider, chosen

LICENCES = ["cc0", "pdm", "by", "by-sa"]
Answer = tuple[int, Mapping[str, str], bytes]
JSON = {"Content-Type": "application/json"}


@dataclass
class Api:
    """A server's address, its log of queries, and what it answers."""

    answer: Callable[[dict[str, str]], Answer]
    address: str = ""
    queries: list[dict[str, str]] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)  # what stood in the header Authorization
    forms: list[tuple[str, dict[str, str]]] = field(
        default_factory=list
    )  # where they were sent, and what
    grant: Callable[[dict[str, str]], Answer] = lambda _: (404, {}, b"")  # the answer to a form


def ok(content: object) -> Answer:
    return 200, JSON, json.dumps(content).encode()


@contextlib.contextmanager
def serve(answer: Callable[[dict[str, str]], Answer]) -> Iterator[Api]:
    """Run the server; `answer` gets the query of each request."""
    api = Api(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
            api.queries.append(query)
            api.agents.append(self.headers["User-Agent"])
            api.tokens.append(self.headers.get("Authorization", ""))
            self.tell(*api.answer(query))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            api.forms.append((self.path, dict(parse_qsl(body))))
            self.tell(*api.grant(api.forms[-1][1]))

        def tell(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        api.address = f"http://127.0.0.1:{server.server_address[1]}/api/"
        try:
            yield api
        finally:
            server.shutdown()


def openverse_result(number: int, **changes: Any) -> dict[str, Any]:
    """One result, as `/v1/images/` lists it."""
    return {
        "id": f"4bc43a04-ef46-4544-a0c1-{number:012d}",
        "title": f"Picture {number}",
        "indexed_on": "2022-08-27T17:39:48Z",
        "foreign_landing_url": f"https://photos.example/page/{number}",
        "url": f"https://photos.example/{number}.jpg",
        "creator": "Ada Berg",
        "creator_url": "https://photos.example/ada",
        "license": "by-sa",
        "license_version": "4.0",
        "license_url": "https://creativecommons.org/licenses/by-sa/4.0/",
        "provider": "flickr",
        "source": "flickr",
        "category": "photograph",
        "filesize": 896128,
        "filetype": None,
        "tags": [
            {"accuracy": None, "name": "animal", "unstable__provider": "flickr"},
            {"accuracy": 0.95, "name": "guess", "unstable__provider": "machine_example"},
        ],
        "attribution": f'"Picture {number}" by Ada Berg is licensed under CC BY-SA 4.0.',
        "fields_matched": ["title"],
        "mature": False,
        "height": 4016,
        "width": 6016,
        "thumbnail": f"https://api.example/v1/images/{number}/thumb/",
        "unstable__sensitivity": [],
    } | changes


def openverse(results: Callable[[str, int], list[Any]], pages: int) -> Callable[..., Answer]:
    """An API with `pages` pages; `results(words, page)` are those of one."""

    def answer(query: dict[str, str]) -> Answer:
        if int(query["page_size"]) > 20:
            detail = "page_size may not exceed 20 for anonymous requests"
            return 401, JSON, json.dumps({"detail": detail}).encode()
        page = int(query["page"])
        return ok(
            {
                "result_count": 20 * pages, "page_count": pages, "page_size": 20, "page": page,
                "results": results(query["q"], page),
            }
        )  # fmt: skip

    return answer


def commons_page(number: int, **changes: Any) -> dict[str, Any]:
    """One file, as `generator=search` with `prop=imageinfo` lists it in format version 2."""
    thumbs = "https://upload.example/thumb"
    return {
        "pageid": 1000 + number,
        "ns": 6,
        "title": f"File:Picture number {number}.jpg",
        "index": number,
        "imagerepository": "local",
        "imageinfo": [
            {
                "size": 1353326, "width": 3746, "height": 2400,
                "thumburl": f"{thumbs}/{number}.jpg/500px-{number}.jpg", "thumbwidth": 500, "thumbheight": 320,
                "url": f"https://upload.example/{number}.jpg",
                "descriptionurl": f"https://commons.example/wiki/File:Picture_number_{number}.jpg",
                "mime": "image/jpeg",
                "extmetadata": {
                    "ImageDescription": {"value": "<p>A <b>fine</b> animal &amp; more</p>"},
                    "Artist": {"value": '<a href="//commons.example/wiki/User:Ada" title="x">Ada&nbsp;Berg</a>'},
                    "LicenseShortName": {"value": "CC BY-SA 4.0", "source": "commons-desc-page", "hidden": ""},
                    "LicenseUrl": {"value": "https://creativecommons.org/licenses/by-sa/4.0"},
                },
            }
        ],
    } | changes  # fmt: skip


def observation(number: int, **changes: Any) -> dict[str, Any]:
    """One observation with two photos, as `/v1/observations` lists it; the second photo is nobody's to take."""
    photos = "https://inaturalist-open-data.s3.amazonaws.com/photos"
    return {
        "id": number,
        "quality_grade": "research",
        "species_guess": "",
        "license_code": "cc-by-nc",
        "uri": f"https://www.inaturalist.org/observations/{number}",
        "taxon": {"id": 7, "name": "Danaus plexippus", "rank": "species", "preferred_common_name": "Monarch"},
        "user": {"id": 9, "login": "ada", "name": "Ada Berg"},
        "photos": [
            {
                "id": 10 * number, "license_code": "cc-by", "url": f"{photos}/{10 * number}/square.jpeg",
                "attribution": "(c) Ada Berg, some rights reserved (CC BY)",
                "original_dimensions": {"width": 2048, "height": 1536}, "flags": [],
            },
            {"id": 10 * number + 1, "license_code": None, "url": f"https://static.example/{number}/square.jpg"},
        ],
    } | changes  # fmt: skip


def inaturalist(total: int) -> Callable[..., Answer]:
    """An API that has `total` observations."""

    def answer(query: dict[str, str]) -> Answer:
        page, size = int(query["page"]), int(query["per_page"])
        numbers = range(page * size - size, min(page * size, total))
        results = [observation(n + 1) for n in numbers]
        return ok({"total_results": total, "page": page, "per_page": size, "results": results})

    return answer


def provider(name: str, per_class: int = 10) -> Provider:
    settings = {
        "local": "x", "columns": {}, "keywords": {}, "negative": [],
        "openverse": {"enabled": name == "openverse", "per_class": per_class, "licences": LICENCES},
        "wikimedia": {"enabled": name == "wikimedia", "per_class": per_class},
        "inaturalist": {"enabled": name == "inaturalist", "per_class": per_class, "licences": ["cc0", "by", "by-sa"]},
    }  # fmt: skip
    (one,) = chosen(Search.model_validate_json(json.dumps(settings)))
    return one


@contextlib.contextmanager
def asking(
    name: str,
    answer: Callable[[dict[str, str]], Answer],
    patch: pytest.MonkeyPatch,
    per_class: int = 10,
    pages: Path | None = None,
) -> Iterator[tuple[Api, Provider, Asking]]:
    with serve(answer) as api:
        patch.setenv(f"WEBDISTILL_{name.upper()}", api.address)
        one = provider(name, per_class)
        with contextlib.closing(Asking(one, pages)) as ask:
            yield api, one, ask
