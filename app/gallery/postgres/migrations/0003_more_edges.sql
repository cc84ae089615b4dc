-- With 16 edges and a construction breadth of 100, one search in eight missed the nearest among a million subjects. The
-- index is built anew at the end of 0006, which changes a column of it.
DROP INDEX IF EXISTS subjects_mean;
