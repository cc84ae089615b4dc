"""Evaluation of an encoder: public protocols, held-out people, corruptions, and baselines."""
