"""The tables of the case book, in what SQLite and PostgreSQL share. Change them only together with a migration."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from service.records.columns import Serial, Uid, UtcTime

# Set aside, and nobody has compared it yet.
UNJUDGED = "aside AND verdict IS NULL"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

cases = Table(
    "cases",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("study_uid", Uid, nullable=False),
    Column("series_uid", Uid, nullable=False, index=True),
    Column("patient_id", Text, nullable=False),
    Column("patient_issuer", Text, nullable=False),
    Column("patient_key", String(64), nullable=False, index=True),
    Column("series_description", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("rule", Text),
    Column("revision", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("lapses", Integer, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("received_at", UtcTime, nullable=False),
    Column("last_received_at", UtcTime, nullable=False),
    Column("changed_at", UtcTime, nullable=False),
    Column("due_at", UtcTime, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", UtcTime),
    Column("rank", JSON(none_as_null=True)),
    Column("primary", Boolean, nullable=False, quote=True),
    Column("stages", JSON, nullable=False),
    Column("model", JSON(none_as_null=True)),
    Column("quality", JSON, nullable=False),
    Column("findings", JSON(none_as_null=True)),
    Column("series_shift", Integer),
    # Of accepted series: Study Date and Time as digits, and how much it was acquired like the primary of the visit before, and of which.
    Column("studied_at", Text),
    Column("likeness", Integer),
    Column("likened_to", Uid),
    UniqueConstraint("study_uid", "series_uid"),
    Index("ix_cases_received_at_id", "received_at", "id"),
    Index("ix_cases_state_due_at", "state", "due_at"),
    Index("ix_cases_patient_id", "patient_id"),
    Index("ix_cases_patient_key_studied_at", "patient_key", "studied_at"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("case_id", String(40), ForeignKey("cases.id", ondelete="CASCADE"), nullable=False),
    Column("sop_instance_uid", Uid, nullable=False),
    Column("sop_class_uid", Uid, nullable=False),
    Column("transfer_syntax_uid", Uid, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("header", JSON, nullable=False),
    Column("source", Text, nullable=False),
    Column("association", Text, nullable=False),
    Column("received_at", UtcTime, nullable=False),
    Column("aside", Boolean, nullable=False),
    Column("verdict", String(16)),
    UniqueConstraint("case_id", "sop_instance_uid", "digest"),
    Index("ix_instances_unjudged", "case_id", sqlite_where=text(UNJUDGED), postgresql_where=text(UNJUDGED)),
    # The series has one instance of each UID; others that claim the UID are kept aside.
    Index(
        "uq_instances_in_series",
        "case_id",
        "sop_instance_uid",
        unique=True,
        sqlite_where=text("aside = 0"),
        postgresql_where=text("NOT aside"),
    ),
)

history = Table(
    "history",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("case_id", String(40), ForeignKey("cases.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", UtcTime, nullable=False),
    Column("event", String(16), nullable=False),
    Column("previous", String(16)),
    Column("state", String(16), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("reason", Text),
)

outputs = Table(
    "outputs",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("case_id", String(40), ForeignKey("cases.id", ondelete="CASCADE"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("media_type", String(128), nullable=False),
    Column("path", Text, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sop_class_uid", Uid),
    Column("sop_instance_uid", Uid),
    UniqueConstraint("case_id", "revision", "kind"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("case_id", String(40), ForeignKey("cases.id", ondelete="CASCADE"), nullable=False),
    Column("revision", Integer, nullable=False),
    Column("destination", String(64), nullable=False),
    Column("output", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("changed_at", UtcTime, nullable=False),
    Column("next_attempt_at", UtcTime),
    Column("last_error", Text),
    Column("fence", Integer, nullable=False),
    Column("lease_owner", Text),
    Column("lease_until", UtcTime),
    # Storage Commitment: the transaction it was asked for in, and the SOP Instance UIDs that were named for this output.
    Column("transaction_uid", Uid, index=True),
    Column("asked_instances", JSON(none_as_null=True)),
    UniqueConstraint("case_id", "revision", "destination", "output"),
    Index("ix_deliveries_state_next_attempt_at", "state", "next_attempt_at"),
)

turns = Table(
    "turns",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until", UtcTime, nullable=False),
)

# Series that are to come from a PACS, or came, or did not.
fetches = Table(
    "fetches",
    metadata,
    Column("case_id", String(40), ForeignKey("cases.id", ondelete="CASCADE"), primary_key=True),
    Column("source", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("asked_at", UtcTime, nullable=False),
    Column("next_attempt_at", UtcTime, nullable=False),
    Column("last_error", Text),
    Column("lease_owner", Text),
    Column("lease_until", UtcTime),
    Index("ix_fetches_state_next_attempt_at", "state", "next_attempt_at"),
)

# The living processes of the installation; a row that was not renewed for a while is a process that is gone.
parts = Table(
    "parts",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("detail", JSON, nullable=False),
)

# Sums over all processes and restarts; each adds what it counted since the last time.
counters = Table(
    "counters",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("label", String(128), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# Files of cases whose rows are gone; forgotten when the files are gone too.
removals = Table(
    "removals",
    metadata,
    Column("case_id", String(40), primary_key=True),
    Column("study_uid", Uid, nullable=False),
    Column("instances", JSON, nullable=False),
    Column("outputs", JSON, nullable=False),
)

# What readers said of results. A correction waits (pending) until a worker has placed its mask on the grid of the series. `path`: the
# file with the words, or with the mask; then `said` is that with the words.
reader_verdicts = Table(
    "reader_verdicts",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("case_id", String(40), ForeignKey("cases.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("reader", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text),
    Column("made", Integer),
    Column("path", Text),
    Column("digest", String(64)),
    Column("seen", JSON(none_as_null=True)),
    Column("model", JSON(none_as_null=True)),
    Column("losses", Integer, nullable=False),
    Column("due_at", UtcTime),
    Column("said", Text),
    Index("ix_reader_verdicts_state_due_at", "state", "due_at"),
)

# Rejection notes that took instances of a case, and the revision that came of it.
rejections = Table(
    "rejections",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("case_id", String(40), ForeignKey("cases.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("note_uid", Uid, nullable=False),
    Column("code", String(16), nullable=False),
    Column("instances", Integer, nullable=False),
    Column("at", UtcTime, nullable=False),
)

# Identities corrected by hand: what was and what is, by DICOM keyword. `active`: nobody has said otherwise since. `path`: the file that
# says so too.
identities = Table(
    "identities",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("case_id", String(40), ForeignKey("cases.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", UtcTime, nullable=False),
    Column("by", Text, nullable=False, quote=True),
    Column("reason", Text, nullable=False),
    Column("before", JSON, nullable=False, quote=True),
    Column("after", JSON, nullable=False, quote=True),
    Column("active", Boolean, nullable=False),
    Column("path", Text),
)

# What was done by whom. It refers to no other table: it outlives the cases that it is about.
audit = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    Column("at", UtcTime, nullable=False),
    Column("event", String(64), nullable=False),
    Column("what", Text, nullable=False),
    Column("actor_kind", String(16), nullable=False),
    Column("actor", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("case_id", String(40), index=True),
    Column("study_uid", Uid),
    Column("patient_key", String(64)),
    Column("outcome", String(16), nullable=False),
    Column("count", Integer, nullable=False),
    Index("ix_audit_at_id", "at", "id"),
)
