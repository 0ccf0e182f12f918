"""`python -m fast_tokenizer` is `fast-tokenizer`."""

from fast_tokenizer.cli import main

if __name__ == "__main__":
    main()
