"""`python -m freeprompt`."""

from freeprompt.cli import main

if __name__ == "__main__":
    main()
