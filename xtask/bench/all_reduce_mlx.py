"""One rank of an all_reduce by MLX's ring: BYTES ROUNDS CHAIN. A graph holds CHAIN sums, each of the one before, so that
Python's part and the evaluation's are shared among them. Rank 0 prints the median of a sum in microseconds."""

import sys
import time

import mlx.core as mx

n_bytes, n_rounds, n_chain = (int(arg) for arg in sys.argv[1:4])
group = mx.distributed.init(strict=True, backend="ring")
assert group.size() == 2, group.size()
mx.set_default_device(mx.cpu)
x = mx.zeros(n_bytes // 4, mx.float32)
mx.eval(x)
n_evals = max(n_rounds // n_chain, 3)
times = []
for _ in range(n_evals + n_evals // 10 + 1):
    y = x
    start = time.perf_counter_ns()
    for _ in range(n_chain):
        y = mx.distributed.all_sum(y, group=group)
    mx.eval(y)
    times.append((time.perf_counter_ns() - start) / n_chain)
if group.rank() == 0:
    counted = sorted(times[-n_evals:])
    print(counted[n_evals // 2] / 1000)
