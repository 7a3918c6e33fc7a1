"""A DICOM web service that we call: to deliver, and to fetch."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import httpx

from service.errors import Unavailable
from service.sections import WebService
from service.tls import web_context

_CONNECT_S: Final = 10.0


def open_web(url: str, service: WebService, answer_s: float) -> httpx.Client:
    """
    Make a client with what the service is to be shown and whom we trust for it, all as it is on disk now.

    Parameters
    ----------
    answer_s : without a byte for so long a request has failed

    Raises
    ------
    Unavailable
        A file cannot be used; the line names the setting, the file and why.

    References
    ----------
    RFC 6750 2.1 (bearer token), RFC 7617 (user and password)
    """
    auth = None
    headers = {}
    if service.user is not None and service.password_file is not None:
        auth = httpx.BasicAuth(service.user, _secret("password_file", service.password_file, "utf-8"))
    elif service.token_file is not None:
        headers["Authorization"] = f"Bearer {_secret('token_file', service.token_file, 'ascii')}"
    trust: ssl.SSLContext | bool = (web_context(service) if url.startswith("https:") else None) or True
    # The environment has no say in where patients' pictures go: no proxy and no .netrc.
    return httpx.Client(headers=headers, auth=auth, verify=trust, timeout=httpx.Timeout(answer_s, connect=_CONNECT_S), trust_env=False)


def shows_credentials(client: httpx.Client) -> bool:
    """Tell whether the service is shown a token, or a user and a password."""
    return client.auth is not None or "Authorization" in client.headers


def _secret(named: str, file: Path, encoding: str) -> str:
    try:
        return file.read_text(encoding=encoding).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"{named} {file}: {error.strerror if isinstance(error, OSError) else 'not text'}") from None
