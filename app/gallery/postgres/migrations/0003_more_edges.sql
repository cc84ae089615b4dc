-- With 16 edges and a construction breadth of 100, one search in eight missed the nearest among a million subjects.
-- Building it anew takes long where millions are stored; maintenance_work_mem of the role decides how long.
DROP INDEX IF EXISTS subjects_mean;
CREATE INDEX subjects_mean ON subjects USING hnsw (mean halfvec_ip_ops) WITH (m = 32, ef_construction = 400);
