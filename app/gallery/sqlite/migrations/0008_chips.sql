-- Whether a collection keeps the chips (aligned faces) of those who are enrolled into it from now on.
ALTER TABLE collections ADD COLUMN keep_chips INTEGER NOT NULL DEFAULT 0;

-- Chips are always encrypted, each under a key of its own: what erases a chip destroys its key, and with it what backups
-- hold of it. The seal comes before the chip, so that reading it does not read the chip. The collection is repeated so that
-- counting needs neither.
CREATE TABLE chips (
    template   INTEGER PRIMARY KEY REFERENCES templates (key) ON DELETE CASCADE,
    collection INTEGER NOT NULL REFERENCES collections (key) ON DELETE CASCADE,
    seal       BLOB NOT NULL,
    chip       BLOB NOT NULL
);

CREATE INDEX chips_collection ON chips (collection);

CREATE TRIGGER keys_are_destroyed_with_chips AFTER DELETE ON chips BEGIN
    INSERT OR IGNORE INTO erased_seals (seal) VALUES (OLD.seal);
END;
