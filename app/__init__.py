"""Tessera, a self-hosted face-verification service: photograph in, decision out."""
