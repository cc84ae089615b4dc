"""Routes by resource: each makes one call into the service."""
