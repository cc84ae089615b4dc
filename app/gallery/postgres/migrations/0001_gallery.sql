-- Keys come from sequences: a key that was erased never comes back for something else.

CREATE TABLE encoders (
    key    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest text COLLATE "C" NOT NULL UNIQUE
);

-- Whose crowding is stored: one row, once a gallery has been opened.
CREATE TABLE cohorts (
    digest text NOT NULL
);

CREATE TABLE collections (
    key         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          text COLLATE "C" NOT NULL UNIQUE CHECK (id <> ''),
    created_at  timestamptz NOT NULL,
    target_fmr  double precision,
    target_fpir double precision,
    claim       text
);

-- How many subjects of a collection have how many compared templates, so that nobody has to count millions. Spread over
-- shards, so that enrolments do not wait for each other.
CREATE TABLE sizes (
    collection bigint NOT NULL REFERENCES collections (key) ON DELETE CASCADE,
    shard      smallint NOT NULL,
    fused      smallint NOT NULL,
    subjects   bigint NOT NULL,
    templates  bigint NOT NULL,
    PRIMARY KEY (collection, shard, fused)
) WITH (fillfactor = 50);

CREATE SEQUENCE subject_keys;

-- mean: what the templates are fused to, and minus half its crowding, at half precision: candidates are found by it.
CREATE TABLE subjects (
    collection bigint NOT NULL REFERENCES collections (key) ON DELETE CASCADE,
    key        bigint NOT NULL DEFAULT nextval('subject_keys'),
    id         text COLLATE "C" NOT NULL CHECK (id <> ''),
    metadata   text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    fused      smallint NOT NULL,
    crowding   double precision NOT NULL,
    mean       halfvec(129) NOT NULL,
    PRIMARY KEY (collection, key),
    UNIQUE (collection, id)
) PARTITION BY HASH (collection);

DO $$
BEGIN
    FOR number IN 0..15 LOOP
        EXECUTE format(
            'CREATE TABLE subjects_%s PARTITION OF subjects FOR VALUES WITH (MODULUS 16, REMAINDER %s)', number, number
        );
    END LOOP;
END $$;

CREATE INDEX subjects_mean ON subjects USING hnsw (mean halfvec_ip_ops) WITH (m = 16, ef_construction = 100);

-- Not partitioned: the id of a template is unique in the whole database, which takes one index over all of them.
CREATE TABLE templates (
    key        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         text COLLATE "C" NOT NULL UNIQUE CHECK (id <> ''),
    collection bigint NOT NULL,
    subject    bigint NOT NULL,
    encoder    bigint NOT NULL REFERENCES encoders (key),
    embedding  bytea NOT NULL CHECK (octet_length(embedding) = 512),
    norm       double precision NOT NULL,
    digest     bytea NOT NULL,
    created_at timestamptz NOT NULL,
    FOREIGN KEY (collection, subject) REFERENCES subjects (collection, key) ON DELETE CASCADE
);

CREATE INDEX templates_subject ON templates (collection, subject, key);

-- A receipt repeats what is known of its subject, so it is erased with the subject.
CREATE TABLE receipts (
    key         text COLLATE "C" PRIMARY KEY,
    fingerprint text NOT NULL,
    body        text NOT NULL,
    collection  bigint NOT NULL,
    subject     bigint NOT NULL,
    created_at  timestamptz NOT NULL,
    FOREIGN KEY (collection, subject) REFERENCES subjects (collection, key) ON DELETE CASCADE
);

CREATE INDEX receipts_subject ON receipts (collection, subject);
CREATE INDEX receipts_created_at ON receipts (created_at);

-- The templates that a receipt names: its subject's own and those of possible duplicates. It is erased with any of them.
CREATE TABLE receipt_templates (
    receipt  text COLLATE "C" NOT NULL REFERENCES receipts (key) ON DELETE CASCADE,
    template bigint NOT NULL REFERENCES templates (key) ON DELETE CASCADE,
    PRIMARY KEY (receipt, template)
);

CREATE INDEX receipt_templates_template ON receipt_templates (template);

CREATE FUNCTION erase_receipts_of_template() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM receipts WHERE key IN (SELECT receipt FROM receipt_templates WHERE template = OLD.key);
    RETURN OLD;
END $$;

CREATE TRIGGER receipts_are_erased_with_templates BEFORE DELETE ON templates
    FOR EACH ROW EXECUTE FUNCTION erase_receipts_of_template();
