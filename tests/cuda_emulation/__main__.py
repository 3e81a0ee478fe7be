"""The command `xpcnn` with two emulated GPUs, from a clone.

PYTHONPATH=tests python -m cuda_emulation parity run --devices cpu,cuda
"""

import sys

import cuda_emulation

if __name__ == "__main__":
    cuda_emulation.install()
    from xpcnn.__main__ import main

    sys.exit(main())
