-- What opens an encrypted embedding: the id of its key, nonce and tag of AES-GCM; NULL where it is not encrypted.
ALTER TABLE templates ADD COLUMN seal BLOB;
CREATE INDEX templates_seal ON templates (seal) WHERE seal IS NOT NULL;

-- Seals of templates that were erased and whose keys are yet to be destroyed: written with the erasure itself.
CREATE TABLE erased_seals (
    seal BLOB PRIMARY KEY
);

CREATE TRIGGER keys_are_destroyed_with_templates AFTER DELETE ON templates WHEN OLD.seal IS NOT NULL BEGIN
    INSERT OR IGNORE INTO erased_seals (seal) VALUES (OLD.seal);
END;
