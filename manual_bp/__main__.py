"""`python -m manual_bp` and the script `manual-bp`: the command line, which Ctrl-C ends in a word at any time."""

from __future__ import annotations

import signal

from manual_bp.interruption import interrupt


def main() -> None:
    """The entry point of the script `manual-bp`."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored (nohup), or somebody's own
        signal.signal(signal.SIGINT, interrupt)
    from manual_bp.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
