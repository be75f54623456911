"""QAI OS: one kernel for quantum, classical, AI and robot work.

`import qaios` costs nothing: what a notebook or script needs (`Mission`, `task`, `System`) is loaded when first
asked for, so that `qai --help` stays fast and no SDK is imported by accident.
"""

from __future__ import annotations

__version__ = "0.1.0"
