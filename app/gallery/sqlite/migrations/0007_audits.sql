-- The latest audit of each collection. What it found about people refers to their templates and names nobody, so that
-- erasing a template erases it, too; content is JSON of counts and rates.
CREATE TABLE audits (
    key        INTEGER PRIMARY KEY,
    collection INTEGER NOT NULL UNIQUE REFERENCES collections (key) ON DELETE CASCADE,
    status     TEXT NOT NULL,
    started_at TEXT NOT NULL,
    content    TEXT,
    error      TEXT
);

CREATE TABLE audit_findings (
    audit    INTEGER NOT NULL REFERENCES audits (key) ON DELETE CASCADE,
    place    INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    template INTEGER NOT NULL REFERENCES templates (key) ON DELETE CASCADE,
    other    INTEGER REFERENCES templates (key) ON DELETE CASCADE,
    content  TEXT NOT NULL,
    PRIMARY KEY (audit, place)
) WITHOUT ROWID;

CREATE INDEX audit_findings_template ON audit_findings (template);
CREATE INDEX audit_findings_other ON audit_findings (other) WHERE other IS NOT NULL;
