-- What opens an encrypted embedding: the id of its key, nonce and tag of AES-GCM; NULL where it is not encrypted.
ALTER TABLE templates ADD COLUMN seal BLOB;
CREATE INDEX templates_seal ON templates (seal) WHERE seal IS NOT NULL;
