"""pyfuse3, with other threads at work while it writes a large reply: see _reply.c.

Whoever needs pyfuse3 takes it from here, as _reply has to be there before it.
"""

from __future__ import annotations

import os
import sys

_usual_flags = sys.getdlopenflags()
sys.setdlopenflags(_usual_flags | os.RTLD_GLOBAL)
try:
    from mount import _reply
finally:
    sys.setdlopenflags(_usual_flags)

import pyfuse3 as pyfuse3  # noqa: E402, TID251  # finds _reply's function when it is loaded

_reply.stand_for(pyfuse3.__file__)
