"""TLS: contexts made of the files that the settings name, renewed while the service runs, and the listener's TLS port."""

from __future__ import annotations

from service.tls.contexts import (
    call_context,
    demand_files,
    door_context,
    fingerprint_of,
    nodes_among,
    reason_of,
    secure_call,
    watch_handshakes,
    web_context,
)
from service.tls.renewal import Renewed, renewed_call, renewed_door, tell_of
from service.tls.server import start_tls_server

__all__ = [
    "Renewed",
    "call_context",
    "demand_files",
    "door_context",
    "fingerprint_of",
    "nodes_among",
    "reason_of",
    "renewed_call",
    "renewed_door",
    "secure_call",
    "start_tls_server",
    "tell_of",
    "watch_handshakes",
    "web_context",
]
