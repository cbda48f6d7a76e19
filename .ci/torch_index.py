"""Prints pip's option for the builds of PyTorch without CUDA, where those with it would be 8 GB for nothing.

That is Linux on x86 without an NVIDIA GPU; elsewhere the ordinary builds are small. If the index does not answer, pip
uses what it is configured for.
"""

import os
import platform
import shutil
import sys
import urllib.request

INDEX = os.environ.get("TORCH_CPU_INDEX", "https://download.pytorch.org/whl/cpu")


def main() -> None:
    """Prints the option, or nothing."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or shutil.which("nvidia-smi"):
        return
    try:
        with urllib.request.urlopen(f"{INDEX}/torch/", timeout=5):
            print(f"--extra-index-url {INDEX}")
    except OSError as error:
        print(f"PyTorch's index of CPU builds does not answer ({error}): pip uses its own index", file=sys.stderr)


if __name__ == "__main__":
    main()
