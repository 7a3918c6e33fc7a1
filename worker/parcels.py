"""Deliveries with what is to be sent of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from service.calling import Peer
from service.errors import Rejected, Unavailable
from service.records import Book, Delivery
from service.sections import Destination, Recipient
from service.sendable import COMPANION
from service.store import Store
from service.tls import secure_call
from worker.repertoire import UNICODE, read_repertoire, transcode
from worker.send import Outgoing, read_archive, read_outgoing


@dataclass(frozen=True)
class Parcel:
    """A delivery that can be sent: where to, and its files; more than one where the output is a series."""

    delivery: Delivery
    destination: Recipient
    files: tuple[Outgoing, ...]


def pack(delivery: Delivery, destination: Recipient, store: Store) -> Parcel:
    """Find the files of a delivery.

    Raises
    ------
    Unavailable
        They cannot be read now.
    Rejected
        The output is nothing that can be sent.
    """
    series = delivery.output in COMPANION.values()
    if delivery.path is None or (delivery.sop_class_uid is None and not series):
        raise Rejected("not a DICOM object")
    try:
        path = store.path_of(delivery.path)
        files = read_archive(path) if series else read_outgoing([path])
    except OSError as error:
        raise Unavailable(f"the result cannot be read: {error.strerror}") from error
    if not files:
        raise Unavailable("the result is not in the store")
    return Parcel(delivery, destination, tuple(files))


def in_repertoire(parcel: Parcel, book: Book, store: Store) -> Parcel:
    """Have the text of a parcel sent in the repertoire of its source, where the destination wants that.

    Raises
    ------
    Unavailable
        The source, or the result, cannot be read now.
    Rejected
        There is text that the source's repertoire cannot hold, or nobody knows the source's.
    """
    if parcel.destination.character_set != "source":
        return parcel
    path = book.source_path(parcel.delivery.case_id)
    if path is None:
        raise Rejected("no instance of the series is here any more: its Specific Character Set is not known")
    try:
        repertoire = read_repertoire(store.path_of(path))
        if repertoire == UNICODE:
            return parcel
        for file in parcel.files:
            with file.open_kept() as kept:
                transcode(kept, repertoire, to_pixels=True)
    except OSError as error:
        raise Unavailable(f"the result cannot be transcoded: {error.strerror}") from error
    return replace(parcel, files=tuple(replace(file, repertoire=repertoire) for file in parcel.files))


def peer_of(destination: Destination, title: str) -> Peer:
    """Give the node, called by the title of its own or by ours, with certificates as they are on disk now: they are renewed meanwhile.

    Raises
    ------
    Unavailable
        The files for TLS cannot be used now.
    """
    tls = secure_call(f"destination {destination.name}", destination)
    return Peer(destination.ae_title, destination.host, destination.port, destination.calling_ae or title, tls)
