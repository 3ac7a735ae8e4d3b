"""Errors for what has no relaxation: they name the site, and what to do instead.

Counterpart: ``numpyro_concrete.soft_index.value``.
"""


def refusal(site: str, operation: str) -> str:
    """Return the message for an operation that has no relaxation.

    Args:
        site: Name of the relaxed site.
        operation: What the program tried to do with its value.

    Example:
        >>> print(refusal("z", "sort"))
        site 'z' is relaxed: its value is soft, and sort needs one that is drawn. ...
    """
    return (
        f"site {site!r} is relaxed: its value is soft, and {operation} needs one that "
        "is drawn. Leave the site out with infer={'relax': False} or enumerate it with "
        "infer={'enumerate': 'parallel'}; or, where the mean of the soft value is "
        "meant, take it with pyro_concrete.soft_index.plain(value)"
    )


class SharedDrawsError(TypeError):
    """Values that share draws are combined, and their joint distribution is not known.

    Args:
        site: Name of the relaxed sites.
    """

    def __init__(self, site: str) -> None:
        self.site = site
        super().__init__(
            f"site {site!r} is relaxed: it cannot combine values that share draws, as "
            "one of them is a sum or another function of many draws, of which only its "
            "own distribution is kept. Combine them before there are as many, leave "
            "the site out with infer={'relax': False}, or, where the mean of one of "
            "them is meant, take it with pyro_concrete.soft_index.plain(value)"
        )

    def __reduce__(self) -> tuple:
        """Pickle as the name of the site."""
        return SharedDrawsError, (self.site,)
