"""How far two correct computations of the same thing may differ, by kind of operation, length and precision.

No number here is tuned until tests pass: each is a bound on rounding errors. The bounds are made of

- `u`, the unit roundoff: half the distance from 1 to the next number of the format;
- `K`, the number of terms in a sum;
- `scale`, the size of the numbers that are rounded. A tolerance is relative to it.

**Sums and products of length K.** In the worst case the error is `K·u` times the sum of the terms' magnitudes (Higham
2002, section 3.1). That would take all rounding errors to have the same sign. Independent errors of mean 0 add up like
a random walk, to `√K·u` (Higham and Mary 2019). In detail: let `y` be the result and `S` the root of the sum of squared
terms, which is the size of a sum of terms with random signs. The partial sum of i of the K terms is rounded by at most
`u` of itself, and its square is on average `y²/3 + S²/2`. An error evenly distributed in ±u has the standard deviation
`u/√3`. So the error on one device has the standard deviation `√K·u/√3·√(y²/3 + S²/2) ≤ 0.53·√K·u·max(|y|, S)`, and the
difference of two devices `√2` times that. Six standard deviations, which one element in 500 million exceeds, make
`4.5·√K·u`. Blocked sums, as all fast libraries use them, stay well below. With `scale = max(|y|, S)` over the array
this holds for sums that cancel, too.

Two things break the independence. `xpcnn.parity.bounds` looks for both in the data:

- Where neighbouring terms are alike, partial sums wander farther than S. Their largest value then takes the place of S.
- Where n terms are the same number, their errors are the same, too. Then `√(K + n²)` takes the place of `√K`.

**Elementwise** functions round each intermediate result once. CUDA's exp, log, tanh and erf are off by 1 or 2 units in
the last place, 2 to 4 `u`, like those of NumPy. Eight roundings in a row on each device, all of the same sign, make
`16·u` of the largest value.

**Normalization** sums K elements and then takes a few elementwise steps. Its scale includes the ratio of mean to
standard deviation, since an error in the mean is divided by the standard deviation.

**Loss** is a sum of K elementwise results.

**TF32** keeps sums in float32, but rounds both factors of a product to 11 significant bits, perhaps by truncation. This
is an error of up to 2⁻¹⁰ of each factor in every term, so with random signs `6·√2·2⁻¹⁰/√3` of S. It affects products
only.

**Mixed precision** rounds both factors to float16, 11 significant bits, to nearest. Products of such numbers are exact
in float32. Devices that are given the same numbers round them to the same float16 numbers, so a layer's results differ
by the sums only. Tensor cores add several products to the running sum at once; all of them are cut off, not rounded, at
the last place of the largest, and so is the result. Fasi, Higham, Mikaitis and Pranesh (2021) found this in the V100,
T4 and A100; newer GPUs are taken to be no worse. So an error is up to `2⁻²³ = 2·u` of the running sum, which doubles
the `4.5·√K·u` above. And where all terms have one sign, so have their errors: each is on average half of that, and the
running sum on average half of the result, which makes `K/4·2⁻²³` more. Sums of more than 80,000 terms are split among
processors.

In a whole network the factors differ already by a rounding error before they are rounded to float16: some are then
rounded up on one device and down on the other. For each product, that is an error of up to 2⁻¹¹ of each factor in every
term, with random signs `6·√2·2⁻¹¹/√3` of S: see `operand_tolerance`.

**float16** products are summed in float32 and rounded once to float16 (`u = 2⁻¹¹`), by cuBLAS, by CuPy's reductions and
by NumPy's products alike. Elementwise steps round each time.

Training amplifies rounding errors from step to step, depending on the network and its data. This growth is not derived
but measured for each trace: see `xpcnn.parity.drift`.

- N. J. Higham, Accuracy and Stability of Numerical Algorithms, second edition, SIAM 2002.
- M. Fasi, N. J. Higham, M. Mikaitis and S. Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Comput. Sci. 7,
  2021.
- N. J. Higham and T. Mary, A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41 (5), 2019.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal, get_args

import numpy as np

Kind = Literal["exact", "elementwise", "product", "reduction", "normalization", "loss"]
Precision = Literal["float64", "float32", "tf32", "mixed", "float16"]

UNIT: dict[Precision, float] = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "tf32": 2.0**-24,
    "mixed": 2.0**-24,
    "float16": 2.0**-11,
}
_FACTOR = {"tf32": 2.0**-10, "mixed": 2.0**-11}  # the largest relative rounding error of a product's factors
_SPLIT = 80_000  # the most terms that a tensor core sums
_SUM = 6 * sqrt(2 / 3 * 5 / 6)  # six standard deviations of the difference of two sums, in √K·u·scale
_ELEMENTWISE = 16


def tolerance(kind: Kind, length: int = 1, precision: Precision = "float32") -> float:
    """Return the largest difference between two devices that rounding explains, relative to the scale of the result.

    Args:
        kind: of operation: `"exact"` (moves or selects values), `"elementwise"`, `"product"` (matrix product or
            convolution), `"reduction"` (a plain sum), `"normalization"`, or `"loss"` (a sum of elementwise results).
        length: the number of terms K that are summed for one element of the result; 1 where nothing is summed.
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
        if precision == "mixed":
            return 2 * summed + min(length, _SPLIT) / 4 * 2.0**-23 + stored
        return summed + stored + (operand_tolerance(precision) if precision == "tf32" else 0.0)
    if kind == "reduction":
        return summed + stored
    return summed + _ELEMENTWISE * UNIT[precision]


def operand_tolerance(precision: Precision) -> float:
    """Return what is due to rounding the factors of a product differently on two devices, relative to its scale."""
    return 6 * sqrt(2 / 3) * _FACTOR.get(precision, 0.0)


def precision_of(dtype: object, tf32: bool = False, mixed: bool = False) -> Precision:
    """Return the precision in which a device computes arrays of a dtype.

    Args:
        dtype: of the arrays.
        tf32: whether the device may use TF32 in products.
        mixed: whether products are in mixed precision.

    Raises:
        ValueError: if there are no tolerances for that dtype.
    """
    name = np.dtype(dtype).name  # type: ignore[call-overload]
    if name == "float32" and tf32:
        return "tf32"
    if name == "float32" and mixed:
        return "mixed"
    for precision in get_args(Precision):
        if precision == name:
            return precision  # type: ignore[no-any-return]
    raise ValueError(f"expected float64, float32 or float16, got {name}")


def tolerance_table() -> str:
    """Return the tolerances as a table in Markdown, for sums of a few lengths."""
    rows: list[tuple[str, Kind, int]] = [("elementwise", "elementwise", 1)]
    for kind in ("product", "reduction", "normalization", "loss"):
        rows += [(f"{kind}, K = {length:,}", kind, length) for length in (25, 576, 50_000)]
    names = get_args(Precision)
    lines = [f"| relative to the scale | {' | '.join(names)} |", "| --- " * (1 + len(names)) + "|"]
    for label, kind, length in rows:
        cells = " | ".join(f"{tolerance(kind, length, precision):.1e}" for precision in get_args(Precision))
        lines.append(f"| {label} | {cells} |")
    return "\n".join(lines)
