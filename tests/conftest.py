"""What every test runs under; before torch is imported."""

import os
import signal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does: see commands/console.py
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels run without a GPU; triton reads it when it is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may ask the hub, or wait for it
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the references in these tests are written for the CPU

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs behind it; tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["support.command"]
