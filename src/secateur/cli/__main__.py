"""``python -m secateur.cli`` is the command line."""

from secateur.__main__ import main

if __name__ == "__main__":
    main()
