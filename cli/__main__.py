"""`python -m cli`, for a checkout that is not installed."""

from .entry import main

if __name__ == "__main__":  # worker processes import this module too
    main()
