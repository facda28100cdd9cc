"""Analysis of a pass: gates and their gradients, gradient flow, Jacobians, Lyapunov exponents."""

from xrnn.analysis.dynamics import jacobian, lyapunov
from xrnn.analysis.gates import gate_gradients, gates
from xrnn.analysis.gradient_flow import gradient_flow

__all__ = ["gate_gradients", "gates", "gradient_flow", "jacobian", "lyapunov"]
