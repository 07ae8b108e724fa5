"""K3: one spelling per address, and nothing secret in it."""

from __future__ import annotations

import time

import pytest
from yarl import URL

from webdistill.web.normalise import join_url, normalise_url, parse_url, strip_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  https://Example.COM ", "https://example.com/"),
        ("https://example.com:443/a?b=C&d#e", "https://example.com/a?b=C&d"),
        ("https://example.com:8443/%7Ea", "https://example.com:8443/%7Ea"),
        ("http://user:pw@example.com/a", "http://example.com/a"),
        ("http://user:p@ss@example.com/a", "http://example.com/a"),
        ("http://user:pw@[::1]:80/a", "http://[::1]/a"),
        ("http://user:pw@[broken/a", "http://[broken/a"),
        ("ftp://user:pw@example.com/a", "ftp://example.com/a"),
        ("http://user:pw@example.com:port/a", "http://example.com:port/a"),
        ("http://a.example/\r\nHost: b", "http://a.example/\r\nHost: b"),
        ("http://me:p w@host/", "http://host/"),
        ("http://me:p\\w@host/", "http://host/"),
        ("//me:pw@host/a", "//host/a"),
        ("http://host/a@b?c=d@e", "http://host/a@b?c=d@e"),
        ("photos//cat@2x.jpg", "photos//cat@2x.jpg"),
        ("photos/Cat 1.JPG", "photos/Cat 1.JPG"),
        ("../up.png", "../up.png"),
        ("C:pic.png", "C:pic.png"),
        ("https://example.com/a?token=x&b=1", "https://example.com/a?b=1"),
        ("http://a b/?b=1&token=x", "http://a b/?b=1"),
    ],
)
def test_normalise_url(text: str, expected: str) -> None:
    assert normalise_url(text) == expected
    assert normalise_url(expected) == expected, "normalising twice changes nothing"


@pytest.mark.parametrize(
    "key",
    [
        "token", "TOKEN", "access_token", "accessToken", "auth-token", "csrftoken", "sig", "signature", "Signature",
        "X-Amz-Signature", "x-amz-credential", "X-Amz-Security-Token", "X-Goog-Signature", "AWSAccessKeyId",
        "GoogleAccessId", "Key-Pair-Id", "key", "api_key", "apikey", "API-KEY", "subscription-key", "client_secret",
        "secret", "password", "passwd", "pwd", "auth", "Authorization", "oauth_nonce", "bearer", "credentials",
        "session", "session_id", "PHPSESSID", "jsessionid", "sid", "jwt", "hmac", "%74oken", "tok%65n", "user.token",
        "+token",
    ],
)  # fmt: skip
def test_a_secret_goes_wherever_it_stands(key: str) -> None:
    at = "https://a.example/x.jpg"
    assert strip_secrets(f"{at}?{key}=S3CR3T") == at
    assert strip_secrets(f"{at}?{key}=S3CR3T&w=1&h=2") == f"{at}?w=1&h=2"
    assert strip_secrets(f"{at}?w=1&{key}=S3CR3T=&h=2") == f"{at}?w=1&h=2"
    assert strip_secrets(f"{at}?w=1;{key}=S3CR3T") == f"{at}?w=1"
    assert strip_secrets(f"{at}?w=1#{key}=S3CR3T&b") == f"{at}?w=1#b"
    assert strip_secrets(f"//a.example/x.jpg?{key}=S3CR3T") == "//a.example/x.jpg"
    assert normalise_url(f"{at}?{key}=S3CR3T") == at


@pytest.mark.parametrize(
    "text",
    [
        "https://a.example/x.jpg?w=640&q=80&fm=webp&s=80&v=2", "https://a.example/x?keyword=cat&tokens=3&sessions=1",
        "https://a.example/?design=1&monkey=2&author=me&passage=3", "https://a.example/x?",
        "https://a.example/x?a=%2F+b&&c;d=", "https://a.example/token=1/x;v=2/y.jpg", "photo?token=1.jpg",
        "a&key=2.png", "C:key?token=1", "https://a.example/x?id=token",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert strip_secrets(text) == text


def test_session_ids_in_the_path_go_too() -> None:
    assert strip_secrets("http://a.example/b;jsessionid=12AB?c=1") == "http://a.example/b?c=1"
    assert strip_secrets("http://a.example/b;JSESSIONID=1/c;v=1") == "http://a.example/b/c;v=1"


def test_user_info_goes_and_all_else_stays() -> None:
    assert strip_secrets(" http://Me:pw@A.Example:80/B#c ") == "http://A.Example:80/B#c"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a.example", "http://a.example"), ("http://me:pw@a.example/x#y", "http://a.example/x"),
        ("HTTPS://A.example:443/", "https://a.example/"), ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://a.example/ä?ö", "http://a.example/%C3%A4?%C3%B6"),
    ],
)  # fmt: skip
def test_parse_url(text: str, expected: str) -> None:
    assert str(parse_url(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/x",
        "//a.example/",
        "ftp://a.example/",
        "http:///",
        "http://a.example:0/",
        "http://a.example/\n",
        "http:\\x",
        "http://][@",
    ],
)
def test_what_is_no_url_to_ask_for(text: str) -> None:
    assert parse_url(text) is None


def test_a_megabyte_of_backslashes_costs_no_time() -> None:
    began = time.process_time()
    strip_secrets("http://" + "\\" * 1_000_000)
    strip_secrets("http://" + "\\" * 1_000_000 + "me@b.example/")
    assert time.process_time() - began < 20  # quadratic: days


def test_where_a_location_leads() -> None:
    base = URL("https://a.example/b/c?d")
    assert str(join_url(base, "e")) == "https://a.example/b/e"
    assert str(join_url(base, "//other.example/#x")) == "https://other.example/"
    assert str(join_url(base, "http://me:pw@b.example/")) == "http://b.example/"
    for location in ("", "mailto:me@example.org", "data:,x", "http://[", "\x00", "//][@"):
        assert join_url(base, location) is None
