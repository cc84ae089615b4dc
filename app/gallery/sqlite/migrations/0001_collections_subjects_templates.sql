-- Keys are AUTOINCREMENT where the search index or memory refers to them: a key that was erased never comes back
-- for something else.

CREATE TABLE encoders (
    key    INTEGER PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE
);

CREATE TABLE collections (
    key        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE CHECK (id <> ''),
    created_at TEXT NOT NULL
);

CREATE TABLE subjects (
    key        INTEGER PRIMARY KEY AUTOINCREMENT,
    collection INTEGER NOT NULL REFERENCES collections (key) ON DELETE CASCADE,
    id         TEXT NOT NULL CHECK (id <> ''),
    metadata   TEXT NOT NULL,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    UNIQUE (collection, id)
);

-- The collection is repeated here so that counting and loading one collection needs no join.
CREATE TABLE templates (
    key        INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT NOT NULL UNIQUE CHECK (id <> ''),
    collection INTEGER NOT NULL REFERENCES collections (key) ON DELETE CASCADE,
    subject    INTEGER NOT NULL REFERENCES subjects (key) ON DELETE CASCADE,
    encoder    INTEGER NOT NULL REFERENCES encoders (key),
    embedding  BLOB NOT NULL CHECK (typeof(embedding) = 'blob' AND length(embedding) = 512),
    created_at TEXT NOT NULL
);

CREATE INDEX templates_collection ON templates (collection);
CREATE INDEX templates_subject ON templates (subject);
CREATE INDEX templates_encoder ON templates (encoder);

-- A receipt repeats what is known of its subject, so it is erased with the subject.
CREATE TABLE receipts (
    key         TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL,
    body        TEXT NOT NULL,
    subject     INTEGER NOT NULL REFERENCES subjects (key) ON DELETE CASCADE,
    created_at  TEXT NOT NULL
);

CREATE INDEX receipts_subject ON receipts (subject);
CREATE INDEX receipts_created_at ON receipts (created_at);
