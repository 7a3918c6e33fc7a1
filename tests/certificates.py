"""A hospital's certificate authority, played by OpenSSL's own program."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
OUT_OF_USE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1", "-nodes")  # a curve that no TLS of ours or theirs offers


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM files."""

    certificate: Path
    key: Path

    @property
    def sha256(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).hexdigest()


class Authority:
    """Signs certificates; `certificate` is its own."""

    def __init__(self, openssl: str, folder: Path, name: str = "authority", above: Authority | None = None) -> None:
        self._openssl, self._folder = openssl, folder / name
        self._folder.mkdir(parents=True)
        self.certificate, self._key = self._folder / "ca.pem", self._folder / "ca.key"
        signed = () if above is None else ("-CA", above.certificate, "-CAkey", above._key)
        self._run("req", "-x509", *CURVE, "-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}", "-days", "2", *signed)

    @property
    def pair(self) -> Pair:
        return Pair(self.certificate, self._key)

    def issue(
        self,
        name: str,
        *,
        days: int = 1,
        usage: str = "serverAuth,clientAuth",
        hosts: str = "IP:127.0.0.1",
        key: Sequence[str] = CURVE,
    ) -> Pair:
        """A certificate for a node; with `days` below 0 it has run out."""
        pair, request, more = (
            Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key"),
            self._folder / "request",
            self._folder / "more",
        )
        more.write_text(f"basicConstraints=CA:FALSE\nextendedKeyUsage={usage}\nsubjectAltName={hosts}\n")
        self._run("req", "-new", *key, "-keyout", pair.key, "-out", request, "-subj", f"/CN={name}")
        signed = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-extfile", more, "-days", str(days))
        self._run("x509", "-req", "-in", request, *signed, "-out", pair.certificate)
        return pair

    def list_revoked(self, *revoked: Pair, next_update: str = "20490101000000Z") -> Path:
        """The authority's revocation list; `revoked` are added to those that it named before."""
        index, settings, found = self._folder / "index.txt", self._folder / "ca.conf", self._folder / "crl.pem"
        index.touch()
        settings.write_text(f"[ca]\ndefault_ca=own\n[own]\ndatabase={index}\ndefault_md=sha256\n")
        signed = ("ca", "-config", settings, "-cert", self.certificate, "-keyfile", self._key)
        for pair in revoked:
            self._run(*signed, "-revoke", pair.certificate)
        self._run(*signed, "-gencrl", "-crl_lastupdate", "20200101000000Z", "-crl_nextupdate", next_update, "-out", found)
        return found

    def _run(self, *arguments: str | Path) -> None:
        subprocess.run([self._openssl, *map(str, arguments)], check=True, capture_output=True, timeout=60)
