"""Entry point of ``python -m fer_edge``."""

import sys

from fer_edge.cli import main

if __name__ == "__main__":
    sys.exit(main())
