-- "Length" is what a reader takes for the number of components; the norm of an embedding before it was scaled to 1 is meant.
ALTER TABLE templates RENAME COLUMN length TO norm;
