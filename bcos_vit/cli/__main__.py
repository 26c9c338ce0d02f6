"""``python -m bcos_vit.cli`` is ``bcos-vit``."""

import sys

from bcos_vit.cli.main import main

sys.exit(main())
