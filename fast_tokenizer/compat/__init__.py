"""The published FAST world: its artefacts, exactly, and objects that are called like its processor.

`FastTokenizer.from_pretrained`, `FastTokenizer.fit(compat="published")` and `FastTokenizer.save_pretrained` are the
ways in and out; what else there is for openpi, lerobot and `transformers` is here.
"""

from fast_tokenizer.compat.export import export_hf, push_to_hub
from fast_tokenizer.compat.openpi import OpenpiFastTokenizer
from fast_tokenizer.compat.processor import FastProcessor
from fast_tokenizer.compat.published import PublishedSpec
from fast_tokenizer.compat.registration import register_auto_processor

__all__ = [
    "FastProcessor",
    "OpenpiFastTokenizer",
    "PublishedSpec",
    "export_hf",
    "push_to_hub",
    "register_auto_processor",
]
