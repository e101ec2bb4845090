"""The package imports its functions when they are first used."""

import subprocess
import sys

THREADS = """
import pickle, sys, threading
import nsxr

sys.setswitchinterval(1e-6)
failed, found = [], {name: set() for name in nsxr.__all__}
start = threading.Barrier(8)

def use(first):
    start.wait()
    for name in [*nsxr.__all__[first:], *nsxr.__all__[:first]]:
        try:
            found[name].add(id(getattr(nsxr, name)))
        except ImportError as error:
            failed.append(error)

threads = [threading.Thread(target=use, args=(7 * n,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failed, failed
assert all(len(each) == 1 for each in found.values())
for name in nsxr.__all__:
    pickle.dumps(getattr(nsxr, name))
"""


def test_threads_that_use_functions_for_the_first_time_at_once():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
