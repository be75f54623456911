"""`python -m benchmarks` (or `make bench`): every benchmark, each with its goal."""

from __future__ import annotations

import sys

from benchmarks import first_run

sys.exit(first_run.main())
