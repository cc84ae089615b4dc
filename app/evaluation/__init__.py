"""Error rates from embeddings, for calibration tables. Works on numbers only: no encoder, no gallery."""
