"""Whatever is asked, the answer is no 5xx, and every error is a problem detail (the property Schemathesis looks for)."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.service.api.conftest import Host

SOUP = st.one_of(
    st.binary(max_size=12),
    st.integers(-(10**30), 10**30).map(lambda number: str(number).encode()),
    st.text(max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"done", b"nan", b"inf", b"1e400", b"..", b"%00", b"a" * 300, b"\xed\xa0\x80", b"0", b"-1", b"true", b"[]"]),
)
CASES = ["/cases", "/cases/{}", "/cases/{}/segmentation", "/cases/{}/retry", "/cases/{}/{}", "/{}", "/health/{}", "/metrics/{}"]
WEB = ["studies", "instances", "studies/{}", "studies/{}/series/{}", "studies/1.2/series", "studies/1.2/series/1.2/instances/{}/frames/{}"]
PATHS = st.sampled_from([*CASES, *(f"/dicomweb/{path}" for path in WEB)])
NAMES = st.sampled_from(
    [
        *("series_uid", "study_uid", "patient_id", "state", "limit", "cursor", "wait", "else"),
        "offset",
        "PatientID",
        "StudyDate",
        "includefield",
    ]
)
HEADERS = st.dictionaries(
    st.sampled_from(["Range", "If-None-Match", "If-Range", "Authorization", "Content-Type", "Accept", "Sec-Fetch-Site", "X-Request-ID"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30).map(
        lambda text: text.strip().encode("latin-1")
    ),
    max_size=3,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"]),
    path=PATHS,
    pieces=st.tuples(SOUP, SOUP),
    query=st.lists(st.tuples(NAMES, SOUP), max_size=3),
    headers=HEADERS,
    body=st.binary(max_size=40),
)
@example("GET", "/{}", (b"", b""), [], {"Range": b"bytes"}, b"")
@example("GET", "/dicomweb/studies", (b"", b""), [("StudyDate", b"2026")], {"Accept": b"x"}, b"")
@example("GET", "/cases", (b"", b""), [("limit", b"1"), ("limit", b"2")], {}, b"")
@example("GET", "/cases", (b"", b""), [("cursor", b"WyIyMDI2LTExLTIzIiwgMV0")], {}, b"")
@example("GET", "/cases", (b"", b""), [("cursor", b"WyI5OTk5LTEyLTMxVDIzOjU5OjU5KzAwOjAwIiwgImEiXQ")], {}, b"")
@example("GET", "/cases", (b"", b""), [("cursor", b"WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzE0OjAwIiwgImEiXQ")], {}, b"")
def test_no_request_breaks_the_service(
    shared_host: Host,
    method: str,
    path: str,
    pieces: tuple[bytes, bytes],
    query: list[tuple[str, bytes]],
    headers: dict[str, bytes],
    body: bytes,
) -> None:
    url = path.format(*(quote_from_bytes(piece, safe="") for piece in pieces))
    pairs = [f"{name}={quote_from_bytes(value, safe='')}" for name, value in query]
    answer = shared_host.client.request(method, url + "?" + "&".join(pairs), headers=headers, content=body)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
