"""What Pyro's guides are shown of a model when they trace it for the first time.

Counterpart: ``numpyro_concrete.guides.prototype``.
"""

from pyro.poutine.messenger import Messenger

from pyro_concrete.guides.sites import Message, is_subsampled


class SequentialPlateMessenger(Messenger):
    """Hide sequential plates, which Pyro's guides do not support.

    A sequential plate gives each of its elements a site with a name of its own, which
    a guide can treat as a site outside of the plate.

    Raises:
        NotImplementedError: If such a plate is subsampled.
    """

    def _pyro_sample(self, msg: Message) -> None:
        frames = msg["cond_indep_stack"]
        for frame in frames:
            if not frame.vectorized and is_subsampled(frame):
                raise NotImplementedError(
                    f"site {msg['name']!r} is in the sequential plate {frame.name!r}, "
                    "which is subsampled, so that AutoConcrete cannot know the sites "
                    "of its other elements. Vectorize the plate: with pyro.plate(...)"
                )
        msg["cond_indep_stack"] = tuple(f for f in frames if f.vectorized)
