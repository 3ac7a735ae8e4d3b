"""What came of one training run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What came of one training run, in nats.

    Attributes:
        seed: Of the parameters' start and of training.
        elbo: Discrete ELBO, estimated anew after training.
        elbo_stderr: Its standard error.
        log_evidence: Of the learned model: exact, or a multi-sample bound; NaN for a
            model without parameters.
        evaluations: Model evaluations that training took.
        milliseconds: Time of a model evaluation in training, with its gradient.
    """

    seed: int
    elbo: float
    elbo_stderr: float
    log_evidence: float
    evaluations: int
    milliseconds: float
