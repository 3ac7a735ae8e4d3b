"""The sites of a model as nodes of its factor graph, as the planner needs them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from concrete_core.types import Infer, Message

# Names and sizes of plates, and of other batch axes.
Plates = tuple[tuple[str, int], ...]

# What the user's per-site settings say about a site.
ENUMERATE = "enumerate"
RELAX = "relax"
LEAVE = "leave"


@dataclass(frozen=True)
class SiteNode:
    """A site as a node of the factor graph.

    Attributes:
        name: Name of the site.
        parents: Latent discrete sites that its log-probability depends on directly,
            itself among them.
        plates: Names and sizes of its plates, and of other batch axes.
        is_factor: Whether it is a factor of the model; a deterministic value is not.
        scale: Factor on its log-probability; None if it is not a plain number.
        conflicts: Earlier sites whose enumeration dim it cannot share.
        support_size: Number of its values if it is latent and discrete; 0 if they are
            not finite; None at any other site.
        setting: "enumerate", "relax" or "leave" where the model says so; else None.
        unsupported: Why the backend cannot enumerate it, or None.
        relaxation_obstacle: Why it cannot be relaxed, or None.
        advice: What the user has to add to relax it, or None.
    """

    name: str
    parents: frozenset[str] = frozenset()
    plates: Plates = ()
    is_factor: bool = True
    scale: float | None = 1.0
    conflicts: frozenset[str] = frozenset()
    support_size: int | None = None
    setting: str | None = None
    unsupported: str | None = None
    relaxation_obstacle: str | None = None
    advice: str | None = None


@dataclass(frozen=True)
class InspectedModel:
    """What one run of a model shows, and how its backend enumerates.

    Attributes:
        nodes: Sites of the model, in its order.
        max_dims: Number of enumeration dims that the backend has for it.
        find_path: Path finder of `opt_einsum` that the backend contracts by.
        has_one_scale: Whether all enumerated sites share one scale in the backend, and
            not only those that depend on each other.
    """

    nodes: tuple[SiteNode, ...]
    max_dims: int
    find_path: Callable
    has_one_scale: bool

    @property
    def discrete_sites(self) -> list[SiteNode]:
        """Latent discrete sites, in the order of the model."""
        return [node for node in self.nodes if node.support_size is not None]


def site_setting(infer: Infer) -> str | None:
    """Return what the per-site settings say: "enumerate", "relax", "leave" or None.

    Args:
        infer: The `infer` dictionary of the site.

    Example:
        >>> site_setting({"enumerate": "parallel"}), site_setting({"relax": False})
        ('enumerate', 'leave')
        >>> site_setting({"relax": {"temperature": 0.5}}), site_setting({})
        ('relax', None)
    """
    relax = infer.get("relax")
    enumeration = infer.get("enumerate")
    if relax is not None and relax is not False:
        return RELAX
    if enumeration == "parallel":
        return ENUMERATE
    if enumeration or relax is False:
        return LEAVE
    return None


def site_plates(site: Message, shape: Sequence[int], axis_word: str) -> Plates:
    """Return the plates of a site, and its other batch axes by names of their own.

    Args:
        site: Message of the site.
        shape: Shape of its log-probability.
        axis_word: What the backend calls an axis.

    Example:
        >>> site_plates({"name": "x", "cond_indep_stack": ()}, (3, 1), "axis")
        (('x, axis -2', 3),)
    """
    frames = {frame.dim: frame for frame in site["cond_indep_stack"]}
    plates = []
    for dim in range(-len(shape), 0):
        if dim in frames:
            plates.append((frames[dim].name, shape[dim]))
        elif shape[dim] > 1:
            plates.append((f"{site['name']}, {axis_word} {dim}", shape[dim]))
    return tuple(plates)


def has_unnamed_axis(site: Message, plates: Plates) -> bool:
    """Tell whether one of `site_plates` is a batch axis that is no plate.

    Args:
        site: Message of the site.
        plates: What `site_plates` has returned for it.

    Example:
        >>> has_unnamed_axis({"cond_indep_stack": ()}, (("x, axis -2", 3),))
        True
    """
    frame_names = {frame.name for frame in site["cond_indep_stack"]}
    return any(name not in frame_names for name, _ in plates)
