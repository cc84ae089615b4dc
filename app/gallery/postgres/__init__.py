"""The gallery in PostgreSQL with pgvector, for several replicas of the service."""
