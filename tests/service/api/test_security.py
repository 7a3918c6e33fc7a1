"""Tokens and scopes, headers of every answer, pages of other sites."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from service.settings import Settings
from tests.service.api.conftest import Host, as_parts, make_series

SECRETS = {"reader": "r-secret", "sender": "s-secret", "boss": "b-secret"}
TOKENS = [
    {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), "scopes": scopes}
    for (name, secret), scopes in zip(SECRETS.items(), (["read"], ["submit"], ["admin"]), strict=True)
]


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[name]}"}


@pytest.fixture
def locked(make_host: Callable[..., Host]) -> Host:
    return make_host(tokens=TOKENS)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/cases", {"reader", "boss"}),
        ("GET", "/cases/x", {"reader", "boss"}),
        ("HEAD", "/cases/x/report.pdf", {"reader", "boss"}),
        ("GET", "/metrics", {"reader", "boss"}),
        ("POST", "/cases", {"sender", "boss"}),
        ("POST", "/cases/x/retry", {"sender", "boss"}),
    ],
)
def test_each_call_needs_its_scope(locked: Host, method: str, path: str, allowed: set[str]) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {SECRETS['boss']}"},
        {"Authorization": "Bearer \xff\xfe"},
    ):
        answer = locked.client.request(method, path, headers={key: value.encode("latin-1") for key, value in headers.items()})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
    for name in SECRETS:
        answer = locked.client.request(method, path, headers=bearer(name))
        assert (answer.status_code == 403) == (name not in allowed), (name, answer.status_code)
        assert answer.status_code != 401


def test_a_digest_is_no_token(locked: Host) -> None:
    assert locked.client.get("/cases", headers={"Authorization": f"Bearer {TOKENS[2]['sha256']}"}).status_code == 401


def test_probes_and_the_empty_page_are_open(locked: Host) -> None:
    for path in ("/health/live", "/health/ready", "/", "/page.js", "/openapi.json"):
        assert locked.client.get(path).status_code == 200, path


def test_a_refused_upload_is_refused_before_its_body_is_read(locked: Host) -> None:
    assert locked.client.post("/cases", files=as_parts(make_series()), headers=bearer("reader")).status_code == 403
    assert list((locked.store.root / "incoming").iterdir()) == []
    assert locked.client.post("/cases", files=as_parts(make_series()), headers=bearer("sender")).status_code == 202


def test_the_log_names_the_token_and_never_shows_it(locked: Host) -> None:
    locked.client.get("/cases?patient_id=DOE123", headers=bearer("reader"))
    log = locked.log.getvalue()
    assert '"token": "reader"' in log
    assert SECRETS["reader"] not in log
    assert "DOE123" not in log


def test_the_start_is_refused_open_off_loopback() -> None:
    with pytest.raises(ValidationError, match="tokens"):
        Settings(http_host="0.0.0.0")


def test_every_answer_has_the_security_headers(host: Host) -> None:
    for path in ("/", "/cases", "/nope", "/health/live"):
        headers = host.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == ("no-cache" if path == "/" else "no-store")
        assert "server" not in headers


def test_another_sites_page_cannot_write(host: Host) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 202), ("none", 202)):
        answer = host.client.post("/cases", files=as_parts(make_series()), headers={"Sec-Fetch-Site": site})
        assert answer.status_code == status, site
    assert host.client.get("/cases", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200
