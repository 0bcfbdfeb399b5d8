"""PAUMER: segmentation transformers whose certain patches pause."""

__version__ = "0.1.0"
