"""What every test shares: fixed seeds, one thread, and a watch over the models that the public face is given."""

from __future__ import annotations

import os
import random
import signal
import threading

import numpy as np
import pytest
import torch
from hypothesis import settings

from untouched_guard import install

settings.register_profile("secateur", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("secateur")
torch.set_num_threads(1)
install()
# Studies run in this process unless a test says otherwise: it may have replaced a function that cells call.
os.environ["SECATEUR_JOBS"] = "1"
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in the background has processes ignore Ctrl-C, which some tests are about.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Start every test from the same global random state, so that order does not matter."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  (libraries that read the global state)
    torch.manual_seed(0)
