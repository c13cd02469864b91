"""A small data-parallel training, over gloo on CPUs: the work of a rank whose placement is looked at from outside.

train.py FOLDER ddp|hand: trains a few steps, sees that the loss falls and that all ranks hold the same parameters, writes its
pid to FOLDER/LOCAL_RANK, and stays until FOLDER/stop is there. Gradients are averaged by torch's own wrapper, or by hand: the
wrapper imports torch's compiler first, which takes an emulated CPU longer than all the rest.
"""

import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

STEPS = 12
RATE = 0.02
STAY_SECONDS = 600


def train(rank: int, by_hand: bool) -> torch.nn.Module:
    """Fits a sum through each rank's own points."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.Linear(64, 1))
    if not by_hand:
        model = DistributedDataParallel(model)
    torch.manual_seed(rank + 1)
    inputs = torch.randn(128, 16)
    targets = inputs.sum(dim=1, keepdim=True)
    losses = []
    for _ in range(STEPS):
        loss = torch.nn.functional.mse_loss(model(inputs), targets)
        losses.append(loss.item())
        model.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            if by_hand:
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
            # Not torch.optim: it imports the compiler too.
            parameter.data -= RATE * parameter.grad
    if not losses[-1] < losses[0] / 2:
        sys.exit(f"rank {rank}: the loss did not fall: {losses}")
    return model


def agree(model: torch.nn.Module, rank: int) -> None:
    """Ends this rank where it does not hold the parameters of rank 0."""
    own = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    first = own.clone()
    dist.broadcast(first, src=0)
    if not torch.equal(own, first):
        sys.exit(f"rank {rank}: other parameters than rank 0 after {STEPS} steps")


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    model = train(rank, by_hand=sys.argv[2] == "hand")
    agree(model, rank)
    ready = folder / f"{os.environ['LOCAL_RANK']}.writing"
    ready.write_text(f"{os.getpid()}\n")
    ready.rename(ready.with_suffix(""))
    deadline = time.monotonic() + STAY_SECONDS
    while not (folder / "stop").exists():
        if time.monotonic() > deadline:
            sys.exit(f"rank {rank}: nobody wrote {folder / 'stop'} for {STAY_SECONDS} seconds")
        time.sleep(0.1)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
