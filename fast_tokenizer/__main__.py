"""`python -m fast_tokenizer` is `fast-tokenizer`."""

from fast_tokenizer.cli import main

main()
