"""Folders of pictures, one subfolder a class: listed, decoded once to a file, and mapped from it."""

from .read import FolderImages, read_folder

__all__ = ["FolderImages", "read_folder"]
