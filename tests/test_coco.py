"""A COCO data set goes through the command line, from its JSON to evaluated CAMs."""
import subprocess
import sys

import pytest
from PIL import Image

pytest.importorskip('pycocotools')


def small_coco(root, n=8):
    "Scenes as COCO's files, in run lengths"
    from consistency_cam.pseudo import write_coco
    from consistency_cam.samples import write_mask
    from consistency_cam.scenes import Scenes
    for split in ('train', 'val'):
        scenes, masks = Scenes(n, 0, split, 96), root.parent/f'masks of {split}'
        (root/f'{split}2014').mkdir(parents=True)
        for i, id in enumerate(scenes.ids):
            Image.fromarray(scenes.image(i).permute(1, 2, 0).numpy()).save(root/f'{split}2014'/f'{id}.jpg')
            write_mask(scenes.mask(i), masks/f'{id}.png')
        write_coco(scenes, masks, root/'annotations'/f'instances_{split}2014.json')
    return root


def command(*arguments, **kwargs):
    return subprocess.run([sys.executable, '-m', 'consistency_cam', *map(str, arguments), '--quiet'], capture_output=True, text=True, **kwargs)


def test_verify_knows_coco(tmp_path):
    root = small_coco(tmp_path/'COCO2014', 4)
    done = command('verify', tmp_path)
    assert done.returncode == 0 and 'coco (train, val): 8 pictures, 8 masks: no problem' in done.stdout, done.stdout + done.stderr
    (root/'val2014'/'val-0-00001.jpg').unlink()
    done = command('verify', root)
    assert done.returncode == 1 and 'PictureError' in done.stdout and 'val-0-00001.jpg: no such file' in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_run_on_coco(tmp_path):
    root = small_coco(tmp_path/'COCO2014')
    done = command('run', tmp_path/'run', '--data', 'coco', '--root', root, '--train', 'train', '--val', 'val', '--until', 'cams', '--epochs', 1, '--batch-size', 4,
                   '--crop', 64, '--long-side', 64, 80, '--pretrained', 'random', '--method', 'cam')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'mIoU' in done.stdout, done.stdout
    assert sum(p.suffix == '.png' for p in (root/'masks'/'train2014').iterdir()) == 8
