-- How long an embedding was before it was scaled to 1. Templates from before are of encoders that did not tell it.
ALTER TABLE templates ADD COLUMN length REAL NOT NULL DEFAULT 0;

-- What a match is in a collection where a request does not say; NULL leaves it to the service.
ALTER TABLE collections ADD COLUMN target_fmr REAL;
ALTER TABLE collections ADD COLUMN target_fpir REAL;
