-- The one row of cohorts says whose embeddings and whose crowding are stored. Replicas that compute with others are
-- refused: they keep the row as it is while they write. No encoder: nobody has opened the gallery since.
ALTER TABLE cohorts ADD COLUMN encoder text;
