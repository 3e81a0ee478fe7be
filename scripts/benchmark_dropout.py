"""How fast dropout's masks are drawn, beside NumPy's own generator on the same machine.

    python scripts/benchmark_dropout.py [--device cuda]

Masks come from a counter-based generator, which gives the same mask on every device. NumPy's draws come from
`numpy.random.Generator` (PCG64), whose numbers exist on the host only: on a GPU they would have to be moved there, and
the figure says what that would cost. Medians over 21 rounds in which all take turns. A ratio above 1 means faster than
NumPy. Two cores of an AMD EPYC (Zen 4), NumPy 2.4: 0.7 for ten thousand elements, 0.9 to 1.0 for a hundred thousand,
1.1 for a million, 1.3 for eight million.
"""

import argparse
import statistics
import time

import numpy as np

import xpcnn
from xpcnn.random import counter_bits

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--device", default="cpu")
parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 8_000_000])
parser.add_argument("--rounds", type=int, default=21)
options = parser.parse_args()
device = xpcnn.device(options.device)
generator, threshold = np.random.default_rng(0), 0.3

print(f"{device.name}: {device.description}")
print(f"{'elements':>10}  {'xpcnn, ms':>9}  {'random, ms':>10}  {'integers, ms':>12}  ratio to the faster of NumPy's")
for size in options.sizes:
    contenders = {
        "xpcnn": lambda n=size: counter_bits(device.xp, n, (1, 2)) >= np.uint32(threshold * 2**32),
        "random": lambda n=size: device.asarray(generator.random(n, np.float32) >= np.float32(threshold)),
        "integers": lambda n=size: device.asarray(
            generator.integers(0, 2**32, n, np.uint32) >= np.uint32(threshold * 2**32)
        ),
    }
    times = {name: [] for name in contenders}
    for _ in range(options.rounds + 1):
        for name, draw in contenders.items():
            device.synchronize()
            started = time.perf_counter()
            draw()
            device.synchronize()
            times[name].append(1000 * (time.perf_counter() - started))
    median = {name: statistics.median(taken[1:]) for name, taken in times.items()}  # the first round warms up
    ratio = min(median["random"], median["integers"]) / median["xpcnn"]
    print(f"{size:>10,}  {median['xpcnn']:>9.3f}  {median['random']:>10.3f}  {median['integers']:>12.3f}  {ratio:.2f}")
