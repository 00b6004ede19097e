"""torch.randperm and torch DistributedSampler at length n: time to start, to the first index and to draw rank 0's all.

    python sampler_torch.py torch-distributed N WORLD
"""

import json
import sys
import time

import torch
from torch.utils.data import DistributedSampler

name, length, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
at = time.perf_counter()
if name == "torch-randperm":
    torch.manual_seed(0)
    order = torch.randperm(length)
    start = first = draw = time.perf_counter() - at
    drawn = len(order)
else:
    sampler = DistributedSampler(range(length), num_replicas=world, rank=0, seed=0)
    start = time.perf_counter() - at
    indices = iter(sampler)
    next(indices)
    first = time.perf_counter() - at
    drawn = 1 + sum(1 for _ in indices)
    draw = time.perf_counter() - at
assert drawn == -(-length // world)
print(json.dumps({"start_seconds": start, "first_index_seconds": first, "draw_seconds": draw, "indices": drawn}))
