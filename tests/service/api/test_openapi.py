"""Schemathesis over every operation of the OpenAPI document, against a real server: no 5xx, and answers are what the document says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from tests.service.api.conftest import Host, hosts_in, make_series

load_all_checks()
# What it finds in an answer by itself. Left out: those that need state of their own (use_after_free, ensure_resource_availability),
# time, or security that this server is run without.
CHOSEN = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
)
CASE = "/cases/{case_id}"
OPERATIONS = (
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/metrics"),
    ("GET", "/audit"),
    ("GET", "/cases"),
    ("POST", "/cases"),
    ("GET", CASE),
    ("POST", f"{CASE}/retry"),
    ("POST", f"{CASE}/resend"),
    ("POST", f"{CASE}/verdict"),
    ("GET", f"{CASE}/identity"),
    ("POST", f"{CASE}/identity"),
    ("GET", f"{CASE}/segmentation"),
    ("GET", f"{CASE}/structured-report"),
    ("GET", f"{CASE}/rtstruct"),
    ("GET", f"{CASE}/resampled.zip"),
    ("GET", f"{CASE}/report.dcm"),
    ("GET", f"{CASE}/preview.dcm"),
    ("GET", f"{CASE}/segmentation.nii.gz"),
    ("GET", f"{CASE}/report.json"),
    ("GET", f"{CASE}/report.pdf"),
    ("GET", f"{CASE}/preview.png"),
)
EXAMPLES = {"/cases": 80}  # it has the most that can be combined
FEW_EXAMPLES = 20


class Served:
    """A server with a case that is done and one that is held, and its document."""

    def __init__(self, host: Host) -> None:
        self.host = host
        done, held = host.send(make_series("1.2.3.1")), host.send(make_series("1.2.3.2")[:9] + make_series("1.2.3.2")[10:])
        host.finish(done)
        case = host.book.case(held)
        assert case is not None
        host.book.hold(held, "gap")
        self.ids = {"done": done, "held": held}
        self.schema: Any = schemathesis.openapi.from_dict(host.app.openapi())

    def operation(self, method: str, path: str) -> Any:
        return self.schema[path][method]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with hosts_in(tmp_path_factory.mktemp("openapi")) as make:
        yield Served(make())


def test_the_table_names_every_operation_of_the_document(served: Served) -> None:
    document = served.host.app.openapi()["paths"]
    assert {(method.upper(), path) for path, methods in document.items() for method in methods} == set(OPERATIONS)


def exchanges() -> Iterator[tuple[str, str, str, GenerationMode]]:
    """For each operation: any case id there might be, and two that there are; invalid requests where something can be invalid."""
    for method, path in OPERATIONS:
        known = ("done", "held") if "{case_id}" in path and method == "GET" else ()
        for case in ("any", *known):
            yield method, path, case, GenerationMode.POSITIVE
            if path in {"/cases", CASE} or (case == "any" and "{case_id}" in path):
                yield method, path, case, GenerationMode.NEGATIVE


@pytest.mark.parametrize(("method", "path", "case", "mode"), list(exchanges()), ids=lambda value: getattr(value, "value", value))
def test_every_answer_is_as_documented(served: Served, method: str, path: str, case: str, mode: GenerationMode) -> None:
    operation = served.operation(method, path)
    known = {} if case == "any" else {"path_parameters": {"case_id": served.ids[case]}}
    strategy = operation.as_strategy(generation_mode=mode, **known)
    chosen = CHECKS.get_by_names(list(CHOSEN))

    @settings(
        max_examples=EXAMPLES.get(path, FEW_EXAMPLES),
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def exchange(data: st.DataObject) -> None:
        asked = data.draw(strategy)
        asked.call_and_validate(base_url=str(served.host.client.base_url), checks=chosen)

    exchange()
