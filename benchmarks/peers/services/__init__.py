"""The peers behind HTTP. These modules run in the environment of ``requirements.txt``, not in Tessera's."""
