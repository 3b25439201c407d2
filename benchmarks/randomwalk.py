"""The random walk as a sparse operator beside the squaring of the full matrix, and how far the two are apart.

    python -m benchmarks.randomwalk [--grid 94 125] [--small 47 63] [--exact 24 32] [--classes 3] [--rounds 5] [--device cpu]

Radius 5, beta 10, 256 steps; times are of the whole way from an edge map to walked CAMs.
Limits: 100 ms at 94x125 on two CPU cores; 100 times as fast as the squaring at 47x63; 1e-5 from the dense power in float64.
"""
import argparse
import torch
import torch.nn.functional as F
from benchmarks.timing import interleaved, where
from consistency_cam.affinity import path_affinity
from consistency_cam.randomwalk import random_walk, step_change

RADIUS, BETA, SQUARINGS = 5, 10, 8
MILLISECONDS, FASTER, DISTANCE = 100, 100, 1e-5


def problem(size, classes, device):
    "CAMs (K,h,w) and smooth edges (h,w)"
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, *(-(-s // 4) for s in size), generator=generator) ** 3
    edge = F.interpolate(coarse, size, mode='bicubic')[0, 0].clamp(0, 1)
    return torch.rand(classes, *size, generator=generator).to(device), edge.to(device)


def squared(cams, edge):
    "The walk as published: the full matrix, squared 8 times, in the precision of the edges"
    T = step_change(path_affinity(edge, RADIUS), BETA).to_dense()
    T.diagonal().add_(1)
    for _ in range(SQUARINGS): T = T @ T
    return ((cams * (1 - edge)).flatten(1).to(T) @ T.T).view_as(cams)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--grid', type=int, nargs=2, default=(94, 125), help='h w of the timed walk (default 94 125)')
    parser.add_argument('--small', type=int, nargs=2, default=(47, 63), help='h w where the full matrix is squared too (default 47 63)')
    parser.add_argument('--exact', type=int, nargs=2, default=(24, 32), help='h w where it is squared in float64 (default 24 32)')
    parser.add_argument('--classes', type=int, default=3, help='K (default 3)')
    parser.add_argument('--rounds', type=int, default=5, help='times each is measured (default 5)')
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'), help='cpu or cuda (default cpu)')
    args = parser.parse_args()
    large, small, exact = (problem(size, args.classes, args.device) for size in (args.grid, args.small, args.exact))

    found = interleaved(dict(walk=lambda: random_walk(*large, RADIUS, BETA, 2**SQUARINGS), small=lambda: random_walk(*small, RADIUS, BETA, 2**SQUARINGS), squared=lambda: squared(*small)), args.rounds, args.device)
    distance = (random_walk(*exact, RADIUS, BETA, 2**SQUARINGS) - squared(*(x.double() for x in exact))).abs().max().item()
    size = lambda s: f'{s[0]}x{s[1]}'
    print(f'{where(args.device)}; {args.classes} classes, radius {RADIUS}, beta {BETA}, {2**SQUARINGS} steps, {args.rounds} rounds in turn')
    print(f'walk at {size(args.grid):8}          median {1e3 * found["walk"]:9.1f} ms, limit {MILLISECONDS} ms')
    print(f'walk at {size(args.small):8}          median {1e3 * found["small"]:9.1f} ms')
    print(f'full matrix at {size(args.small):8}   median {1e3 * found["squared"]:9.1f} ms: {found["squared"] / found["small"]:.0f} times the walk, limit {FASTER}')
    print(f'largest difference to the float64 power at {size(args.exact)}: {distance:.1e}, limit {DISTANCE:.0e}')


if __name__ == '__main__': main()
