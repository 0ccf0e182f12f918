"""The command line: `fast-tokenizer fit | encode | decode | inspect | demo`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line. Bad input ends in one line on stderr and exit code 1; bad usage in 2."""
    from fast_tokenizer.cli.app import app

    try:
        app()
    except (ValueError, OSError, MemoryError) as error:
        print(f"fast-tokenizer: {error or type(error).__name__}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
