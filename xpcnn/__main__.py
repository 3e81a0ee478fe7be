"""The command `xpcnn`, also as `python -m xpcnn`."""

import contextlib
import sys


def main() -> int:
    """Run the command line and return its exit code; Ctrl-C is one line, also while modules are being imported."""
    try:
        from .cli import main as run

        return run()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print("xpcnn: interrupted", file=sys.stderr, flush=True)
        return 130


if __name__ == "__main__":
    sys.exit(main())
