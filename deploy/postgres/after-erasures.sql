-- Makes the files of PostgreSQL forget what was erased. Run it in a quiet hour, outside a transaction:
--
--   psql "$TESSERA_GALLERY__URL" --set ON_ERROR_STOP=1 --file deploy/postgres/after-erasures.sql
--
-- as a superuser, or as the role of the service once a superuser has given it, in this database, what it needs:
--
--   ALTER DATABASE tessera OWNER TO tessera;
--   GRANT EXECUTE ON FUNCTION pg_switch_wal() TO tessera;
--   GRANT pg_checkpoint TO tessera;
--
-- Each table is written anew without its erased rows, its indexes are built anew, and the old files are deleted. While
-- a table is written, requests that need it wait and get 503 after ten seconds; a million subjects take as long as the
-- vector index does (docs/scale.md), so give it memory and cores. What it does not reach: the write-ahead log until its
-- files are recycled, standbys that lag, archives and backups, and blocks that the file system has not overwritten.
SET search_path = tessera, public;
SET maintenance_work_mem = '1GB';
SET statement_timeout = 0;
-- Before anything is changed: whether the role may do all of it.
DO $$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AND NOT (
        has_function_privilege('pg_catalog.pg_switch_wal()', 'EXECUTE')
        AND pg_has_role('pg_checkpoint', 'USAGE')
        AND (SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database())
    ) THEN
        RAISE EXCEPTION 'The role % may not do all of this; the head of the script says what it needs.', current_user;
    END IF;
END $$;
VACUUM (FULL, ANALYZE) templates;
VACUUM (FULL, ANALYZE) subjects;
VACUUM (FULL, ANALYZE) receipts;
VACUUM (FULL, ANALYZE) receipt_templates;
VACUUM (FULL, ANALYZE) audits;
VACUUM (FULL, ANALYZE) audit_findings;
VACUUM (FULL, ANALYZE) failures;
VACUUM (FULL, ANALYZE) attempts;
-- The planner's statistics of before have samples of what is gone, such as the ids of subjects.
VACUUM (FULL) pg_catalog.pg_statistic;
-- After a switch and a checkpoint the log of before is not needed for a crash any more.
SELECT pg_switch_wal();
CHECKPOINT;
