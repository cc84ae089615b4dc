-- How crowded the region of what a subject's templates are fused to is, by the cohort named below; NULL where it is yet
-- to be computed.
ALTER TABLE subjects ADD COLUMN crowding REAL;

CREATE TABLE cohorts (
    digest TEXT NOT NULL
);

-- For whom the targets of a collection are promised; NULL leaves it to the service.
ALTER TABLE collections ADD COLUMN claim TEXT;
