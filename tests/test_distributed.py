"""Several processes that train together are one run: over loopback, four CPU devices each."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.test_resume import final, wait_for_step
from w2v_jax.training.loop import PREEMPTED

ROOT = Path(__file__).parent.parent
