"""What noisy-or costs beside global average pooling, forward and backward.

    python -m benchmarks.pooling [--shape 32 20 32 32] [--rounds 50] [--device cpu]

Limit: 5 times GAP's time at (32, 20, 32, 32).
"""
import argparse
import torch
from benchmarks.timing import interleaved, where
from consistency_cam.pooling import POOLINGS

LIMIT = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shape', type=int, nargs=4, default=(32, 20, 32, 32), help='B C h w of the CAMs (default 32 20 32 32)')
    parser.add_argument('--rounds', type=int, default=50, help='times each is measured (default 50)')
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'), help='cpu or cuda (default cpu)')
    args = parser.parse_args()
    cams = torch.randn(args.shape, generator=torch.Generator().manual_seed(0)).to(args.device).requires_grad_()

    def step(pool):
        cams.grad = None
        pool(cams).sum().backward()

    found = interleaved({name: lambda pool=pool: step(pool) for name, pool in POOLINGS.items()}, args.rounds, args.device)
    print(f'{where(args.device)}; CAMs {tuple(args.shape)}, forward and backward, {args.rounds} rounds in turn')
    for name, seconds in found.items(): print(f'{name:10} median {1e3 * seconds:7.2f} ms   {seconds / found["gap"]:5.2f} x gap')
    print(f'noisy-or: {found["noisy_or"] / found["gap"]:.2f} x gap, limit {LIMIT}')


if __name__ == '__main__': main()
