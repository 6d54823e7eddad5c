"""Tests of `tune_malloc` by the page faults that the kernel counts."""

import platform
import resource
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from rnnjax.backends import malloc
if sys.argv[1] == "tuned":
  malloc.tune_malloc()
assert malloc.malloc_tuned == (sys.argv[1] == "tuned")
f = jax.jit(lambda x: (jnp.cumsum(jnp.sin(x)) * jnp.sin(x)[::-1]).sum())  # three temporary arrays
x = jnp.ones(4 << 20)
def num_faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def faults_of_eight_calls():
  before = num_faults()
  for _ in range(8):
    f(x).block_until_ready()
  return num_faults() - before

faults_of_eight_calls()
# The minimum, because the heap may still grow while threads free memory late.
print(min(faults_of_eight_calls() for _ in range(6)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_repeated_calls_cause_no_page_faults():
  """Eight calls with three arrays of 16 MiB each reuse memory that earlier calls have freed."""

  def num_faults(mode):
    command = [sys.executable, "-c", COUNT_FAULTS, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

  num_pages = 8 * (16 << 20) / resource.getpagesize()
  assert 10 * num_faults("tuned") < num_pages < num_faults("default")
