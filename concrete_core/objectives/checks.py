"""Checks that a model, its guide and a plate fit an objective.

The objectives would return another number than the one that was asked for, silently,
if the latent sites of the guide were not those of the model or if elements of the
plate shared latent sites. Each check raises an error that names the site or plate.
"""

from collections.abc import Callable, Mapping

from concrete_core.objectives.programs import Frame
from concrete_core.types import Message, Messages


def plate_frame(site: Message, plate: str | None) -> Frame | None:
    """Return the frame of a site in a plate, or None if the site is not inside.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = SimpleNamespace(name="rows", dim=-1)
        >>> plate_frame({"cond_indep_stack": [rows]}, "rows").dim
        -1
    """
    frames = site["cond_indep_stack"]
    return next((frame for frame in frames if frame.name == plate), None)


def validate_matching_sites(
    model: Messages,
    guide: Messages,
    *,
    is_relaxed: Callable[[Message], bool],
    relaxed_suffix: str,
) -> None:
    """Raise an error unless the model and the guide have the same latent sites.

    Args:
        model: Sample sites of the model by name.
        guide: Sample sites of the guide by name.
        is_relaxed: Tells whether a site is a relaxed one.
        relaxed_suffix: What a relaxed site has after the name of its discrete site.

    Raises:
        ValueError: If a latent site is in one of them only. The message names it.
    """
    for name, site in guide.items():
        if name in model or site["infer"].get("is_auxiliary"):
            continue
        if is_relaxed(site):
            raise ValueError(
                f"site {name!r} of the guide is relaxed, and the model is discrete: "
                "pass harden(guide), or the relaxed model"
            )
        if name + relaxed_suffix in model:
            raise ValueError(
                f"site {name + relaxed_suffix!r} of the model is relaxed, and the "
                "guide is discrete: pass the model as it was before relax"
            )
        raise ValueError(f"site {name!r} of the guide is not in the model")
    for name, site in model.items():
        if name in guide or site["is_observed"]:
            continue
        hint = ""
        if site["infer"].get("enumerate"):
            hint = ", and sites marked for enumeration are not marginalized out here"
        raise ValueError(
            f"site {name!r} of the model is latent, but not in the guide{hint}. "
            "Sample it there, too"
        )


def validate_plates(plate: str | None, subsampling_ratios: Mapping[str, float]) -> None:
    """Raise an error if the plate is missing, or if another one takes a subsample.

    Args:
        plate: Name of the plate whose elements have weights of their own, or None.
        subsampling_ratios: Size of each plate over that of its subsample, >= 1.

    Raises:
        ValueError: If no site is in `plate`, or another plate takes a subsample. The
            message names the plate.

    Example:
        >>> validate_plates("rows", {"columns": 1.0})
        Traceback (most recent call last):
            ...
        ValueError: no site is in a plate 'rows'; the plates are: 'columns'
    """
    if plate is not None and plate not in subsampling_ratios:
        names = ", ".join(map(repr, subsampling_ratios)) or "none"
        raise ValueError(f"no site is in a plate {plate!r}; the plates are: {names}")
    for name, ratio in subsampling_ratios.items():
        if ratio == 1 or name == plate:
            continue
        alternative = f", or pass plate={name!r}" * (plate is None)
        raise ValueError(
            f"plate {name!r} takes a subsample, and the weight of a particle is one "
            f"for all of its data. Run it in full{alternative}"
        )


def validate_latent_sites_inside_plate(
    plate: str, model: Messages, guide: Messages, *, is_fixed: Callable[[Message], bool]
) -> None:
    """Raise an error if the elements of a plate share a latent site.

    A site that the guide fixes, by a Delta, is the same in every particle and may be
    outside of the plate.

    Args:
        plate: Name of the plate whose elements have weights of their own.
        model: Sample sites of the model by name.
        guide: Sample sites of the guide by name.
        is_fixed: Tells whether a site of the guide always has the same value.

    Raises:
        ValueError: If a latent site is outside of the plate. The message names it.
    """
    for name, site in {**model, **guide}.items():
        if site["is_observed"] or plate_frame(site, plate) is not None:
            continue
        if not is_fixed(guide[name]):
            raise ValueError(
                f"site {name!r} is latent and outside of plate {plate!r}, whose "
                "elements share it: none has a weight of its own. Pass plate=None for "
                "the bound of the whole model, or fix it by condition or by a Delta "
                "in the guide"
            )


def depends_on_draws_message(plate: str | None) -> str:
    """Say that sites outside of a plate differ between particles."""
    return (
        f"sites outside of plate {plate!r} depend on draws, so that none of its "
        "elements has a weight of its own. Pass plate=None for the bound of the whole "
        "model"
    )


def enumerated_site_message(name: str) -> str:
    """Say that a site is marked for enumeration, where the objective samples it."""
    return (
        f"site {name!r} is marked for enumeration, and this objective samples it. "
        "Remove the setting infer={'enumerate': ...}, or use TraceEnum_ELBO"
    )


def validate_one_particle_baseline(baseline: str | None, num_particles: int) -> None:
    """Raise an error if there is a baseline for more than one particle.

    Raises:
        ValueError: If there is.

    Example:
        >>> validate_one_particle_baseline("predictions", num_particles=1)
    """
    if baseline is not None and num_particles > 1:
        raise ValueError(
            f"baseline={baseline!r} is for one particle, and the {num_particles} "
            "particles are baselines of each other. Leave it out"
        )


def validate_leave_one_out_particles(num_particles: int) -> None:
    """Raise an error if there are no other particles to take a baseline from.

    Raises:
        ValueError: If there are fewer than two.
    """
    if num_particles < 2:
        raise ValueError(
            "RLOO compares particles with each other and needs num_particles >= 2, "
            f"not {num_particles}"
        )
