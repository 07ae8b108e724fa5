"""Openverse with a registered client: a token for its secret, the pace of its documentation, and nothing told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.search import openverse
from stages.search.asking import Asking
from tests.stages.api_server import Answer, asking, ok, openverse_result, provider, serve
from webdistill.core.errors import UserError

SECRET = "s3cr3t-of-the-client"
PAGE = ok({"page_count": 1, "results": [openverse_result(1)]})


def token(number: int = 1) -> Answer:
    return ok(
        {
            "access_token": f"t0ken{number}",
            "expires_in": 36000,
            "token_type": "Bearer",
            "scope": "read",
        }
    )


@pytest.fixture(autouse=True)
def _client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBDISTILL_ALLOW_LOOPBACK", "1")
    monkeypatch.setenv("WEBDISTILL_CONTACT", "me@example.org")
    monkeypatch.setenv("WEBDISTILL_OPENVERSE_ID", "my-client")
    monkeypatch.setenv("WEBDISTILL_OPENVERSE_SECRET", SECRET)
    monkeypatch.setattr(openverse, "PAUSE_REGISTERED", 0.0)


def test_a_token_is_asked_for_once_and_sent_with_every_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with asking("openverse", lambda _: PAGE, monkeypatch, pages=tmp_path) as (api, one, ask):
        api.grant = lambda _: token()
        for words in ("cat", "dog"):
            assert len(list(one.search(ask, words))) == 1
        assert list(one.search(ask, "cat")), "kept"
    form = {"grant_type": "client_credentials", "client_id": "my-client", "client_secret": SECRET}
    assert api.forms == [("/auth_tokens/token/", form)]
    assert api.tokens == ["Bearer t0ken1"] * 2
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert SECRET.encode() not in kept
    assert b"t0ken" not in kept


def test_a_token_that_has_run_out_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    with asking("openverse", lambda _: PAGE, monkeypatch) as (api, one, ask):
        api.grant = lambda _: token(len(api.forms))
        api.answer = lambda _: PAGE if api.tokens[-1].endswith("2") else (401, {}, b"{}")
        assert len(list(one.search(ask, "cat"))) == 1
    assert api.tokens == ["Bearer t0ken1", "Bearer t0ken2"]


@pytest.mark.parametrize(
    ("grant", "told"),
    [
        ((401, {}, b'{"error": "invalid_client"}'), "HTTP 401"),
        ((400, {}, b""), "HTTP 400"),
        ((200, {}, b"<html>"), "no token in its answer"),
        ((200, {}, b"[]"), "no token in its answer"),
        (ok({"access_token": 3}), "no token in its answer"),
        (ok({"access_token": "a\r\nX: y"}), "no token in its answer"),
        ((302, {"Location": "http://127.0.0.1:9/elsewhere"}, b""), "more than 0 redirects"),
    ],
)
def test_without_a_token_nothing_is_asked_and_no_secret_is_told(
    monkeypatch: pytest.MonkeyPatch, grant: Answer, told: str
) -> None:
    with asking("openverse", lambda _: PAGE, monkeypatch) as (api, one, ask):
        api.grant = lambda _: grant
        with pytest.raises(UserError, match=told) as caught:
            list(one.search(ask, "cat"))
    assert "WEBDISTILL_OPENVERSE_ID and WEBDISTILL_OPENVERSE_SECRET" in str(caught.value)
    assert SECRET not in f"{caught.value!r}{one.__dict__!r}{one.grant!r}"
    assert not api.queries


def test_a_token_does_not_follow_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda _: PAGE) as other:
        away: Answer = (302, {"Location": other.address}, b"")
        with asking("openverse", lambda _: away, monkeypatch) as (api, one, ask):
            api.grant = lambda _: token()
            with pytest.raises(UserError, match="more than 0 redirects"):
                list(one.search(ask, "cat"))
    assert not other.queries


def test_the_pace_is_that_of_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert (openverse.PAUSE, openverse.PAUSE_REGISTERED) == (3.0, 0.6)
    monkeypatch.setattr("os.environ", {})
    assert (provider("openverse").pause, provider("openverse").grant) == (3.0, None)
    named: dict[str, Any] = dict.fromkeys(openverse.CLIENT, "x")
    monkeypatch.setattr("os.environ", named)
    assert provider("openverse").pause == 0.6


@pytest.mark.parametrize("lacking", openverse.CLIENT)
def test_one_half_of_a_client_is_none(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    monkeypatch.setenv(lacking, "")
    with pytest.raises(UserError, match=rf"but {lacking} is not; set both, or neither"):
        provider("openverse")


def test_others_are_asked_as_by_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda _: ok({"query": {"pages": []}})) as api:
        monkeypatch.setenv("WEBDISTILL_WIKIMEDIA", api.address)
        ask = Asking(provider("wikimedia"), None)
        ask({"action": "query"})
        ask.close()
    assert (api.tokens, api.forms) == ([""], [])
    assert "t0ken" not in json.dumps(api.queries)
