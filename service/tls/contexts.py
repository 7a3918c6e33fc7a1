"""TLS for DICOM, in and out: contexts made of the files that the settings name, and looked at before anybody connects.

References
----------
PS3.15 B.12 (BCP 195, RFC 8996 and 9325), B.10
RFC 5280 6.3 (revocation lists)
"""

from __future__ import annotations

import hashlib
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from service.errors import Misconfigured, Unavailable
from service.sections import Destination, DicomTls, Pacs, Secured, Trusting, WebDestination

CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # RFC 9325 4.2, for TLS 1.2; those of TLS 1.3 are all fit
_ROUNDS: Final = 4


def door_context(chosen: DicomTls) -> ssl.SSLContext:
    """
    Make the context of the listener's own TLS port: our certificate, and certificates demanded of those who call.

    Raises
    ------
    Misconfigured
        A file is missing or not readable, the key does not fit, the certificate is not valid now, not for a server or of a kind that
        nobody takes.
        A revocation list that has ended is none of this: nobody whom it covers is let in until there is a new one.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    # A session that is resumed would bring a certificate that nobody looks at again.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    _load_own(context, "dicom_tls", chosen.certificate_file, chosen.key_file, serving=True)
    _load_authorities(context, f"dicom_tls.client_ca_file {chosen.client_ca_file}", chosen.client_ca_file)
    _load_revocations(context, "dicom_tls.", chosen.crl_file)
    return context


def call_context(where: str, peer: Secured) -> ssl.SSLContext | None:
    """
    Make the context for calling a node, None where it is called without TLS. The node's certificate must name its host.

    Parameters
    ----------
    where : what the settings call the node, for the line that tells what is wrong

    Raises
    ------
    Misconfigured
        As for `door_context`; of our own certificate that it is not for a client.
    """
    if not peer.tls or peer.ca_file is None:
        return None
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    _load_authorities(context, f"{where}: ca_file {peer.ca_file}", peer.ca_file)
    _load_revocations(context, f"{where}: ", peer.crl_file)
    if peer.certificate_file is not None and peer.key_file is not None:
        _load_own(context, where, peer.certificate_file, peer.key_file, serving=False)
    return context


def secure_call(where: str, peer: Secured) -> ssl.SSLContext | None:
    """Make the context for a call of a service that runs: as `call_context`, and files that cannot be used now are Unavailable."""
    try:
        return call_context(where, peer)
    except Misconfigured as error:
        raise Unavailable(str(error)) from None


def web_context(service: Trusting) -> ssl.SSLContext | None:
    """Make the context for a web service, None where the authorities of the system are to vouch for it. Raises Unavailable."""
    try:
        return _web_context("", service)
    except Misconfigured as error:
        raise Unavailable(str(error)) from None


def check_call(where: str, called: Trusting) -> None:
    """Raise Misconfigured unless a node or a web service could be called with TLS, where it is, as far as our own files go."""
    if isinstance(called, Secured):
        call_context(where, called)
    if isinstance(called, WebDestination | Pacs) and called.url is not None and called.url.startswith("https:"):
        _web_context(f"{where}: ", called)


def nodes_among(kind: str, nodes: Iterable[Any]) -> list[tuple[str, Secured]]:
    """Give those that are DICOM nodes, each with what the settings call it."""
    return [(f"{kind} {node.name}", node) for node in nodes if isinstance(node, Destination | Pacs)]


def demand_files(peers: Sequence[tuple[str, Secured]]) -> None:
    """Raise Misconfigured unless every node that is called with TLS could be, as far as our own files go."""
    for where, peer in peers:
        call_context(where, peer)


def watch_handshakes(context: ssl.SSLContext, told: Callable[[str], None]) -> None:
    """Have the reason told when a handshake fails: what opens the connection keeps it to itself."""

    class Telling(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
            except OSError as error:
                told(reason_of(error))
                raise

    context.sslsocket_class = Telling


def reason_of(error: OSError) -> str:
    """Say why a handshake failed, in words that name nobody."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "the TLS handshake was not finished in time"
    if isinstance(error, ssl.SSLEOFError | ConnectionError):
        return "the connection was closed during the TLS handshake"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {(error.reason or 'failed').replace('_', ' ').lower()}"
    return f"TLS: {error.strerror}"


def fingerprint_of(connection: socket.socket | None) -> str | None:
    """Give the SHA-256 of the peer's certificate as 64 hexadecimal digits, None where the connection is not TLS."""
    if not isinstance(connection, ssl.SSLSocket):
        return None
    certificate = connection.getpeercert(binary_form=True)
    return hashlib.sha256(certificate).hexdigest() if certificate else None


def refused_fingerprint_of(connection: socket.socket) -> str | None:
    """Give the same after a handshake that failed, None where no certificate had come: `getpeercert` gives nothing then."""
    handshake: Any = getattr(connection, "_sslobj", None)
    chain = handshake.get_verified_chain() if handshake is not None else None
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(chain[0].public_bytes())).hexdigest() if chain else None


def _context(protocol: ssl._SSLMethod) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a device's own certificate may be listed instead of an authority
    return context


def _web_context(prefix: str, service: Trusting) -> ssl.SSLContext | None:
    if service.ca_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    _load_authorities(context, f"{prefix}ca_file {service.ca_file}", service.ca_file)
    _load_revocations(context, prefix, service.crl_file)
    return context


def _load_authorities(context: ssl.SSLContext, named: str, path: Path) -> None:
    _demand_readable(named, path)
    try:
        context.load_verify_locations(path)
    except OSError:
        raise Misconfigured(f"{named}: holds no certificate in PEM") from None


def _load_revocations(context: ssl.SSLContext, prefix: str, path: Path | None) -> None:
    """Have every certificate of a chain looked up in the list of its authority, which must be there and not have ended."""
    if path is None:
        return
    named = f"{prefix}crl_file {path}"
    _demand_readable(named, path)
    trusted = context.cert_store_stats()["x509"]
    try:
        context.load_verify_locations(path)
    except OSError:
        raise Misconfigured(f"{named}: holds no revocation list in PEM") from None
    if context.cert_store_stats()["x509"] > trusted:
        raise Misconfigured(f"{named}: holds a certificate, which would be trusted")
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _load_own(context: ssl.SSLContext, where: str, certificate: Path, key: Path, *, serving: bool) -> None:
    named = f"{where}: certificate_file {certificate}"
    _demand_readable(named, certificate)
    _demand_readable(f"{where}: key_file {key}", key)
    try:
        # An empty password, or OpenSSL asks for one at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise Misconfigured(f"{where}: key_file {key} is not the key of certificate_file {certificate}") from None
        raise Misconfigured(f"{named} and key_file {key}: not a certificate and a key in PEM, without a password") from None
    try:
        _try_out(certificate, key, serving=serving)
    except ssl.SSLCertVerificationError as error:
        raise Misconfigured(f"{named}: {error.verify_message}") from None
    except OSError as error:
        raise Misconfigured(f"{named}: {reason_of(error)}") from None


def _try_out(certificate: Path, key: Path, *, serving: bool) -> None:
    """Let a peer that trusts just this certificate look at it, in memory: its dates, its kind and what it is for."""
    ends = {}
    for is_server in (True, False):
        context = _context(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        looks = is_server is not serving
        context.verify_mode = ssl.CERT_REQUIRED if looks else ssl.CERT_NONE
        context.load_verify_locations(certificate)
        context.load_cert_chain(certificate, key, password="")
        ends[is_server] = context
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    server, client = ends[True].wrap_bio(up, down, server_side=True), ends[False].wrap_bio(down, up)
    for _ in range(_ROUNDS):
        for end in (client, server):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()


def _demand_readable(named: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise Misconfigured(f"{named}: {error.strerror}") from None
