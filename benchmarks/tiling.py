"""How much faster the tiles of a picture go through the network as one batch than one after another.

    python -m benchmarks.tiling [--n 16] [--size 256] [--batch 4] [--rounds 5] [--device cpu]

Forward only, EfficientNet-lite0 at output stride 16, batch norm in eval mode; the two results are compared.
Limit: 5 times as fast at n = 16, batch 4, 256 pixels.
"""
import argparse
import torch
from benchmarks.timing import interleaved, where
from consistency_cam.camnet import CAMNet
from consistency_cam.tiling import merge, tile

LIMIT = 5


def one_by_one(net, x, n):
    "Merged CAMs, each tile position in a forward pass of its own"
    h, w = (s // n for s in x.shape[-2:])
    rows = [torch.cat([net.cams(x[..., r*h:r*h+h, c*w:c*w+w]) for c in range(n)], -1) for r in range(n)]
    return torch.cat(rows, -2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (('n', 16, 'tiles per side'), ('size', 256, 'side of the pictures, pixels'), ('batch', 4, 'pictures'), ('rounds', 5, 'times each is measured')):
        parser.add_argument(f'--{name}', type=int, default=default, help=f'{text} (default {default})')
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'), help='cpu or cuda (default cpu)')
    args = parser.parse_args()
    net = CAMNet('tf_efficientnet_lite0', 20, pretrained=False).eval().to(args.device, memory_format=torch.channels_last)
    x = torch.randn(args.batch, 3, args.size, args.size, generator=torch.Generator().manual_seed(0)).to(args.device)
    with torch.no_grad():
        folded = lambda: merge(net.cams(tile(x, args.n)), args.n)
        difference = (folded() - one_by_one(net, x, args.n)).abs().max().item()
        found = interleaved({'loop over tiles': lambda: one_by_one(net, x, args.n), 'folded': folded}, args.rounds, args.device)
    print(f'{where(args.device)}; {args.batch} pictures of {args.size}x{args.size}, n = {args.n}, {args.rounds} rounds in turn')
    for name, seconds in found.items(): print(f'{name:16} median {1e3 * seconds:8.1f} ms')
    print(f'folded: {found["loop over tiles"] / found["folded"]:.1f} x as fast, limit {LIMIT}; largest difference {difference:.1e}')


if __name__ == '__main__': main()
