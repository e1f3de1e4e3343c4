"""`python -m saliency_bench`: the command line."""

import sys

from saliency_bench.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
