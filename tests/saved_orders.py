"""Orders that `testdata/make_saved.py` records and `test_saved.py` computes anew, and states in the middle of them."""

import hashlib
import json
from itertools import islice

import numpy as np
from feedline.torch import (
    DistributedBatchSampler,
    DistributedMixtureSampler,
    DistributedSampler,
    DistributedWeightedSampler,
)


def short(content):
    """The beginning of a SHA-256."""
    return hashlib.sha256(content).hexdigest()[:16]


def noise(shape, seed=0):
    """Bytes that look random: a function of place and seed."""
    place = np.arange(int(np.prod(shape)), dtype=np.uint64) + np.uint64(seed * 1_000_003)
    for factor in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9):
        place = (place ^ (place >> np.uint64(31))) * np.uint64(factor)
    return (place >> np.uint64(40)).astype(np.uint8).reshape(shape)


def weights(count):
    """Weights of samples, one of which is 0 in places."""
    return [(number * 7 % 5) / 4 + (number % 3 == 0) for number in range(count)]


# Orders, by the command line.

ORDERS = {
    "torch": [],
    "unshuffled": ["--no-shuffle"],
    "keyed": ["--permutation", "feistel"],
    "virtual epochs": ["--epoch-length", 37],
    "virtual epochs, keyed": ["--epoch-length", 7, "--permutation", "feistel"],
    "virtual epochs, unshuffled": ["--epoch-length", 7, "--no-shuffle"],
    "merged": ["--merge-epochs", 3],
    "merged, unshuffled": ["--merge-epochs", 2, "--no-shuffle"],
    "weighted": ["--weights", "weights.txt"],
    "weighted, virtual epochs": ["--weights", "weights.txt", "--epoch-length", 37],
    "mixture": ["--mix", "20:0.5,2:2,1:0.25"],
    "mixture, keyed": ["--mix", "20:0.5,2:2,1:0.25", "--permutation", "feistel", "--epoch-length", 50],
}


def command_line_plans(feedline_ok, folder):
    """Name and record of each call of `feedline plan`; `feedline_ok` runs the program and gives what it prints."""
    (folder / "weights.txt").write_text("".join(f"{weight}\n" for weight in weights(23)))
    for order, words in ORDERS.items():
        words = [folder / word if word == "weights.txt" else word for word in words]
        for tail in ("pad", "drop", "exact"):
            record = {}
            for ranks, seed, epoch in [(1, 0, 0), (3, 0, 0), (4, 2**63 + 11, 5)]:
                args = ["plan", "--len", 23, "--num-replicas", ranks, "--seed", seed, "--epoch", epoch, "--tail", tail, *words]
                text = feedline_ok(*args, "--format", "json")
                last = json.loads(text)["ranks"][-1]["indices"]
                place = f"rank {ranks - 1} of {ranks}, seed {seed}, epoch {epoch}"
                record[place] = [" ".join(map(str, last[:9])), f"sha256 {short(text.encode())}"]
                indices = feedline_ok(*args, "--format", "indices", "--rank", ranks - 1)
                assert [int(line) for line in indices.splitlines()] == last
            yield f"{order}, {tail}", record
        table = feedline_ok("plan", "--len", 23, "--num-replicas", 3, "--epoch", 1, *words)
        # The rows, and not the words around them.
        yield f"{order}, table", [line for line in table.splitlines() if line[:1].isdigit() and "ranks, seed" not in line]


# Orders, by the samplers: which ranks get what, and states.

MIX = {"lengths": [20, 2, 1], "num_samples_per_epoch": 40}


def _torch(**order):
    return lambda tail, seed, ranks, rank, **_: DistributedSampler(range(23), ranks, rank, seed=seed, tail=tail, **order)


SAMPLERS = {
    "torch": _torch(),
    "unshuffled": _torch(shuffle=False),
    "keyed": _torch(permutation="feistel"),
    "virtual epochs": _torch(epoch_length=37),
    "virtual epochs, keyed": _torch(epoch_length=7, permutation="feistel"),
    "merged": _torch(merge_epochs=3),
    "merged, keyed": _torch(merge_epochs=2, permutation="feistel"),
    "weighted": lambda tail, seed, ranks, rank, **_: DistributedWeightedSampler(weights(23), 29, ranks, rank, seed, tail=tail),
    "mixture": lambda tail, seed, ranks, rank, shares=(0.5, 2, 0.25): DistributedMixtureSampler(
        None, shares, num_replicas=ranks, rank=rank, seed=seed, tail=tail, **MIX
    ),
    "mixture, keyed": lambda tail, seed, ranks, rank, shares=(0.5, 2, 0.25): DistributedMixtureSampler(
        None, shares, num_replicas=ranks, rank=rank, seed=seed, tail=tail, permutation="feistel", **MIX
    ),
    "trillion": lambda tail, seed, ranks, rank, **_: DistributedSampler(
        range(10**12), 4096 * ranks, 4095 * ranks + rank, seed=seed, tail=tail, permutation="feistel"
    ),
}
# Of each sample, for buckets.
LENGTHS = [int(length) for length in noise(23, 5)]


def indices_of(sampler):
    """The beginning of a pass."""
    return list(islice(sampler, 50))


def sampler_orders():
    """Name and record of each sampler and tail."""
    for name, make in SAMPLERS.items():
        for tail in ("pad", "drop", "exact"):
            record = {}
            for ranks, seed in [(1, 0), (3, 5), (4, 2**63 + 11)]:
                dealt = []
                for epoch in (0, 1, 7):
                    samplers = [make(tail, seed, ranks, rank) for rank in range(ranks)]
                    [sampler.set_epoch(epoch) for sampler in samplers]
                    dealt.append([indices_of(sampler) for sampler in samplers])
                first = " ".join(map(str, dealt[-1][-1][:9]))
                record[f"rank {ranks - 1} of {ranks}, seed {seed}, epoch 7"] = [first, f"sha256 {short(str(dealt).encode())}"]
            yield f"{name}, {tail}", record
    for tail in ("pad", "drop", "exact"):
        record = {}
        for ranks in (1, 2, 3):
            for window in (None, 12):
                options = {"lengths": LENGTHS, "window": window, "tail": tail}
                samplers = [DistributedBatchSampler(range(23), 2, ranks, rank, seed=3, **options) for rank in range(ranks)]
                dealt = []
                for epoch in range(2):
                    [sampler.set_epoch(epoch) for sampler in samplers]
                    dealt.append([list(sampler) for sampler in samplers])
                record[f"rank 0 of {ranks}, window {window}, epoch 0"] = [str(dealt[0][0]), f"sha256 {short(str(dealt).encode())}"]
        yield f"buckets, {tail}", record


def sampler_state(name, tail):
    """A state in the middle of epoch 2, on two ranks."""
    if name == "buckets":
        sampler = DistributedBatchSampler(range(23), 2, 2, 0, seed=3, lengths=LENGTHS, window=12, tail=tail)
        sampler.set_epoch(2)
        list(islice(sampler, 2))
        return sampler.state_dict()
    sampler = SAMPLERS[name](tail, 5, 2, 0)
    sampler.set_epoch(2)
    list(islice(sampler, 3))
    return sampler.state_dict()


def sampler_goes_on(name, tail, state):
    """What ranks get after a state, and in the epoch after it; their state in the middle of that."""
    record = {}
    # A bucket is cut into steps of all ranks together, so a state goes on where these have as many samples: four.
    for ranks in (1, 2) if name == "buckets" else (1, 2, 3):
        for rank in range(ranks):
            if name == "buckets":
                sampler = DistributedBatchSampler(range(23), 4 // ranks, ranks, rank, seed=3, lengths=LENGTHS, window=12, tail=tail)
            else:
                sampler = SAMPLERS[name](tail, 5, ranks, rank)
            sampler.load_state_dict(state)
            rest = list(islice(sampler, 30))
            sampler.set_epoch(3)
            record[f"rank {rank} of {ranks}"] = [str(rest), str(list(islice(sampler, 3)))]
    record["next state"] = sampler.state_dict()
    if name.startswith("mixture"):
        sampler = SAMPLERS[name](tail, 5, 1, 0, shares=(1, 1, 6))
        sampler.load_state_dict(state)
        record["other weights"] = [str(list(sampler)), sampler.state_dict()]
    return record


def sampler_states():
    """Name and record of each state."""
    for name in (*SAMPLERS, "buckets"):
        for tail in ("pad", "drop", "exact"):
            state = sampler_state(name, tail)
            yield f"{name}, {tail}", {"state": state, "goes on": sampler_goes_on(name, tail, state)}


def all_of(feedline_ok, folder):
    """Name and record of everything here."""
    for kind, pairs in {
        "plan": command_line_plans(feedline_ok, folder),
        "sampler": sampler_orders(),
        "state": sampler_states(),
    }.items():
        for name, record in pairs:
            yield f"{kind}: {name}", record
