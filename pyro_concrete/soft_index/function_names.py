"""Names of torch's elementwise functions, by what they do to whole numbers and means.

Counterpart: ``numpyro_concrete.soft_index.rules``.
"""


def names(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# Of integers these give integers, whatever the type that holds them.
CLOSED = names("""
    add sub rsub subtract mul multiply neg negative positive abs absolute square sign
    sgn clamp clamp_min clamp_max clip minimum maximum remainder fmod radd rmul rmod
    floor_divide rfloordiv floor ceil round trunc fix where masked_fill relu fmin fmax
""")


# These are linear in all soft arguments, ...
LINEAR = names("add sub rsub subtract radd neg negative positive")


# ... and these in one, where it is the only soft one.
SCALING = names("mul multiply rmul")


DIVISION = names("div divide true_divide")


# What is no function of an average.
COMPARING = names("""
    eq ne lt le gt ge not_equal less less_equal greater greater_equal isclose
    logical_not logical_and logical_or logical_xor isnan isinf isfinite isposinf
    isneginf bitwise_not bitwise_and bitwise_or bitwise_xor invert and or xor rand ror
    rxor signbit
""")


# What networks compute of averages.
OF_NETWORKS = names("""
    add sub rsub radd mul rmul div truediv true_divide neg tanh sigmoid relu exp log
    softplus gelu silu elu leaky_relu log_sigmoid logsigmoid square pow clamp
""")


# What compares its argument with a bound, and so is none of the average of counts.
BENDING = names("""
    clamp clamp_min clamp_max clip minimum maximum fmin fmax relu relu6 abs absolute
    hardtanh threshold
""")


CHECKS = names("isnan isinf isfinite isposinf isneginf")


ROUNDING = names("""
    floor ceil round trunc fix sign sgn remainder fmod rmod floor_divide rfloordiv
    heaviside frac gcd lcm bitwise_left_shift bitwise_right_shift lshift rshift
    rlshift rrshift
""")


# These have an infinite slope at some value where they are finite or not.
SINGULAR = names("""
    sqrt rsqrt pow rpow float_power div divide true_divide rdiv reciprocal log log2
    log10 log1p asin acos arcsin arccos acosh arccosh atanh arctanh logit xlogy xlog1py
    special_xlogy special_xlog1py special_logit special_log1p erfinv special_erfinv
    special_ndtri hypot atan2 arctan2 lgamma digamma special_entr
""")
