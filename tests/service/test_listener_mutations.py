"""500 recorded associations with some of their bytes changed: no crash, no hang, no lost place, and no success that is not true."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.headers import read_file
from tests.service.house import House, listening
from tests.soak import pdus

COUNT = 500


# where a peer breaks the protocol, pynetdicom's thread for the connection may end by an exception: that ends the association only
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_changed_pdus_do_no_harm(tmp_path: Path) -> None:
    house = House(tmp_path, maximum_associations=200, minimum_free_mb=0)
    with listening(house) as listener:
        outcomes = pdus.run(house, listener, COUNT)
        assert outcomes.total() == COUNT
        assert set(outcomes) <= {"answered", "closed", "stored"}, outcomes
        assert outcomes["stored"] > COUNT // 20
        assert outcomes["answered"] > COUNT // 20
        pdus.assert_well(listener)
        kept = list(house.store.every_instance())
        for path in kept:
            with path.open("rb") as file:
                read_file(file)
    house.book.close()
