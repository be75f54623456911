"""A hub that dies by SIGKILL at a given point of storing: `python crashing_hub.py POINT --home DIR`."""

import os
import signal
import sys

from qaios.hub.server import main


def die_at(point: str, reached: str) -> None:
    if reached == point:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    point = sys.argv[1]
    sys.exit(main(sys.argv[2:], step=lambda reached: die_at(point, reached)))
