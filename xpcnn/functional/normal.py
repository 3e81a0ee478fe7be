"""The normal distribution; NumPy has no error function."""

from __future__ import annotations

from ..backend import Array, array_namespace

# Φ(-a)·exp(a²/2) as a quotient of polynomials, highest power first; the denominator's is 1. Fitted by Lawson's
# algorithm with 60 digits, for a up to 14 and up to 38. The errors of Φ are below 4e-8 and 1e-18, those relative to Φ
# below 1e-6 and 1e-15. All coefficients are positive, so nothing cancels.
_SINGLE = (0.39887339, 2.90203887, 8.98143074, 12.73702671), (7.26767525, 23.61791814, 38.28808477, 25.47405534)
_DOUBLE = (
    (
        *(0.3989422803955366418, 11.30916109386839961, 155.3552018704826155, 1343.105078906152019),
        *(8008.24948738942805, 34076.60326759009197, 103590.5832930754705, 218019.3001265337294),
        *(291434.2851435954563, 193189.5944104528771),
    ),
    (
        *(28.34786295744326324, 390.4177418581460988, 3395.013017390591167, 20461.1227554424448),
        *(88727.33627192440891, 278968.1507668487413, 625457.9684983209535, 953887.4702867419307),
        *(891154.559662926633, 386379.1888209057543),
    ),
)


def normal_cdf_and_bell(x: Array, cdf: Array | None = None, bell: Array | None = None) -> tuple[Array, Array]:
    """Return Φ(x), the cumulative distribution function of the standard normal distribution, and `exp(-x²/2)`.

    The error of Φ is below 2e-7 for float32 and 1e-15 for float64. In the far lower tail, where Φ itself is tiny, its
    first five and twelve digits are correct.

    Args:
        x: of any shape.
        cdf, bell: the arrays to write them to, None for new ones.
    """
    xp = array_namespace(x)
    distance = xp.absolute(x)
    # Beyond, the bell is too small for any floating point number; in float16 sooner, and powers would overflow.
    xp.clip(distance, 0, 38 if x.dtype.itemsize > 2 else 6, out=distance)
    bell = xp.multiply(distance, distance, out=bell)
    bell *= -0.5
    xp.exp(bell, out=bell)
    numerator, denominator = _DOUBLE if x.dtype.itemsize > 4 else _SINGLE
    cdf = xp.multiply(distance, numerator[0], out=cdf)
    cdf += numerator[1]
    for coefficient in numerator[2:]:
        cdf *= distance
        cdf += coefficient
    divisor = distance + denominator[0]
    for coefficient in denominator[1:]:
        divisor *= distance
        divisor += coefficient
    cdf /= divisor
    cdf *= bell  # Φ(-|x|)
    divisor[...] = x > 0
    cdf -= divisor
    xp.absolute(cdf, out=cdf)  # 1 - Φ(-|x|) above 0
    return cdf, bell
