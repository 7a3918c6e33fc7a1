"""Deliveries with what is to be sent of them."""

from __future__ import annotations

from dataclasses import dataclass

from service.calling import Peer
from service.errors import Rejected, Unavailable
from service.records import Delivery
from service.sections import Destination, Recipient
from service.sendable import COMPANION
from service.store import Store
from service.tls import secure_call
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


def peer_of(destination: Destination, title: str) -> Peer:
    """Give the node, called by the title of its own or by ours, with certificates as they are on disk now: they are renewed meanwhile.

    Raises
    ------
    Unavailable
        The files for TLS cannot be used now.
    """
    tls = secure_call(f"destination {destination.name}", destination)
    return Peer(destination.ae_title, destination.host, destination.port, destination.calling_ae or title, tls)
