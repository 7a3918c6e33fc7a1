"""Associations as a user of services (SCU), and C-STORE over them: files go out as they are encoded wherever the peer takes that."""

from __future__ import annotations

import errno
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import IO, BinaryIO, cast

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import PresentationContext
from pynetdicom.status import code_to_category

from service.calling import Peer, associate
from service.errors import Rejected, Unavailable
from service.headers.elements import uid
from service.sop_classes import class_name
from service.store import encode_file_meta
from worker.repertoire import transcode

# A path is then sent as its own bytes; a Dataset is still encoded for the context that was accepted.
_config.STORE_SEND_CHUNKED_DATASET = True

_DICOMDIR = "1.2.840.10008.1.3.10"
_MOST_CONTEXTS = 128  # PS3.8 9.3.2.2: odd identifiers up to 255
_SOP_UIDS: list[BaseTag | int] = [Tag("SOPClassUID"), Tag("SOPInstanceUID")]
_CONVERTIBLE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


class Broken(Unavailable):
    """The peer ended the association, or did not answer, at the object after the last one answered."""


@dataclass(frozen=True)
class Outgoing:
    """A Part-10 file, or an entry of a zip that is one, and what its command names.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid : of its data set (PS3.4 B.2.3); of its file meta information where the data set has none
    misnamed : the file meta information has others
    repertoire : Specific Character Set that its text is sent in; None: as it is
    """

    path: Path
    sop_class_uid: UID
    sop_instance_uid: UID
    transfer_syntax_uid: UID
    entry: str | None = None
    misnamed: bool = False
    repertoire: tuple[str, ...] | None = None

    @property
    def size_bytes(self) -> int:
        """How many bytes `open` gives."""
        if self.repertoire is not None:
            with self.open() as file:
                return len(file.read())
        if self.entry is None:
            return self.path.stat().st_size
        with zipfile.ZipFile(self.path) as archive:
            return archive.getinfo(self.entry).file_size

    def open(self) -> IO[bytes]:
        """Read what is sent from its beginning. Made anew at each call where it is transcoded: one object is in memory at a time."""
        if self.repertoire is None:
            return self.open_kept()
        with self.open_kept() as kept:
            return BytesIO(transcode(kept, self.repertoire, implicit=self.transfer_syntax_uid == ImplicitVRLittleEndian))

    def open_kept(self) -> IO[bytes]:
        """Read what is kept."""
        if self.entry is None:
            return self.path.open("rb")
        with zipfile.ZipFile(self.path) as archive:
            return archive.open(self.entry)


@dataclass(frozen=True)
class Answer:
    """The DIMSE status of one C-STORE; `status` is None when no answer came or no context fitted."""

    path: Path
    status: int | None
    comment: str = ""

    @property
    def category(self) -> str:
        """One of Success, Warning, Failure (PS3.4 B.2.3)."""
        if self.status is None:
            return "Failure"
        category = code_to_category(self.status)
        return category if category in {"Success", "Warning"} else "Failure"


def read_outgoing(paths: Iterable[Path]) -> list[Outgoing]:
    """Keep the Part-10 files among `paths`; other files and a DICOMDIR are left out."""
    found = []
    for path in paths:
        with suppress(IsADirectoryError), path.open("rb") as file:
            found += _describe(file, path)
    return found


def read_archive(path: Path) -> list[Outgoing]:
    """Give the Part-10 files in a zip, by name. Raises OSError where it is no zip."""
    found = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                with archive.open(name) as file:
                    found += _describe(file, path, name)
    except zipfile.BadZipFile as error:
        raise OSError(errno.EIO, str(error)) from error
    return found


def _describe(file: IO[bytes], path: Path, entry: str | None = None) -> list[Outgoing]:
    try:
        read = read_partial(cast(BinaryIO, file), lambda tag, _vr, _length: tag > _SOP_UIDS[-1], specific_tags=_SOP_UIDS)
        meta = read.file_meta
        named = (UID(meta.get("MediaStorageSOPClassUID", "")), UID(meta.get("MediaStorageSOPInstanceUID", "")))
        syntax = UID(meta.TransferSyntaxUID)
    except (InvalidDicomError, AttributeError):
        return []
    own = UID(uid(read, "SOPClassUID") or named[0]), UID(uid(read, "SOPInstanceUID") or named[1])
    return [] if named[0] == _DICOMDIR or not all(own) else [Outgoing(path, *own, syntax, entry, misnamed=own != named)]


def send(peer: Peer, files: Sequence[Outgoing], on_answer: Callable[[Answer], None] | None = None) -> list[Answer]:
    """Send files over one association, in order.

    Raises
    ------
    Unavailable
        The peer could not be reached or refused the association; may be repeated.
    Broken
        It ended the association before every file was answered; may be repeated.
    Rejected
        More kinds of objects than one association can propose.
    """
    answers: list[Answer] = []
    with associate(peer, _propose(files)) as association:
        for file in files:
            if not association.is_established:
                raise Broken(f"{peer.ae_title}: the association ended after {len(answers)} of {len(files)} objects")
            try:
                answer = _store(association, file)
            except Unavailable as error:
                raise Broken(f"{peer.ae_title}: {error.reason}; {len(answers)} of {len(files)} were answered") from None
            answers.append(answer)
            if on_answer is not None:
                on_answer(answer)
    return answers


def _store(association: Association, file: Outgoing) -> Answer:
    accepted = {(context.abstract_syntax, context.transfer_syntax[0]) for context in association.accepted_contexts}
    exact = (file.sop_class_uid, file.transfer_syntax_uid) in accepted
    try:
        if exact and file.entry is None and file.repertoire is None:
            with _well_named(file) as path:
                status = association.send_c_store(path)
        else:
            status = association.send_c_store(_read(file, exact=exact))
    except ValueError:
        return Answer(file.path, None, f"{class_name(file.sop_class_uid)} in {file.transfer_syntax_uid.name} is not accepted there")
    except RuntimeError:
        return Answer(file.path, None, "the association ended")
    if "Status" not in status:
        raise Unavailable("the association ended, or no answer came, after an object was sent")
    return Answer(file.path, int(status.Status), str(status.get("ErrorComment", "")))


@contextmanager
def _well_named(file: Outgoing) -> Iterator[Path]:
    """Give a file whose meta information names its object: pynetdicom takes the command's UIDs from there."""
    if not file.misnamed:
        yield file.path
        return
    with tempfile.NamedTemporaryFile(suffix=".dcm") as copy, file.open_kept() as kept:
        copy.write(encode_file_meta(file.sop_class_uid, file.sop_instance_uid, file.transfer_syntax_uid))
        kept.seek(split_dataset(file.path)[1])
        shutil.copyfileobj(kept, copy)
        copy.flush()
        yield Path(copy.name)


def _read(file: Outgoing, *, exact: bool) -> Dataset:
    if file.repertoire is not None and not exact:
        file = replace(file, transfer_syntax_uid=ImplicitVRLittleEndian)  # else pydicom would encode the text once more
    with file.open() as opened:
        return dcmread(opened)


def _propose(files: Sequence[Outgoing]) -> list[PresentationContext]:
    """One context per class and encoding; for what is not compressed also one in the syntax every node must take (PS3.5 10.1)."""
    wanted: dict[tuple[UID, UID], None] = {}
    for file in files:
        wanted[(file.sop_class_uid, file.transfer_syntax_uid)] = None
    for sop_class, syntax in tuple(wanted):
        if syntax in _CONVERTIBLE:
            wanted[(sop_class, ImplicitVRLittleEndian)] = None
    if len(wanted) > _MOST_CONTEXTS:
        raise Rejected(f"{len(wanted)} kinds of objects in one folder; one association proposes at most {_MOST_CONTEXTS}")
    contexts = []
    for number, (sop_class, syntax) in enumerate(wanted):
        context = PresentationContext()
        context.context_id = 2 * number + 1
        context.abstract_syntax = sop_class
        context.transfer_syntax = [syntax]
        contexts.append(context)
    return contexts
