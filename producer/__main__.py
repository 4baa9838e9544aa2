"""``python -m producer`` runs ``dbt-relay``."""

from __future__ import annotations

import sys

from producer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
