"""``python -m cloudpush`` is the command line."""

from cloudpush.cli.main import main

if __name__ == "__main__":
    main()
