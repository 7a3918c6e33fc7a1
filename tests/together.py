"""Test files that go to one process of a parallel run, because what they share is made once a process and is dear."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

RUNNING, HOUSE = "the running services", "the house of bad input"
GROUPS = {
    "tests/flow/bad_input/test_archives.py": HOUSE,
    "tests/flow/bad_input/test_doors.py": HOUSE,
    "tests/flow/test_command_line.py": RUNNING,
    "tests/flow/test_dicomweb.py": RUNNING,
    "tests/flow/test_kills.py": RUNNING,
    "tests/flow/test_main_way.py": RUNNING,
    "tests/flow/test_operations.py": RUNNING,
    "tests/flow/test_readers.py": RUNNING,
    "tests/flow/test_resends.py": RUNNING,
}


class Together(LoadFileScheduling):
    """File by file, but those that share a service after one another in the same process."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return GROUPS.get(file, file)
