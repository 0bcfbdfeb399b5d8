"""`python -m paumer` is the command `paumer`."""

from paumer.cli import main

if __name__ == "__main__":
    main()
