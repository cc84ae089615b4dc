-- What shows damage and loss. The digest of a template covers its ids, its encoder, its embedding and its norm;
-- template_digest is the service's own function (digests.py).
ALTER TABLE templates ADD COLUMN digest BLOB;

UPDATE templates SET digest = (
    SELECT template_digest(templates.id, s.id, c.id, e.digest, templates.embedding, templates.norm)
    FROM subjects s JOIN collections c ON c.key = s.collection JOIN encoders e ON e.key = templates.encoder
    WHERE s.key = templates.subject
);

-- Which database this is, and how many writes it has acknowledged; a file beside it holds both, too.
CREATE TABLE state (
    database TEXT NOT NULL,
    sequence INTEGER NOT NULL
);

INSERT INTO state (database, sequence) VALUES (lower(hex(randomblob(16))), 0);

-- The templates that a receipt names: its subject's own and those of possible duplicates. It is erased with any of them.
CREATE TABLE receipt_templates (
    receipt  TEXT NOT NULL REFERENCES receipts (key) ON DELETE CASCADE,
    template INTEGER NOT NULL REFERENCES templates (key) ON DELETE CASCADE,
    PRIMARY KEY (receipt, template)
) WITHOUT ROWID;

CREATE INDEX receipt_templates_template ON receipt_templates (template);

CREATE TRIGGER receipts_are_erased_with_templates BEFORE DELETE ON templates BEGIN
    DELETE FROM receipts WHERE key IN (SELECT receipt FROM receipt_templates WHERE template = OLD.key);
END;

-- Receipts from before tell in their answer whom they name; one that names what is not there any more goes.
CREATE TEMP TABLE named AS
    SELECT r.key AS receipt, (SELECT t.key FROM templates t WHERE t.id = json_extract(d.value, '$.template_id')) AS template
    FROM receipts r, json_each(CASE WHEN json_valid(r.body) THEN r.body ELSE '{}' END, '$.templates') d
    UNION
    SELECT r.key, (SELECT t.key FROM templates t WHERE t.id = json_extract(d.value, '$.template_id'))
    FROM receipts r, json_each(CASE WHEN json_valid(r.body) THEN r.body ELSE '{}' END, '$.possible_duplicates') d;

DELETE FROM receipts WHERE key IN (SELECT receipt FROM temp.named WHERE template IS NULL);
INSERT INTO receipt_templates (receipt, template)
    SELECT n.receipt, n.template FROM temp.named n JOIN receipts r ON r.key = n.receipt;
DROP TABLE temp.named;
