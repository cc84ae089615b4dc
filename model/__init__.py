"""Training, export and evaluation of the encoder. Never imported by ``app``."""
