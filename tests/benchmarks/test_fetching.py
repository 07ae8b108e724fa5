"""The benchmark of fetching: its server misbehaves as told, its measures are right, its program runs end to end."""

from __future__ import annotations

import http.client
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.crawls import Job, Server, Setting
from benchmarks.fetching import Row, results, speeds
from benchmarks.image_server import Faults, write_pictures
from benchmarks.process_tree import Tree, check
from tests.benchmarks.programs import run
from webdistill.core.errors import UserError

pytestmark = pytest.mark.slow
COUNT = 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="process trees are measured in /proc")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_pictures("synthetic", COUNT, 40, folder / "pictures-40")
    return folder


@contextmanager
def serving(
    work: Path, faults: Faults | None = None
) -> Iterator[tuple[Server, http.client.HTTPConnection]]:
    job = Job("ours", 40, COUNT, faults or Faults())
    with Server(job, Setting(work, None, 1, 1), port=0) as server:
        connection = http.client.HTTPConnection(server.url.split("/")[2], timeout=5)
        yield server, connection
        connection.close()


def get(connection: http.client.HTTPConnection, path: str, **headers: str) -> tuple[int, bytes]:
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ("JPEG", (40, 40))
        return np.asarray(image.convert("RGB"))


def test_every_number_has_pixels_of_its_own_for_many_rounds(work: Path) -> None:
    with serving(work) as (_, connection):
        answers = [get(connection, f"/{number}.jpg") for number in range(5 * COUNT)]
        again = get(connection, f"/{COUNT + 3}.jpg")
    assert {status for status, _ in answers} == {200}
    assert len({pixels(data).tobytes() for _, data in answers}) == 5 * COUNT
    first, later = (pixels(answers[3 + turn * COUNT][1]).astype(float) for turn in (0, 4))
    assert np.corrcoef(first.ravel(), later.ravel())[0, 1] > 0.7  # a variant of the same picture
    assert again == answers[COUNT + 3]


def test_a_connection_serves_many_requests_until_the_client_wants_it_closed(work: Path) -> None:
    with serving(work) as (_, connection):
        get(connection, "/0.jpg")
        kept = connection.sock
        assert get(connection, "/1.jpg")[0] == 200
        assert connection.sock is kept is not None
        assert get(connection, "/robots.txt")[0] == 404
        connection.request("GET", "/2.jpg", headers={"Connection": "close"})
        connection.getresponse().read()
        assert kept.fileno() == -1 or kept.recv(1) == b""


def test_files_of_the_right_size_are_served_as_they_are_and_others_once_scaled(
    tmp_path: Path,
) -> None:
    made = []
    for size in ((40, 60), (20, 10)):
        out = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(noise).save(out, "JPEG")
        made.append({"bytes": out.getvalue(), "path": None})
    pq.write_table(pa.table({"image": made}), tmp_path / "list.parquet")
    write_pictures(str(tmp_path / "list.parquet"), 2, 40, tmp_path / "pictures-40")
    with serving(tmp_path) as (_, connection):
        same, scaled = (get(connection, f"/{number}.jpg")[1] for number in range(2))
    assert same == made[0]["bytes"]
    with Image.open(io.BytesIO(scaled)) as image:
        assert image.size == (80, 40)
    with pytest.raises(UserError, match=r"holds 2 images; lower --count, now 3$"):
        write_pictures(str(tmp_path / "list.parquet"), 3, 40, tmp_path / "more")
    with pytest.raises(UserError, match=r"--images .*gone: no such file"):
        write_pictures(str(tmp_path / "gone"), 3, 40, tmp_path / "more")


def test_the_shares_that_misbehave_are_those_asked_for_and_scattered() -> None:
    faults = Faults(failing=0.10, hanging=0.02)
    fates = [faults.of(number) for number in range(20_000)]
    counts = Counter(fates)
    assert {status: round(counts[status] / 200, 1) for status in (404, 500, None)} == {
        404: 5.0, 500: 5.0, None: 2.0,
    }  # fmt: skip
    for begin in range(0, 20_000, 500):  # any part of the list has its share
        assert 50 <= sum(fate != 200 for fate in fates[begin : begin + 500]) <= 70


def test_the_server_fails_and_hangs_as_told_and_logs_every_request(work: Path) -> None:
    faults = Faults(failing=0.3, hanging=0.1)
    with serving(work, faults) as (server, connection):
        begun = time.monotonic()
        for number in range(COUNT):
            if (fate := faults.of(number)) is not None:
                assert get(connection, f"/{number}.jpg")[0] == fate
        hanging = next(number for number in range(COUNT) if faults.of(number) is None)
        connection.timeout = 0.3
        connection.close()
        with pytest.raises(TimeoutError):
            get(connection, f"/{hanging}.jpg")
        moments, numbers = zip(*server.arrivals(), strict=True)
        ended = time.monotonic()
        asked = [number for number in range(COUNT) if faults.of(number) is not None]
        assert list(numbers) == [*asked, hanging]
        assert server.requests() == len(numbers)
    assert [begun, *moments, ended] == sorted([begun, *moments, ended])


def test_latency_delays_each_answer_and_never_the_others(work: Path) -> None:
    with serving(work, Faults(latency=0.3)) as (server, first):
        second = http.client.HTTPConnection(server.url.split("/")[2], timeout=5)
        begun = time.monotonic()
        for connection in (first, second):
            connection.request("GET", "/1.jpg")
        for connection in (first, second):
            assert connection.getresponse().read()
        took = time.monotonic() - begun
        (one, _), (two, _) = server.arrivals()
        second.close()
    assert took >= 0.3
    assert two - one < 0.3  # the second came while the first was waiting


def test_a_port_that_is_taken_is_an_error(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    setting = Setting(work, None, 1, 1)
    job = Job("ours", 40, COUNT, Faults())
    with serving(work) as (server, _):
        port = int(server.url.split(":")[2].strip("/"))
        with pytest.raises(UserError, match="has ended early"), Server(job, setting, port):
            pass
    assert f"error: --port {port}: " in capfd.readouterr().err


BURN = """
import subprocess, sys, time
depth = int(sys.argv[1])
ballast = b"x" * (60 << 20)
if depth:
    subprocess.Popen([sys.executable, __file__, str(depth - 1)])  # never waited for: an orphan
begun = time.process_time()
while time.process_time() - begun < 0.4:
    pass
time.sleep(1)
print(time.process_time())
"""


@linux
def test_a_tree_counts_orphans_processor_time_and_memory(tmp_path: Path) -> None:
    (tmp_path / "burn.py").write_text(BURN)
    program = [sys.executable, tmp_path / "burn.py", "2"]
    tree = Tree(program, tmp_path, {}, tmp_path / "log")
    assert tree.finish() == 0
    said = [float(line) for line in (tmp_path / "log").read_text().split()]
    assert len(said) == 3  # finish has waited for the orphans
    assert sum(said) <= tree.cpu_seconds + 0.03  # both are rounded to ticks of the clock
    assert tree.cpu_seconds < sum(said) + 0.5  # starting and ending the interpreters
    assert tree.peak_rss_mib > 2 * 60
    assert 0 < tree.peak_pss_mib <= tree.peak_rss_mib
    assert tree.ended - tree.begun > 1.4


@linux
def test_a_killed_tree_ends_and_leaves_nothing_behind(tmp_path: Path) -> None:
    script = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    tree = Tree([sys.executable, "-c", script], tmp_path, {}, tmp_path / "log")
    while tree.running() and not (tmp_path / "log").read_text().endswith("\n"):
        pass
    tree.kill()
    while tree.running():
        pass
    tree.end()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "log").read_text()), 0)
    with pytest.raises(UserError, match=r"^sleeper ended with exit code -9: \d+$"):
        check(tree, "sleeper")


def test_ratios_are_medians_of_pairs_of_the_same_repetition() -> None:
    def run(seconds: float, images: int, span: float) -> dict[str, object]:
        return {
            "seconds": seconds, "first_to_last_request": span, "to_first_request": 1.0, "cpu_seconds": seconds,
            "start_cpu_seconds": 1.0, "server_cpu_seconds": 1.0, "peak_rss_mib": seconds, "peak_pss_mib": 1.0,
            "states": {"images": images},
        }  # fmt: skip

    job = Job("ours", 64, 100, Faults())
    rows = {"a": Row("ours", job, "b"), "b": Row("theirs", Job("peer", 64, 100, Faults()), "b")}
    rows["c"] = Row("long", Job("ours", 64, 300, Faults()), "a", once=True)
    runs = {
        "a": [run(2, 100, 1), run(4, 100, 2), run(5, 50, 1)],
        "b": [run(4, 100, 2), run(12, 100, 8), run(5, 100, 4)],
        "c": [run(12, 300, 10)],
    }
    found = results(rows, runs)
    assert found["a"]["ratios"] == {
        "images": [0.5, 2, 3], "candidates": [1, 2, 3], "between_requests": [2, 4, 4],
        "cpu": [1, 2, 3], "cpu_without_start": [1, 3, pytest.approx(11 / 3)],
    }  # fmt: skip
    assert found["b"]["ratios"]["images"] == [1, 1, 1]
    assert found["c"]["ratios"]["images"] == [0.5]  # 25 images/s beside the 50 of the first run
    assert (found["a"]["seconds"], found["a"]["peak_rss_mib"], found["a"]["images"]) == (4, 5, 50)
    assert "| ours | theirs | 2.00 | 0.50 - 3.00 | 2.00 | 4.00 | 2.00 | 3.00 |" in speeds(found)


@linux
def test_the_program_prints_tables_and_writes_the_same_figures(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    done = run(
        "fetching",
        "--count", "60", "--many", "120", "--sides", "32", "--processes", "1", "--slots", "8", "--repeat", "1",
        "--out", str(report),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = json.loads(report.read_text())
    found = written["results"]
    assert list(found) == ["ours-32", "webp-32", "faults", "many"]
    faults = Faults(0.10, 0.02)
    good = sum(faults.of(number) == 200 for number in range(60))
    assert [one["images"] for one in found.values()] == [60, 60, good, 120]
    states = [one["runs"][0]["states"] for one in found.values()]
    assert states[0]["ok"] == 60  # no doubles
    assert states[3]["ok"] == 120
    assert states[2]["timeout"] == sum(faults.of(number) is None for number in range(60))
    assert found["faults"]["runs"][0]["seconds"] > 3  # what hangs is waited for
    assert all(one["peak_rss_mib"] > 50 for one in found.values())
    assert written["resume"]["pool"] == found["ours-32"]["runs"][0]["pool"]
    assert 30 <= written["resume"]["asked_before"] < 60
    for one in found.values():
        line = f"| {one['label']} | {one['images']:,} of {one['candidates']:,} | {one['seconds']:.1f} |"
        assert line in done.stdout
    assert (
        f"{written['resume']['asked_twice']} asked for twice; the pool has the same bytes"
        in done.stdout
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--peer", sys.executable + "-gone"], "no Python that has img2dataset; install it there"),
        (["--images", "gone.parquet"], "--images gone.parquet: no such file"),
        (["--count", "10", "--many", "5"], "--many from --count to 254 x --count"),
    ],
)
def test_what_cannot_be_run_is_an_error_of_one_line(given: list[str], message: str) -> None:
    done = run("fetching", *given)
    assert done.returncode != 0
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
