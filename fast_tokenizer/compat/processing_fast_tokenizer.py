"""FAST action tokenizer: the class that `transformers` loads from this folder. Needs the package `fast-tokenizer`."""

from fast_tokenizer.compat.processor import FastProcessor

__all__ = ["FastProcessor"]
