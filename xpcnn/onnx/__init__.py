"""Trained networks as ONNX files, for onnxruntime and all that reads the format; needs the extra `onnx`."""

from .export import ExportError, export

__all__ = ["ExportError", "export"]
