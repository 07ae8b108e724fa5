"""A search that was killed goes on where it was: what an API has answered is not asked again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.stages.api_server import Answer, Api, commons_page, ok, openverse_result, serve
from webdistill.core.files import sha256_file

ROOT = Path(__file__).parents[2]
CLASSES = ["cat", "dog", "frog"]
PROGRAM = """
import json, sys
from pathlib import Path
import stages.search.__main__ as search
from stages.search import openverse, wikimedia
from stages.search.params import Search
from webdistill.harness.params import Params, Task
from webdistill.harness.stage import Stage
openverse.PAUSE = wikimedia.PAUSE = 0.0
settings = json.dumps({
    "local": "web.csv", "columns": {}, "keywords": {}, "negative": [],
    "openverse": {"enabled": True, "per_class": 55, "licences": ["by-sa"]},
    "wikimedia": {"enabled": True, "per_class": 8},
    "inaturalist": {"enabled": False, "per_class": 200, "licences": ["cc0", "by"]},
})
task = Task(
    seed=0, threads=1, classes=tuple(sys.argv[1].split()), image_size=32, teacher="", test_images="", test_labels="",
)
stage = Stage("search", Params(task, {"search": Search.model_validate_json(settings)}, {}), None)
search.main(stage)
stage.publish()
"""


def answer(query: dict[str, str]) -> Answer:
    """Openverse where the query has a q, Commons where not; slow enough to be killed in between."""
    time.sleep(0.02)
    if "q" in query:
        start = 1000 * CLASSES.index(query["q"]) + 20 * int(query["page"])
        return ok({"page_count": 12, "results": [openverse_result(start + n) for n in range(20)]})
    start = 100 * CLASSES.index(query["gsrsearch"].split()[0]) + int(query.get("gsroffset", 0))
    pages = {"query": {"pages": [commons_page(start + n) for n in range(3)]}}
    return ok(pages | {"continue": {"gsroffset": start % 100 + 3, "continue": "gsroffset||"}})


def start(folder: Path, api: Api) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "WEBDISTILL_ALLOW_LOOPBACK": "1", "WEBDISTILL_CONTACT": "me@example.org",
        "WEBDISTILL_OPENVERSE": api.address, "WEBDISTILL_WIKIMEDIA": api.address,
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, " ".join(CLASSES)]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "web.csv").write_text("url,caption\nhttp://a.example/1,a cat\n")
    return tmp_path


def asked(api: Api) -> Counter[str]:
    return Counter(json.dumps(query, sort_keys=True) for query in api.queries)


@pytest.mark.slow
def test_killed_at_any_moment_nothing_answered_is_asked_twice(folder: Path) -> None:
    with serve(answer) as api:
        assert start(folder, api).wait(60) == 0
        whole, once = sha256_file(folder / "data/search/candidates.parquet"), asked(api)
        assert len(once) == 3 * 3 + 3 * 3
        assert set(once.values()) == {1}
        assert not (folder / ".work/search/pages").exists(), "a later search asks anew"

        api.queries.clear()
        (folder / "data/search/candidates.parquet").unlink()
        kills = sorted(random.Random(0).sample(range(1, 18), 3))
        for number in kills:
            process = start(folder, api)
            deadline = time.monotonic() + 60
            while len(api.queries) < number and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (folder / "data/search/candidates.parquet").exists()
        assert start(folder, api).wait(60) == 0
        assert sha256_file(folder / "data/search/candidates.parquet") == whole
        again = asked(api)
    assert set(again) == set(once)
    repeated = sum(again.values()) - len(again)
    assert repeated <= len(kills), "at most the request that was under way at each kill"
