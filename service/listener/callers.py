"""Who may send: AE title, address and certificate of a caller against the list in the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from service.sections import CallingAE

UNKNOWN: Final = "calling_ae"
CERTIFICATE: Final = "certificate"
REASONS: Final = {
    UNKNOWN: "calling_ae: the title is not listed, or not from this address",
    CERTIFICATE: "certificate: not the one that belongs to the calling AE title",
}
"""What the log says of them."""


@dataclass(frozen=True)
class Caller:
    """Who asks for an association; `certificate` is the SHA-256 of the certificate shown, None at the port without TLS."""

    title: str
    address: str
    certificate: str | None = None


def find_rule(listed: Sequence[CallingAE], caller: Caller) -> CallingAE | str:
    """
    Give the entry that lets the caller in, or why none does: UNKNOWN, or CERTIFICATE where only that is not the right one.

    Without a list (only possible on loopback) everybody may send. A certificate that an entry is bound to serves no other title, and
    an entry that is bound to one lets nobody in without TLS.
    """
    if not listed:
        return CallingAE(title="ANYBODY")
    near = [rule for rule in listed if rule.title == caller.title and _is_near(rule, caller.address)]
    if not near:
        return UNKNOWN
    owners = {rule.title for rule in listed if caller.certificate and rule.certificate_sha256 == caller.certificate}
    if owners and caller.title not in owners:
        return CERTIFICATE
    for rule in near:
        if rule.certificate_sha256 in {None, caller.certificate}:
            return rule
    return CERTIFICATE


def _is_near(rule: CallingAE, address: str) -> bool:
    peer = ip_address(address)
    if isinstance(peer, IPv6Address):  # an IPv4 sender, as a socket for both kinds shows it
        peer = peer.ipv4_mapped or peer
    return rule.address is None or peer in ip_network(rule.address, strict=False)
