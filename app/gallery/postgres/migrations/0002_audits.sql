-- The latest audit of each collection. What it found about people refers to their templates and names nobody, so that
-- erasing a template erases it, too; content is JSON of counts and rates.
CREATE TABLE audits (
    key        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection bigint NOT NULL UNIQUE REFERENCES collections (key) ON DELETE CASCADE,
    status     text NOT NULL,
    started_at timestamptz NOT NULL,
    content    text,
    error      text
);

CREATE TABLE audit_findings (
    audit    bigint NOT NULL REFERENCES audits (key) ON DELETE CASCADE,
    place    integer NOT NULL,
    kind     text NOT NULL,
    template bigint NOT NULL REFERENCES templates (key) ON DELETE CASCADE,
    other    bigint REFERENCES templates (key) ON DELETE CASCADE,
    content  text NOT NULL,
    PRIMARY KEY (audit, place)
);

CREATE INDEX audit_findings_template ON audit_findings (template);
CREATE INDEX audit_findings_other ON audit_findings (other) WHERE other IS NOT NULL;
