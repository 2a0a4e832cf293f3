"""`python -m zhiyin`: the command line."""

from zhiyin.cli.main import main

if __name__ == "__main__":
    main()
