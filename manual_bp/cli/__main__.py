"""`python -m manual_bp.cli`: the same as `python -m manual_bp`."""

from manual_bp.cli import main

if __name__ == "__main__":
    main()
