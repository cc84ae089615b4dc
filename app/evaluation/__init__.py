"""Error rates from embeddings: what a calibration table is made of. Knows numbers only, no encoder and no gallery."""
