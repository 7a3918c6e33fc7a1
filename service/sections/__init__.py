"""The tables of the settings file: who may come in, whom we call, what results are like, and how long what is kept."""

from __future__ import annotations

from service.sections.called import AnyDestination, Destination, Pacs, Recipient, Secured, Trusting, Way, WebDestination, WebService
from service.sections.callers import CallingAE, DicomTls, Token
from service.sections.keeping import AuditTrail, Retention
from service.sections.results import Corrections, RTStruct, Segmentation
from service.sections.section import AETitle, Port, Section

__all__ = [
    "AETitle",
    "AnyDestination",
    "AuditTrail",
    "CallingAE",
    "Corrections",
    "Destination",
    "DicomTls",
    "Pacs",
    "Port",
    "RTStruct",
    "Recipient",
    "Retention",
    "Section",
    "Secured",
    "Segmentation",
    "Token",
    "Trusting",
    "Way",
    "WebDestination",
    "WebService",
]
