"""The ATen operations whose every output element depends on that element alone of each input, shapes broadcast."""

from __future__ import annotations

LINEAR_ELEMENTWISE = frozenset("add sub rsub mul div neg multiply divide subtract lerp addcmul addcdiv".split())
NONLINEAR_ELEMENTWISE = frozenset(
    "silu sigmoid hardsigmoid hardswish gelu tanh leaky_relu elu celu selu mish softplus prelu softsign pow exp log "
    "sqrt rsqrt abs clamp clamp_min clamp_max clip hardtanh minimum maximum fmin fmax threshold rrelu square sign sgn "
    "heaviside reciprocal round floor ceil trunc frac where masked_fill erf sin cos relu relu6 log1p expm1 hardshrink "
    "softshrink tanhshrink logsigmoid log_sigmoid".split()
)
COMPARISONS = frozenset(
    "gt ge lt le eq ne greater greater_equal less less_equal not_equal logical_and logical_or logical_not logical_xor "
    "bitwise_and bitwise_or bitwise_not isnan isinf isfinite to _to_copy type_as nan_to_num detach".split()
)
ELEMENTWISE = LINEAR_ELEMENTWISE | NONLINEAR_ELEMENTWISE | COMPARISONS
