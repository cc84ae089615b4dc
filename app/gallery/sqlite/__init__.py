"""The embedded gallery: SQLite is the source of truth, FAISS searches in memory."""
