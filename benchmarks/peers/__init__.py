"""Tessera against other face comparison services, over HTTP, in turns on the same machine."""
