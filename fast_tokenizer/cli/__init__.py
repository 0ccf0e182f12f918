"""The command line: `fast-tokenizer fit | fit-mixture | encode | decode | sidecar | inspect | report | demo`."""

from __future__ import annotations

import sys

from fast_tokenizer._plain_text import plain_text


def main() -> None:
    """Runs the command line. What goes wrong ends in one line on stderr.

    Exit codes: 1 for bad input or a missing package, 2 for bad usage, 130 for an interruption.
    """
    from fast_tokenizer.errors import ClusterError

    try:
        from fast_tokenizer.cli.app import app

        code = app(standalone_mode=False)
    except (ValueError, OSError, MemoryError, OverflowError, ImportError, ClusterError) as error:
        _fail(str(error) or type(error).__name__, 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:  # typer's usage errors have no public base class in all its versions
        if not hasattr(error, "format_message"):
            if type(error).__name__ == "Abort":  # Ctrl-C, as typer passes it on
                _fail("interrupted", 130)
            raise
        _fail(error.format_message() or "see --help", getattr(error, "exit_code", 2))
    if code == 130:  # typer's way of saying the same
        _fail("interrupted", 130)
    raise SystemExit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(f"fast-tokenizer: {plain_text(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(code) from None
