"""What C libraries print does not reach the terminal while images are decoded, and the command's own words do."""

import subprocess
import sys

SCRIPT = """
import os, sys, threading
from shoal.noise import muffled, own_words

def noise(text):
    os.write(2, text)

noise(b"before\\n")
with muffled():
    noise(b"not ours to silence\\n")
with own_words():
    print("a word", file=sys.stderr)
    noise(b"between\\n")
    with muffled():
        noise(b"hidden\\n")
        with muffled():
            noise(b"hidden\\n")
        noise(b"hidden\\n")
        thread = threading.Thread(target=noise, args=(b"hidden\\n",))
        thread.start(), thread.join()
        print("another", file=sys.stderr)
    noise(b"after\\n")
print("last", file=sys.stderr)
"""


def test_only_what_others_print_is_muffled():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stderr.split("\n") == [
        "before",
        "not ours to silence",
        "a word",
        "between",
        "another",
        "after",
        "last",
        "",
    ]


def test_a_command_without_a_standard_error_runs():
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m shoal --version 2>&-"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("shoal ")
