"""Analysis of passes and layers: gates and their gradients, gradient flow, Jacobians, Lyapunov
exponents, fixed points; and the difference of two models."""

from xrnn.analysis.difference import difference
from xrnn.analysis.dynamics import jacobian, lyapunov
from xrnn.analysis.fixed_points import fixed_points
from xrnn.analysis.gates import gate_gradients, gates
from xrnn.analysis.gradient_flow import gradient_flow

__all__ = [
    "difference",
    "fixed_points",
    "gate_gradients",
    "gates",
    "gradient_flow",
    "jacobian",
    "lyapunov",
]
