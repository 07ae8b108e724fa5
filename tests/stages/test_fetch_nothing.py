"""Where nothing came through, the reasons are written down all the same; and hosts of the own network are told."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.stages.test_fetch import ledger, picture, pool, run, save_list
from tests.stages.test_fetch_http import Server, server
from webdistill.commands.provenance.funnel import count_losses
from webdistill.core.errors import UserError
from webdistill.core.files import read_json
from webdistill.web.intranet import HINT, OWN, VARIABLE

__all__ = ["server"]  # a fixture


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)


def test_nothing_came_and_the_reasons_are_there(tmp_path: Path) -> None:
    save_list(tmp_path, image=[b"junk", b"more junk", None], url=["a", "b", "missing.png"])
    with pytest.raises(UserError, match=r"failures\.csv and `python -m webdistill lost` say why"):
        run(tmp_path, "web.parquet")
    folder = tmp_path / "fetch"
    with (folder / "failures.csv").open() as file:
        assert list(csv.reader(file))[1:] == [
            ["not_an_image", "(local)", "2"],
            ["not_found", "(local)", "1"],
        ]
    assert [row["status"] for row in ledger(tmp_path)] == [
        "not_an_image",
        "not_an_image",
        "not_found",
    ]
    assert read_json(folder / "metrics.json")["not_an_image"] == 2
    assert not (folder / "pool").exists(), "an empty pool is none"
    found = count_losses(tmp_path)
    assert (found.whole.candidates, found.whole.pool, found.faults) == (3, 0, [])
    assert found.whole.not_fetched == {"not_an_image": 2, "not_found": 1}


def test_a_pool_of_an_earlier_run_does_not_stand_beside_them(tmp_path: Path) -> None:
    save_list(tmp_path, image=[picture(1)])
    run(tmp_path, "web.parquet")
    assert len(pool(tmp_path)) == 1
    save_list(tmp_path, image=[b"junk"])
    with pytest.raises(UserError, match="no image came through fetch"):
        run(tmp_path, "web.parquet")
    assert not (tmp_path / "fetch" / "pool").exists()
    assert count_losses(tmp_path).faults == []
    save_list(tmp_path, image=[picture(2)])
    run(tmp_path, "web.parquet")
    assert len(pool(tmp_path)) == 1


def test_private_addresses_alone_and_the_way_out_is_named(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("WEBDISTILL_ALLOW_LOOPBACK")
    (tmp_path / "web.csv").write_text(f"url\n{server.url('/ok/1')}\nhttp://10.0.0.1/2\n")
    with pytest.raises(
        UserError, match=r"not_public 2\).*WEBDISTILL_ALLOW_HOSTS in the environment"
    ):
        run(tmp_path, "web.csv")
    assert [row["detail"] for row in ledger(tmp_path)] == [f"robots.txt: {HINT}"] * 2
    assert not server.asked
    monkeypatch.setenv(VARIABLE, "127.0.0.0/8")
    run(tmp_path, "web.csv")
    assert [(row["status"], row["detail"]) for row in ledger(tmp_path)] == [
        ("ok", OWN),
        ("not_public", f"robots.txt: {HINT}"),
    ]
    assert "1 image came from hosts of the own network" in capsys.readouterr().err


def test_a_wrong_word_is_said_before_anything_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "127.0.0.1:8080")
    (tmp_path / "web.csv").write_text(f"url\n{server.url('/ok/1')}\n")
    with pytest.raises(UserError, match="WEBDISTILL_ALLOW_HOSTS: '127.0.0.1:8080' is no network"):
        run(tmp_path, "web.csv")
    assert not server.asked
