"""How often a property is tried: the profile's number of examples (conftest.py), or a multiple of it."""

from hypothesis import settings


def examples(share: float) -> settings:
    """So many times the profile's number: less where one property is tried for every task, more where bugs are rare.

    A share and not a number, so that `make soak` tries all of them oftener.
    """
    return settings(max_examples=round(share * settings.default.max_examples))
