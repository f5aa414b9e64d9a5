"""Imported in the process that others are forked from: it ends at once when the main one does.

It would end by itself, but only after all that it imports at its start.
"""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1

ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == 1:  # it has ended already
    os._exit(1)
