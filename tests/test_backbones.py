"""Networks of timm's families: CAMs of the right grid and a DeepLab on them, or a refusal of one line; nothing else."""
import re
import warnings

import pytest
import torch
from torch import nn

from consistency_cam.fast.swap import plain
from consistency_cam.camnet import CAMNet
from consistency_cam.deeplab import DeepLabV3, DeepLabV3Plus
from consistency_cam.experiments.networks import write_onnx
from consistency_cam.experiments.pipeline import Run
from consistency_cam.experiments.recipes import recipe
from consistency_cam.datasets.samples import InputError

pytestmark = pytest.mark.situation('backbones')

WORK = '''test_resnet resnest14d resnetv2_18 legacy_seresnet18 regnetx_002 regnety_002 test_efficientnet tf_efficientnet_lite0 tf_mobilenetv3_small_minimal_100
    mobilenetv2_035 lcnet_035 mobilenetv3_small_050 mobilenetv4_conv_small_035 rexnet_100 test_convnext convnextv2_atto hrnet_w18_small dla46x_c cs3darknet_focus_s cspnext_tiny
    repvgg_a0 test_byobnet test_vit vit_tiny_patch16_dinov3_qkvb vit_tiny_r_s16_p8_224 pvt_v2_b0 mobilevit_xxs mobilevitv2_050
    fastvit_t8 tiny_vit_5m_224 efficientvit_b0 edgenext_xx_small poolformerv2_s12 test_nfnet ese_vovnet19b_slim_dw test_mambaout starnet_s050 hgnetv2_b0'''.split()
REFUSED = 'levit_128s crossvit_tiny_240 test_maxvit test_coatnet efficientformer_l1 efficientformerv2_s0 convit_tiny gcvit_xxtiny pit_ti_224 inception_v3 test_vit_relpos'.split()
HEAVY = 'resnext26ts deit_tiny_distilled_patch16_224 swin_tiny_patch4_window7_224 davit_tiny xception41p densenet121 res2net50_26w_4s vgg11 swinv2_tiny_window8_256 nextvit_small mvitv2_tiny res2next50'.split()


def made(network, name, stride=32, **options):
    "The network, at the stride that the refusal of another one names"
    try: return network(name, 3, output_stride=stride, pretrained=False, **options).eval()
    except InputError as e:
        one_line(e, name)
        if not (said := re.search(r'say output_stride=(\d+)$', str(e))): raise
        return network(name, 3, output_stride=int(said[1]), pretrained=False, **options).eval()


def one_line(error, name): assert type(error) is InputError and '\n' not in str(error) and name in str(error) and len(str(error)) < 500, repr(error)


def grids_hold(net, size):
    "The maps are the grids that the strides promise, and folding changes none of them"
    x = torch.randn(2, 3, *size)
    maps = net.features(x)
    assert [tuple(m.shape) for m in maps] == [(2, c, *(-(-n // s) for n in size)) for c, s in zip(net.channels, net.strides)], (net.strides, size)
    assert all(m.isfinite().all() for m in maps)
    return x, maps


@torch.no_grad()
def works(name):
    net = made(CAMNet, name)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d) and m.affine: nn.init.uniform_(m.running_var, .8, 1.2); nn.init.uniform_(m.running_mean, -.1, .1)
    s = net.stride
    seen = [grids_hold(net, size) for size in ((2 * s, 3 * s), (97, 75))]
    assert net(seen[0][0]).shape == (2, 3)
    plain(net)
    for x, maps in seen:
        for a, b in zip(maps, net.features(x)): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * b.abs().max().item())
    torch.testing.assert_close(net.cams(seen[0][0]), net.classifier(net.features(seen[0][0])[-1]))
    segmenter = made(DeepLabV3Plus if 4 in net.strides else DeepLabV3, name, s)
    for size in ((s, 2 * s), (50, 71)): assert segmenter(torch.randn(1, 3, *size)).shape == (1, 3, *size)
    if 4 not in net.strides:
        with pytest.raises(InputError, match='none of stride 4 for the decoder; use DeepLabV3 with it'): DeepLabV3Plus(name, 3, s, pretrained=False)


def is_refused(name):
    for network in (CAMNet, DeepLabV3):
        with pytest.raises(InputError, match='cannot be used: .*; CAMs need maps of pictures of any size') as error: made(network, name)
        one_line(error.value, name)


@pytest.mark.parametrize('name', ['test_resnet', 'test_vit', 'test_convnext', 'mobilevit_xxs', 'hrnet_w18_small', 'ghostnet_050'])
def test_a_family_works(name): works(name)


@pytest.mark.slow
def test_timms_families(figure):
    "Each either works for pictures of several sizes, or is refused in one line; which it does is written down here"
    warnings.simplefilter('ignore')
    wrong = {}
    for names, check in ((WORK, works), (HEAVY, made_only), (REFUSED, is_refused)):
        for name in names:
            try: check(name)
            except BaseException as e: wrong[name] = f'{type(e).__name__}: {str(e)[:200]}'
    assert not wrong, '\n'.join(f'{k}: {v}' for k, v in wrong.items())
    figure('timm backbones', f'{len(WORK) + len(HEAVY)} of different families work at pictures of any size, {len(REFUSED)} are refused in one line')


def made_only(name):
    "What takes long is made, which takes pictures of several sizes through it"
    assert made(CAMNet, name).stride in (16, 32)


@pytest.mark.parametrize('name, near', {'resnet_18': 'resnet18', 'ResNet50': 'resnet50', 'mobilevit_xx': 'mobilevit_xxs', 'tf_efficientnet-lite0': 'tf_efficientnet_lite0'}.items())
def test_an_unknown_backbone_is_met_with_the_nearest(name, near):
    with pytest.raises(InputError, match=f"unknown backbone '{name}'; did you mean '{near}'"): CAMNet(name, 3)


@pytest.mark.parametrize('options', [dict(num_classes=0), dict(num_classes=-1), dict(num_classes=2.5), dict(output_stride=0), dict(output_stride=3), dict(output_stride=64), dict(output_stride='16'), dict(pool='mean')], ids=str)
def test_what_makes_no_sense_is_refused_by_its_name(options):
    with pytest.raises(InputError, match=r'num_classes=|output.stride|unknown pooling') as error: CAMNet(**dict(backbone='test_resnet', pretrained=False) | options)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('options, words', [(dict(backbone='test_vit', output_stride=16), 'none of stride 4 for the decoder'), (dict(backbone='levit_128s'), 'cannot be used'), (dict(segment_output_stride=8, backbone='densenet121'), 'say output_stride=32'),
    (dict(segment_batch_size=1, segment_batch_norm='frozen'), 'a batch of one picture cannot train'), (dict(segment_frozen_stages=9), 'cannot freeze 9 stages')], ids=str)
def test_a_network_that_a_later_stage_cannot_have_is_refused_before_anything_is_trained(tmp_path, options, words):
    r = recipe('quick', **dict(pictures=2, size=64, crop=64, backbone='test_resnet', pretrained='random', output_stride=32, segment_output_stride=options.get('output_stride', 32), pseudo_crf=False, segment_crf=False, frozen_stages=0) | options)
    with pytest.raises(InputError, match=words): Run(tmp_path/'run', r, progress=False).all_stages()
    assert not (tmp_path/'run').exists()


@torch.no_grad()
@pytest.mark.parametrize('network', [CAMNet, DeepLabV3, DeepLabV3Plus])
@pytest.mark.parametrize('name, stride', [('test_resnet', 16), ('test_efficientnet', 16), ('test_convnext', 32)])
def test_traced_once_a_network_takes_any_size(network, name, stride):
    net = network(name, 3, output_stride=stride, pretrained=False).eval()
    script = torch.jit.trace(net, torch.randn(2, 3, 64, 96), check_trace=False)
    for size in ((32, 32), (160, 64), (97, 75)): torch.testing.assert_close(script(x := torch.randn(1, 3, *size)), net(x), rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('network', [CAMNet, DeepLabV3Plus])
def test_exported_once_a_network_takes_any_size(network):
    net, any_size = network('test_resnet', 3, output_stride=16, pretrained=False).eval(), torch.export.Dim.DYNAMIC
    module = torch.export.export(net, (torch.randn(2, 3, 96, 128),), dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},)).module()
    for size in ((64, 64), (160, 96), (97, 75)): torch.testing.assert_close(module(x := torch.randn(3, 3, *size)), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name, stride', [('test_vit', 16), ('swin_tiny_patch4_window7_224', 32)])
def test_what_would_keep_the_size_is_not_traced(name, stride):
    with pytest.raises(InputError, match='a trace would hold for one size only'): torch.jit.trace(CAMNet(name, 3, output_stride=stride, pretrained=False).eval(), torch.randn(1, 3, 64, 96))


FORMS = 'cams gap noisy_or lse max segmenter'.split()  # of what is written down for other programs


def written_down(form, name, stride):
    "A network in eval mode whose output is of that form"
    torch.manual_seed(0)
    if form == 'segmenter': return DeepLabV3Plus(name, 3, stride, pretrained=False).eval()
    net = CAMNet(name, 3, 'gap' if form == 'cams' else form, stride, pretrained=False, bias=-4.).eval()
    if form == 'cams': net.forward = net.cams
    return net


@torch.no_grad()
def holds_at_other_sizes(net, run):
    "What another program gives is what the network gives, at sizes other than that of the example, and in batches of other numbers"
    for size in ((2, 3, 64, 96), (1, 3, 97, 75)):
        x = torch.randn(*size)
        torch.testing.assert_close(run(x), net(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('form, name, stride', [('noisy_or', 'test_resnet', 16), ('lse', 'test_convnext', 32), ('segmenter', 'test_resnet', 16)])
def test_torchscript_in_a_file_holds_at_any_size(form, name, stride, tmp_path):
    net = written_down(form, name, stride)
    torch.jit.trace(net, torch.randn(1, 3, 128, 160), check_trace=False).save(tmp_path/'net.pt')
    with torch.jit.optimized_execution(False): holds_at_other_sizes(net, torch.jit.load(tmp_path/'net.pt'))
    with pytest.raises(InputError, match='torch.jit.script cannot read these networks; torch.jit.trace'): torch.jit.script(net)


def onnx_runner(file):
    session = pytest.importorskip('onnxruntime').InferenceSession(file, providers=['CPUExecutionProvider'])
    return lambda x: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name, stride', [('test_resnet', 16), ('test_convnext', 32)])
@pytest.mark.parametrize('form', FORMS)
def test_onnx_by_tracing_holds_at_any_size(form, name, stride, tmp_path):
    "Where onnx and its runtime are installed; they are not required"
    pytest.importorskip('onnx')
    net, file, free = written_down(form, name, stride), str(tmp_path/'net.onnx'), {0: 'n', 2: 'h', 3: 'w'}
    torch.onnx.export(net, (torch.randn(1, 3, 128, 160),), file, dynamo=False, input_names=['x'], output_names=['y'], dynamic_axes=dict(x=free, y=free if form in ('cams', 'segmenter') else {0: 'n'}), opset_version=17)
    holds_at_other_sizes(net, onnx_runner(file))


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('form, name, stride', [('noisy_or', 'test_resnet', 16), ('lse', 'test_convnext', 32), ('segmenter', 'test_resnet', 16), ('gap', 'test_vit', 16)])
def test_onnx_by_export_holds_at_any_size(form, name, stride, tmp_path):
    "The newer way, where onnxscript is installed, too"
    pytest.importorskip('onnxscript')
    net, file, any_size = written_down(form, name, stride), str(tmp_path/'net.onnx'), torch.export.Dim.DYNAMIC
    torch.onnx.export(net, (torch.randn(2, 3, 128, 160),), file, dynamo=True, dynamic_shapes=({0: any_size, 2: any_size, 3: any_size},), verbose=False)
    holds_at_other_sizes(net, onnx_runner(file))


def test_onnx_of_what_would_keep_the_size_is_refused(tmp_path):
    pytest.importorskip('onnx')
    net = CAMNet('test_vit', 3, pretrained=False).eval()
    with pytest.raises(InputError, match='a trace would hold for one size only'): torch.onnx.export(net, (torch.randn(1, 3, 64, 96),), str(tmp_path/'net.onnx'), dynamo=False)


@pytest.mark.parametrize('network, options', [(CAMNet, dict(pool='noisy_or')), (CAMNet, dict(pool='lse')), (DeepLabV3Plus, {})], ids=str)
def test_the_export_of_a_run_takes_every_pooling(network, options, tmp_path):
    "`write_onnx` tries the file by ONNX's runtime before it is given out"
    for package in ('onnx', 'onnxruntime'): pytest.importorskip(package)
    write_onnx(network('test_resnet', 3, output_stride=16, pretrained=False, **options), tmp_path/'net.onnx', ['a', 'b', 'c'][:3 - (network is not CAMNet)])
