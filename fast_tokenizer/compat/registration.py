"""`AutoProcessor` without remote code."""

from __future__ import annotations

from fast_tokenizer.compat.processor import FastProcessor


class UniversalActionProcessor(FastProcessor):
    """The name that published FAST artefacts give their class."""


def register_auto_processor() -> None:
    """Makes ``AutoProcessor.from_pretrained`` give a `FastProcessor` without running code from a folder or the hub.

    That holds for folders that `export_hf` wrote and for published FAST artefacts, `physical-intelligence/fast`
    included. With ``trust_remote_code=True``, transformers 5 prefers what is registered; transformers 4 runs the
    artefact's own code all the same. Call it once, before the loading; a second call changes nothing.

    Raises:
        ImportError: The package `transformers` is missing.
    """
    from transformers import AutoProcessor

    # What is looked up is the name of the class. The keys, meant for the classes of model configurations, are not.
    for processor in (FastProcessor, UniversalActionProcessor):
        AutoProcessor.register(processor, processor, exist_ok=True)
