from __future__ import annotations

import os

# Usage errors come in a box as wide as the terminal, which would wrap the messages that tests look for.
os.environ["COLUMNS"] = "1000"
