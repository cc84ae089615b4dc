-- ANALYZE copies samples of columns into pg_statistic, where they outlive the rows they are from. These columns are
-- found by unique indexes or not at all, so that the planner needs no samples of them. It does need those of the ids of
-- subjects: without them it takes one subject for thousands.
ALTER TABLE templates
    ALTER COLUMN id SET STATISTICS 0, ALTER COLUMN embedding SET STATISTICS 0, ALTER COLUMN digest SET STATISTICS 0;
ALTER TABLE subjects ALTER COLUMN metadata SET STATISTICS 0, ALTER COLUMN mean SET STATISTICS 0;
ALTER TABLE receipts
    ALTER COLUMN key SET STATISTICS 0, ALTER COLUMN fingerprint SET STATISTICS 0, ALTER COLUMN body SET STATISTICS 0;
ALTER TABLE audits ALTER COLUMN content SET STATISTICS 0, ALTER COLUMN error SET STATISTICS 0;
ALTER TABLE audit_findings ALTER COLUMN content SET STATISTICS 0;

-- ANALYZE leaves old samples of such columns in place. Giving a column the type that it has drops them; no table is
-- written anew, but an index of vectors is.
DROP INDEX IF EXISTS subjects_mean;
ALTER TABLE templates
    ALTER COLUMN id TYPE text COLLATE "C", ALTER COLUMN embedding TYPE bytea, ALTER COLUMN digest TYPE bytea;
ALTER TABLE subjects ALTER COLUMN metadata TYPE text, ALTER COLUMN mean TYPE halfvec(129);
ALTER TABLE receipts
    ALTER COLUMN key TYPE text COLLATE "C", ALTER COLUMN fingerprint TYPE text, ALTER COLUMN body TYPE text;
ALTER TABLE audits ALTER COLUMN content TYPE text, ALTER COLUMN error TYPE text;
ALTER TABLE audit_findings ALTER COLUMN content TYPE text;
-- Takes long where millions are stored; maintenance_work_mem of the role decides how long.
CREATE INDEX subjects_mean ON subjects USING hnsw (mean halfvec_ip_ops) WITH (m = 32, ef_construction = 400);
