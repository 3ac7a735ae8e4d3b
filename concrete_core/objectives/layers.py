"""Sites in layers, by which sites their logits depend on."""

from collections.abc import Collection, Mapping

Layers = list[tuple[str, ...]]


def sites_in_layers(parents: Mapping[str, Collection[str]]) -> Layers:
    """Return sites in layers, each one layer after the last of its parents.

    Sites of one layer do not depend on each other, so that one run of the model can
    change the noise of all of them at once.

    Args:
        parents: For each site, the sites that it depends on, all of which come before
            it in the mapping.

    Example:
        >>> sites_in_layers({"a": (), "b": (), "c": ("a",), "d": ("c", "b")})
        [('a', 'b'), ('c',), ('d',)]
    """
    layer_of_site: dict[str, int] = {}
    for name, names_of_parents in parents.items():
        layers_of_parents = [layer_of_site[parent] for parent in names_of_parents]
        layer_of_site[name] = max(layers_of_parents, default=-1) + 1
    num_layers = max(layer_of_site.values(), default=-1) + 1
    return [
        tuple(name for name, number in layer_of_site.items() if number == layer)
        for layer in range(num_layers)
    ]
