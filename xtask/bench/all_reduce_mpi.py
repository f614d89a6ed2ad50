"""One rank of an all_reduce by OpenMPI: BYTES ROUNDS. Rank 0 prints the median in microseconds."""

import sys
import time

import numpy
from mpi4py import MPI

n_bytes, n_rounds = int(sys.argv[1]), int(sys.argv[2])
x = numpy.zeros(n_bytes // 4, numpy.float32)
comm = MPI.COMM_WORLD
assert comm.size == 2, comm.size
times = []
for _ in range(n_rounds + n_rounds // 10 + 1):
    start = time.perf_counter_ns()
    comm.Allreduce(MPI.IN_PLACE, x)
    times.append(time.perf_counter_ns() - start)
if comm.rank == 0:
    counted = sorted(times[-n_rounds:])
    print(counted[n_rounds // 2] / 1000)
