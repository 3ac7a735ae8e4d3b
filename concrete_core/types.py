"""Names for types that several modules share.

Backends leave many of these open, so that most are names for what a value means.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A model, a guide, or any function with sample sites.
Program = Callable[..., Any]
Arguments = Sequence[Any]
KeywordArguments = Mapping[str, Any]

# What effect handlers pass around about a site; the values are of any type.
Message = dict[str, Any]
Messages = dict[str, Message]
# The settings of a site, `infer={...}`.
Infer = Mapping[str, Any]

# Parameters by name: tensors or arrays, or trees of these.
Params = Mapping[str, Any]
# A number, array, parameter or schedule; or a mapping of these by site.
Temperature = Any
# An ELBO of the backend, or an objective of this library.
Elbo = Any
# A distribution of the backend, with or without wrappers.
Distribution = Any
