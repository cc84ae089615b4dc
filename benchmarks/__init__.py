"""Commands that reproduce the published numbers."""
