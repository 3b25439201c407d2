"""The cost of a segmenter: weights and multiply-adds beside the paper's, the time of a training step and of a picture.

    python -m benchmarks.deeplab [--backbone tf_efficientnet_lite0] [--size 224] [--batch 8] [--rounds 5] [--device cpu]

Three parts:
- multiply-adds at 513x513, output stride 16, rates 6, 12, 18, 21 classes, beside the paper's (its V3+ has one 3x3
  layer in the decoder); counted on the device `meta`, so it takes no time;
- a training step (forward, loss, backward; the backbone's batch norm frozen) of V3 and of V3+ with one and with two
  3x3 layers in the decoder; and of two parts beside PyTorch's plain way: ASPP, which leaves out taps that meet
  nothing but padding, and the decoder's first layer, which works on the small map;
- a 375x500 picture segmented at one scale, and at four scales with mirror images.
"""
import argparse, copy
import torch
from consistency_cam.fast.swap import plain
from consistency_cam.deeplab import DeepLabV3, DeepLabV3Plus, multiply_adds, parameters
from consistency_cam.segment import mask_loss, segment_image
from benchmarks.measure import interleaved, where

PAPER = {('V3', 'resnet50'): 51.4, ('V3', 'resnet101'): 72.1, ('V3+, one 3x3', 'resnet50'): 62.7,
    ('V3+, one 3x3', 'resnet101'): 83.4}
VERSIONS = {'V3': (DeepLabV3, {}), 'V3+, one 3x3': (DeepLabV3Plus, dict(refinements=1)),
    'V3+, two 3x3': (DeepLabV3Plus, {})}


def untrained_segmenter(version, backbone, device):
    "An untrained segmenter of 21 classes"
    make, arguments = VERSIONS[version]
    with torch.device(device): return make(backbone, 21, pretrained=False, **arguments)


def parts_of(net, x, device):
    "Forward and backward of ASPP and of the decoder's first layer, ours and PyTorch's plain way"
    with torch.no_grad():
        maps = net.features(x)
        high, low = net.aspp(maps[-1]), net.low(maps[net.level])
    aspp, merge = (plain(copy.deepcopy(part)) for part in (net.aspp, net.merge))
    for m in (high, low): m.requires_grad_()
    return {name: (lambda work=work: work().sum().backward()) for name, work in {
        'ASPP': lambda: net.aspp(maps[-1]), 'ASPP, plain': lambda: aspp(maps[-1]),
        'decoder 1': lambda: net.merge(high, low), 'decoder 1, plain': lambda: merge(high, low)}.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--backbone', default='tf_efficientnet_lite0',
        help='timm name, for the times (default tf_efficientnet_lite0)')
    parser.add_argument('--size', type=int, default=224, help='side of a training picture, pixels (default 224)')
    parser.add_argument('--batch', type=int, default=8, help='pictures a step (default 8)')
    parser.add_argument('--rounds', type=int, default=5, help='times each is measured (default 5)')
    parser.add_argument('--device', type=torch.device, default=torch.device('cpu'), help='cpu or cuda (default cpu)')
    args = parser.parse_args()
    print('multiply-adds of a 513x513 picture, output stride 16, 21 classes')
    for backbone in ('resnet50', 'resnet101', 'resnest50d', 'resnest101e', 'tf_efficientnet_lite0'):
        for version in VERSIONS:
            net = untrained_segmenter(version, backbone, 'meta').eval()
            paper = PAPER.get((version, backbone))
            size = f'{parameters(net) / 1e6:6.1f} M weights {multiply_adds(net) / 1e9:6.1f} G'
            print(f'{backbone:22} {version:13} {size}' + (f'   paper {paper} G' if paper else ''))

    print(f'\n{where(args.device)}, {args.backbone}, channels last')
    x = torch.randn(args.batch, 3, args.size, args.size,
        device=args.device).contiguous(memory_format=torch.channels_last)
    masks = torch.randint(0, 21, (args.batch, args.size, args.size), device=args.device)
    nets = {version: untrained_segmenter(version, args.backbone, args.device).to(memory_format=torch.channels_last).freeze()
        for version in VERSIONS}
    parts = parts_of(nets['V3+, two 3x3'], x, args.device)
    works = {version: (lambda net=net: mask_loss(net(x), masks).backward()) for version, net in nets.items()} | parts
    for name, seconds in interleaved(works, args.rounds, args.device).items():
        print(f'training step, {args.batch} pictures of {args.size}: {name:16} {1e3 * seconds:8.1f} ms')

    image = torch.randint(0, 256, (3, 375, 500), dtype=torch.uint8)
    works = {f'{version}, {name}': (lambda net=net.eval(), how=how: segment_image(net, image, **how))
             for version, net in nets.items() for name, how in (('one scale', dict(scales=(1.,), mirror=False)),
                 ('four scales and mirror', {}))}
    for name, seconds in interleaved(works, args.rounds, args.device).items():
        print(f'a picture of 375x500: {name:37} {1e3 * seconds:8.1f} ms')


if __name__ == '__main__': main()
