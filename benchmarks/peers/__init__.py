"""Tessera beside other services that compare faces, over HTTP, in turns on the same machine."""
