"""What is said of an association that we ask for and do not get."""

from __future__ import annotations

import pytest
from pynetdicom import build_context

from service.calling import Peer, Refused, UnknownCaller, associate
from service.errors import Unavailable
from tests.service import wire


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        ((1, 1, 3), UnknownCaller, "calling AE title not recognised (permanent, service user)"),
        ((1, 1, 7), Refused, "called AE title not recognised (permanent, service user)"),
        ((2, 1, 1), Unavailable, "no reason given (transient, service user)"),
        ((1, 2, 2), Refused, "protocol version not supported (permanent, service provider, ACSE)"),
        ((2, 3, 2), Unavailable, "local limit exceeded (transient, service provider, presentation)"),
    ],
)
def test_a_rejection_is_told_in_the_words_of_the_standard(answer: tuple[int, int, int], kind: type[Unavailable], said: str) -> None:
    with wire.rejecting(*answer) as port:
        with pytest.raises(Unavailable) as caught, associate(Peer("PACS", "127.0.0.1", port), [build_context("1.2.840.10008.1.1")]):
            raise AssertionError("let in")
    assert type(caught.value) is kind
    assert caught.value.reason == f"PACS at 127.0.0.1:{port}: the association was rejected: {said}"
