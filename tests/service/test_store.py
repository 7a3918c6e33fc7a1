"""The object store: whole or not at all, durable, the same bytes once."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from service import durable
from service import store as store_module
from service.errors import Unavailable
from service.listener.room import Room
from service.store import Store, encode_file_meta, series_key
from tests.service.house import files_of

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
MR = "1.2.840.10008.5.1.4.1.1.4"


def encoded(number: int = 1, name: str = "A^B") -> bytes:
    dataset = Dataset()
    dataset.SOPClassUID = MR
    dataset.SOPInstanceUID = f"1.2.3.{number}"
    dataset.PatientName = name
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def put(store: Store, data: bytes, number: int = 1, series: str = "1.2.3"):
    return store.put_instance(data, series_uid=series, sop_class_uid=MR, sop_instance_uid=f"1.2.3.{number}", transfer_syntax_uid=EXPLICIT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def test_an_instance_becomes_a_part_10_file_with_the_bytes_that_came(store: Store) -> None:
    data = encoded()
    stored = put(store, data)
    path = store.path_of(stored.path)
    whole = path.read_bytes()
    assert whole.endswith(data)
    assert (stored.size, stored.digest) == (len(whole), hashlib.sha256(whole).hexdigest())
    read = dcmread(path)
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID == "1.2.3.1"
    assert read.file_meta.TransferSyntaxUID == EXPLICIT
    assert not Path(stored.path).is_absolute()


def test_the_same_bytes_again_are_the_same_file(store: Store) -> None:
    first = put(store, encoded())
    file = store.path_of(first.path).stat()
    assert put(store, encoded()) == first
    assert store.path_of(first.path).stat().st_ino == file.st_ino, "it is not written again"
    assert len(files_of(store, "1.2.3")) == 1


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"?", lambda data: data + b"\0"])
def test_the_same_bytes_again_mend_a_damaged_file(store: Store, damage) -> None:
    first = put(store, encoded())
    path = store.path_of(first.path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert put(store, encoded()) == first
    assert path.read_bytes() == whole


def test_a_large_file_is_compared_to_its_end(store: Store) -> None:
    data = os.urandom(3 << 20)
    path = store.path_of(store.put_output("c", "k", data))
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    store.put_output("c", "k", data)
    assert path.read_bytes() == data


def test_other_bytes_and_other_encodings_are_other_files(store: Store) -> None:
    put(store, encoded())
    put(store, encoded(name="C^D"))
    store.put_instance(encoded(), series_uid="1.2.3", sop_class_uid=MR, sop_instance_uid="1.2.3.1", transfer_syntax_uid=IMPLICIT)
    assert len(files_of(store, "1.2.3")) == 3
    assert len(list(store.every_instance())) == 3


def test_file_meta_is_the_same_for_the_same_instance() -> None:
    assert encode_file_meta(MR, "1.2", EXPLICIT) == encode_file_meta(MR, "1.2", EXPLICIT)


@pytest.mark.parametrize("uid", ["../../etc/passwd", "", "1.2.3/4", "\x00", "\udc80", "1" * 5000, "."])
def test_no_uid_leads_out_of_the_store(store: Store, uid: str) -> None:
    stored = put(store, encoded(), series=uid)
    assert store.path_of(stored.path).is_file()
    assert files_of(store, uid) == [store.path_of(stored.path)]
    assert len(series_key(uid)) == 40


def test_a_path_from_outside_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    for path in ("../secret", "/etc/passwd", "outputs/../../secret"):
        with pytest.raises(ValueError, match="outside"):
            store.path_of(path)
    (store.root / "outputs" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match="outside"):
        store.open_output("outputs/link")


def test_outputs_are_named_by_their_content(store: Store) -> None:
    path = store.put_output("case-1", "segmentation.nii.gz", b"mask")
    assert path == store.put_output("case-1", "segmentation.nii.gz", b"mask")
    assert path != store.put_output("case-1", "segmentation.nii.gz", b"other")
    with store.open_output(path) as file:
        assert file.read() == b"mask"
    assert store.relative(store.path_of(path)) == path


def test_a_moved_store_finds_its_objects(store: Store, tmp_path: Path) -> None:
    path = put(store, encoded()).path
    store.root.rename(tmp_path / "elsewhere")
    assert Store(tmp_path / "elsewhere").path_of(path).is_file()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failing_disk_is_unavailable_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable.os, call, fail)
    with pytest.raises(Unavailable, match="object store"):
        put(store, encoded())
    monkeypatch.undo()
    assert files_of(store, "1.2.3") == []
    assert list((store.root / "incoming").iterdir()) == []
    assert store.has_file(put(store, encoded()).path)


def test_a_full_file_system_is_unavailable(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real short write: the kernel's own limit on the size of a file stands in for a full disk."""
    script = (
        "import resource, signal, sys; from pathlib import Path; from service.store import Store; from service.errors import Unavailable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: Store(Path(sys.argv[1])).put_output('c', 'k', b'x' * 5000)\n"
        "except Unavailable: sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store.root)], timeout=60)
    assert done.returncode == 7
    assert list((store.root / "incoming").iterdir()) == []


def test_the_reserve_is_kept(tmp_path: Path) -> None:
    full = Store(tmp_path, minimum_free_mb=10**9)
    with pytest.raises(Unavailable, match="kept in reserve"):
        put(full, encoded())
    with pytest.raises(Unavailable):
        full.check_space()
    assert Store(tmp_path).free_bytes() > 0


def test_a_folder_that_is_away_is_unavailable(store: Store, tmp_path: Path) -> None:
    store.demand_instances()
    store.root.rename(tmp_path / "elsewhere")
    for ask in (store.free_bytes, store.check_space, store.demand_instances, lambda: put(store, encoded())):
        with pytest.raises(Unavailable, match="is away"):
            ask()
    why = Room(store.check_space).why_not()
    assert why is not None
    assert "is away" in why


@pytest.mark.parametrize("code", [errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN])
def test_a_network_disk_that_is_away_is_unavailable(store: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(store_module.shutil, "disk_usage", fail)
    with pytest.raises(Unavailable, match="object store"):
        store.check_space()
    assert Room(store.check_space).why_not() is not None


def test_many_threads_put_the_same_and_different_instances(store: Store) -> None:
    stored: list[object] = []

    def work(thread: int) -> None:
        stored.extend(put(store, encoded(number), number, series=f"1.{number % 2}") for number in range(20))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stored) == 80
    files = list(store.every_instance())
    assert len(files) == 20
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.stem for path in files)


def test_every_rename_is_followed_by_an_fsync_of_its_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group commit may save an fsync only where one began after the rename."""
    guard, began = threading.Lock(), []
    real = durable.fsync_folder

    def slow(folder: Path) -> None:
        names = frozenset(path.name for path in folder.iterdir())
        with guard:
            began.append(names)
        time.sleep(0.01)
        real(folder)

    monkeypatch.setattr(durable, "fsync_folder", slow)
    missing = []

    def work(thread: int) -> None:
        for number in range(10):
            path = put(store, encoded(thread * 100 + number), thread * 100 + number).path
            with guard:
                if not any(Path(path).name in names for names in began):
                    missing.append(path)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missing == []
    assert len(began) < 45  # and the waiting is shared


def test_leftovers_of_dead_processes_are_cleaned_and_living_ones_kept(store: Store) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    incoming = store.root / "incoming"
    dead = incoming / f"{store_module._host()}-{process.pid}-aa"
    mine = store.upload_file()
    foreign = incoming / "otherhost-1-bb"
    old = incoming / "otherhost-1-cc"
    folder = incoming / f"{store_module._host()}-{process.pid}-dd"
    folder.mkdir()
    (folder / "x").write_bytes(b"")
    for path in (dead, mine, foreign, old):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert store.clean_leftovers() == 3
    assert sorted(incoming.iterdir()) == sorted([mine, foreign])


def test_a_kill_between_write_and_rename_leaves_only_a_leftover(store: Store) -> None:
    script = (
        "import os, sys; from pathlib import Path; from service.store import Store\n"
        "Path.rename = lambda *_: os.kill(os.getpid(), 9)\n"
        "Store(Path(sys.argv[1])).put_output('c', 'k', b'x' * 5000)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(store.root)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert [path for path in (store.root / "outputs").rglob("*") if path.is_file()] == []
    assert store.clean_leftovers() == 1


def test_a_folder_that_is_cleaned_away_meanwhile_is_made_again(store: Store) -> None:
    first = put(store, encoded(1), 1)
    store.path_of(first.path).unlink()
    store.path_of(first.path).parent.rmdir()
    assert put(store, encoded(1), 1) == first
    assert store.has_file(first.path)
