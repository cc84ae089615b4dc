-- seen_at: when the replica that works on an audit last said so, and how far it was; none: nobody works on it.
ALTER TABLE audits ADD COLUMN progress double precision NOT NULL DEFAULT 0, ADD COLUMN seen_at timestamptz;
