"""The encoder: what it is, how it is trained and what it is worth. Never imported by ``app``."""
