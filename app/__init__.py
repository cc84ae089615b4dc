"""Tessera, a self-hosted face-verification service: photographs in, decisions out."""
