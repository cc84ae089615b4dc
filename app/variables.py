"""Names of environment variables: one that is misspelt would set nothing, so it is refused with the nearest setting."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

OTHER_VARIABLES = frozenset({"TESSERA_TEST_DATA"})
"""Variables with the prefix that are no settings: the tests read them."""
SERVICE_LINK = re.compile(r"TESSERA_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")
SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")
"""Kubernetes and Docker describe a service named ``tessera`` by such variables in every container beside it."""
MOST_NAMED = 5


def unknown_variables(environment: Mapping[str, str], prefix: str, settings: Iterable[str]) -> list[str]:
    """What is wrong with each variable of the prefix that sets nothing, with the nearest setting; the first few.

    Args:
        environment: variables with their values.
        prefix: of every setting, upper case.
        settings: names of the variables that are settings, upper case. As for settings, case does not matter.
    """
    known = sorted(settings)
    unknown = sorted(
        name
        for name, value in environment.items()
        if name.upper().startswith(prefix) and name.upper() not in known and not _of_others(name.upper(), value)
    )
    return [_described(name, known) for name in unknown[:MOST_NAMED]]


def _of_others(name: str, value: str) -> bool:
    if name in OTHER_VARIABLES or SERVICE_LINK.fullmatch(name):
        return True
    return name.endswith("_PORT") and SERVICE_URL.match(value) is not None


def _described(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name.upper(), known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else "see docs/settings.md."
    return f"{name} is no setting; {hint}"
