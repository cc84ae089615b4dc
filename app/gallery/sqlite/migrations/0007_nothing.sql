-- Nothing changes at this version.
SELECT 1;
