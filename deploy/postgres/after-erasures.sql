-- Makes the files of PostgreSQL forget what was erased. Run it in a quiet hour, outside a transaction, as the owner:
--
--   psql "$TESSERA_GALLERY__URL" --set ON_ERROR_STOP=1 --file deploy/postgres/after-erasures.sql
--
-- Each table is written anew without its erased rows, its indexes are built anew, and the old files are deleted. While
-- a table is written, requests that need it wait and get 503 after ten seconds; a million subjects take as long as the
-- vector index does (docs/scale.md), so give it memory and cores. What it does not reach: the write-ahead log until its
-- files are recycled, standbys that lag, archives and backups, and blocks that the file system has not overwritten.
SET search_path = tessera, public;
SET maintenance_work_mem = '1GB';
SET statement_timeout = 0;
VACUUM (FULL, ANALYZE) templates;
VACUUM (FULL, ANALYZE) subjects;
VACUUM (FULL, ANALYZE) receipts;
VACUUM (FULL, ANALYZE) receipt_templates;
VACUUM (FULL, ANALYZE) audits;
VACUUM (FULL, ANALYZE) audit_findings;
VACUUM (FULL, ANALYZE) failures;
VACUUM (FULL, ANALYZE) attempts;
-- After a switch and a checkpoint the log of before is not needed for a crash any more.
SELECT pg_switch_wal();
CHECKPOINT;
