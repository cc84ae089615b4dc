"""The embedded gallery: SQLite is the truth, FAISS searches in memory."""
