"""``python -m bcos_vit`` is ``bcos-vit``."""

import sys

from bcos_vit.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
