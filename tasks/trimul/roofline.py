"""The least time that a call can take: what must be computed over the peak, what must be moved over the bandwidth.

Peaks are upper bounds for any machine of the kind, not this one's: a time below the floor cannot be true.
"""

from tasks.trimul.settings import Device
from tasks.trimul.shapes import Shape

_FLOPS: dict[Device, float] = {"cpu": 5.0e9 * 2 * 2 * 16, "cuda": 2.5e15}
"""cpu: 5 GHz, 2 units of 16 fused multiply-adds in float32 a cycle. CPU seconds add up over cores, so one core
is the bound. cuda: dense half precision of the fastest card of 2025."""
_BYTES: dict[Device, float] = {"cpu": 4.0e11, "cuda": 8.0e12}


def flops(shape: Shape) -> float:
    """Floating-point operations of the six projections and the contraction; the rest is small."""
    places = shape.batch * shape.n * shape.n
    return 2.0 * places * shape.hidden * (6 * shape.dim + shape.n)


def moved(shape: Shape) -> float:
    """Bytes: x read once, the result written once."""
    return 2.0 * 4 * shape.batch * shape.n * shape.n * shape.dim


def floor_s(shape: Shape, device: Device) -> float:
    """Least seconds that a call can take."""
    return max(flops(shape) / _FLOPS[device], moved(shape) / _BYTES[device])
