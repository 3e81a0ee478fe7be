"""A network of one's own that fails in a chosen way: in process 1, most often at the third training step."""

import os
import signal

import xpcnn.training.agreement
import xpcnn.training.config
from xpcnn import nn
from xpcnn.distributed import rank_started
from xpcnn.random import stream

FAULT = os.environ.get("FAULT", "") if rank_started() == 1 else ""
if FAULT == "version":
    xpcnn.training.agreement.__version__ = "0.0.9"
if FAULT == "data":
    load = xpcnn.training.config.load_parts
    xpcnn.training.config.load_parts = lambda *args, **named: [
        part.subset(slice(9, 99)) for part in load(*args, **named)
    ]


class Faulty(nn.Sequential):
    calls = 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 3:
            if FAULT == "exception":
                raise ValueError("a fault of the test")
            if FAULT == "memory":
                raise MemoryError("for 8 GB")
            if FAULT.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, FAULT))
        y = super().forward(x)
        return y * 1.001 if FAULT == "wrong" and self.training else y


def make(in_shape, classes, *, seed):
    rng = stream(seed, "init")
    hidden = nn.Linear(49, 16, rng=rng), nn.BatchNorm1d(16)
    return Faulty(nn.MaxPool2d(4), nn.Flatten(), *hidden, nn.Linear(16, classes, rng=rng))
