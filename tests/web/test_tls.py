"""https: certificates are checked, nothing falls back to http (F3). The client trusts the server's authority."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from tests.web.conftest import Ask, Server

BODY = bytes(range(256)) * 4


@pytest.mark.usefixtures("loopback")
def test_a_good_certificate_passes(server: Server, ask: Ask) -> None:
    (reply,) = ask(server.at("good.test", "https", "good") + "/ok")
    assert (reply.status, reply.data) == ("ok", BODY)


@pytest.mark.usefixtures("loopback")
@pytest.mark.parametrize("port", ["wrong_name", "expired", "unknown"])
def test_a_bad_certificate_costs_the_url(server: Server, ask: Ask, port: str) -> None:
    (reply,) = ask(server.at("good.test", "https", port) + "/ok")
    assert (reply.status, reply.detail) == ("connection_error", "ClientConnectorCertificateError")
    assert server.requests == []


@pytest.mark.usefixtures("loopback")
def test_an_authority_that_nobody_trusts_costs_the_url(
    server: Server, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    assert ask.statuses(server.at("good.test", "https", "good") + "/ok") == ["connection_error"]
    assert server.requests == []


@pytest.mark.usefixtures("loopback")
def test_http_to_a_server_that_speaks_tls(server: Server, ask: Ask) -> None:
    assert ask.statuses(server.at("good.test", "http", "good") + "/ok") == ["connection_error"]


@pytest.mark.usefixtures("loopback")
def test_never_from_https_to_http(server: Server, ask: Ask) -> None:
    target = quote(server.at("good.test") + "/ok", safe="")
    (reply,) = ask(server.at("good.test", "https", "good") + f"/to/{target}")
    assert (reply.status, reply.detail) == ("bad_redirect", "from https to http")
    assert [request["path"][:4] for request in server.requests] == ["/to/"]


@pytest.mark.usefixtures("loopback")
def test_from_http_to_https_is_fine(server: Server, ask: Ask) -> None:
    target = quote(server.at("good.test", "https", "good") + "/ok", safe="")
    assert ask.statuses(f"{server.url}/to/{target}") == ["ok"]
