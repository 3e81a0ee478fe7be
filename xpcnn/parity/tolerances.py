"""How far two right computations of the same thing may lie apart, by kind of operation and precision.

Nothing here is tuned until tests pass. Every entry is a bound on rounding errors, made of

- `u`, the unit roundoff: half the distance from 1 to the next number of the format;
- `K`, the number of terms in a sum: each term of a sum of K has passed through up to K roundings;
- `scale`, the size of the numbers in which the rounding happens (below), to which a tolerance is relative.

**Sums and products of length K.** In the worst case the error is `K·u` times the sum of the terms' magnitudes (Higham
2002, section 3.1). It would take all roundings to conspire: as independent errors of mean 0 they add up like a random
walk, to `√K·u` (Higham and Mary 2019). In detail, the partial sum after i of K terms is rounded by at most `u` of
itself; its square is on average `y²/3 + S²/2`, where `y` is the result and `S` the root of the sum of squared terms,
the size of a sum of terms with random signs. An error evenly distributed in ±u has the standard deviation `u/√3`. So
the error of one device has the standard deviation `√K·u/√3·√(y²/3 + S²/2) ≤ 0.53·√K·u·max(|y|, S)`, and the difference
of two devices `√2` times that. Six standard deviations (one element in a thousand million) make `4.5·√K·u`. Blocked
sums, as all fast libraries use, stay well below. With `scale = max(|y|, S)` over the array this holds for sums that
cancel, too. Two things break the independence, and both are looked for in the data (`xpcnn.parity.bounds`): where
neighbouring terms are alike, partial sums wander farther than S, and their largest value takes its place; where n terms
are one and the same number, their errors are too, and `√(K + n²)` takes the place of `√K`.

**Elementwise** functions round each intermediate result once; CUDA's exp, log, tanh and erf are off by 1 or 2 units of
the last place, 2 to 4 `u`, like those of NumPy. Eight roundings in a row on each device make `16·u` of the largest
value, should all of them conspire.

**Normalization** sums K elements and then takes a handful of elementwise steps; scale includes how large the mean is
beside the deviation, as an error in the mean is divided by the deviation.

**Loss** is a sum of elementwise terms.

**TF32** keeps float32 sums, but cuts both factors of a product to 11 significant bits: an error of up to 2⁻¹⁰ of each
(it may be truncated) in every term, so with random signs `6·√2·2⁻¹⁰/√3` of S. It takes part in products only.

**float16** products are summed in float32 and rounded once to float16 (`u = 2⁻¹¹`), by cuBLAS, by CuPy's reductions and
by NumPy's products alike; elementwise steps round each time.

Training amplifies rounding errors from step to step, by as much as the network and its data make it. That is not
derived but measured, for each trace anew: see `xpcnn.parity.drift`.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal, get_args

import numpy as np

Kind = Literal["exact", "elementwise", "product", "reduction", "normalization", "loss"]
Precision = Literal["float64", "float32", "tf32", "float16"]

UNIT: dict[Precision, float] = {"float64": 2.0**-53, "float32": 2.0**-24, "tf32": 2.0**-24, "float16": 2.0**-11}
_SUM = 6 * sqrt(2 / 3 * 5 / 6)  # six standard deviations of the difference of two sums, in √K·u·scale
_ELEMENTWISE = 16


def tolerance(kind: Kind, length: int = 1, precision: Precision = "float32") -> float:
    """Return how far two devices may be apart, relative to the scale of the result.

    Args:
        kind: of operation: `"exact"` (moves or selects values), `"elementwise"`, `"product"` (matrix product or
            convolution), `"reduction"` (a plain sum), `"normalization"` or `"loss"`.
        length: how many terms one element of the result is summed from; 1 where nothing is summed.
        precision: of the computation.

    Raises:
        ValueError: if the kind or precision is unknown, or the length below 1.
    """
    if kind not in get_args(Kind) or precision not in get_args(Precision) or length < 1:
        raise ValueError(f"no tolerance for {kind!r} of length {length} in {precision!r}")
    if kind == "exact":
        return 0.0
    # Sums of float16 run in float32 and are rounded once.
    summed = _SUM * sqrt(length) * (UNIT["float32"] if precision == "float16" else UNIT[precision])
    stored = 2 * UNIT[precision]
    if kind == "elementwise":
        return _ELEMENTWISE * UNIT[precision]
    if kind == "product":
        return summed + stored + (6 * sqrt(2 / 3) * 2.0**-10 if precision == "tf32" else 0.0)
    if kind == "reduction":
        return summed + stored
    return summed + _ELEMENTWISE * UNIT[precision]


def precision_of(dtype: object, tf32: bool = False) -> Precision:
    """Return the precision in which arrays of a dtype are computed.

    Raises:
        ValueError: if there is no tolerance for that dtype.
    """
    name = np.dtype(dtype).name  # type: ignore[call-overload]
    if name == "float32" and tf32:
        return "tf32"
    for precision in get_args(Precision):
        if precision == name:
            return precision  # type: ignore[no-any-return]
    raise ValueError(f"expected float64, float32 or float16, got {name}")


def tolerance_table() -> str:
    """Return the tolerances as a Markdown table, for sums of a few lengths."""
    rows: list[tuple[str, Kind, int]] = [("elementwise", "elementwise", 1)]
    for kind in ("product", "reduction", "normalization", "loss"):
        rows += [(f"{kind}, K = {length:,}", kind, length) for length in (25, 576, 50_000)]
    lines = [f"| relative to the scale | {' | '.join(get_args(Precision))} |", "| --- | --- | --- | --- | --- |"]
    for label, kind, length in rows:
        cells = " | ".join(f"{tolerance(kind, length, precision):.1e}" for precision in get_args(Precision))
        lines.append(f"| {label} | {cells} |")
    return "\n".join(lines)
