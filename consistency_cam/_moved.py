"""Where modules and names are now that stood elsewhere before: imports from the old places go on working."""
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

MODULES = {old: f'{house}.{old}' for house, names in dict(
    files='errors memory checkpoint weights',
    datasets='samples tables scenes voc coco folder imagenet shards download verify',
    tools='transforms metrics batchnorm training show',
    experiments='recipes pipeline imported compare formats submit',
    report='paper').items() for old in names.split()}  # the module `report` is answered for by the package of that name
NAMES = {  # 'module.NAME' -> where it is now, both within the package
    'tools.batchnorm.FoldingConv2d': 'fast.folding.FoldingConv2d',
    'tools.batchnorm.Norm2d': 'fast.folding.Norm2d',
    'tools.batchnorm.NormAct2d': 'fast.folding.NormAct2d',
    'tools.batchnorm.fold': 'fast.folding.fold',
    'camnet.DilatedDepthwise': 'fast.convolutions.DilatedDepthwise',
    'camnet.exporting': 'fast.kernels.exporting',
    'camnet.split_dilation': 'fast.swap.fast',
    'deeplab.AtrousConv': 'fast.convolutions.AtrousConv',
    'deeplab.conv_enlarged': 'fast.convolutions.conv_enlarged',
    'deeplab.enlargement': 'fast.convolutions.enlargement',
    'files.errors.near': 'files.errors.nearest_name',
    'files.checkpoint.locked': 'files.checkpoint.hold_lock',
    'files.checkpoint.made_from': 'files.checkpoint.stage_fingerprint',
    'files.checkpoint.Stage': 'files.checkpoint.StageFolder',
    'files.images.opened': 'files.images.open_image',
    'datasets.archives.opened': 'datasets.archives.open_archive',
    'datasets.archives.recognised': 'datasets.archives.archive_kind',
    'datasets.coco.index': 'datasets.coco.read_instances',
    'datasets.coco.uncompressed': 'datasets.coco.decode_runs',
    'datasets.download.verify': 'datasets.download.verify_archive',
    'datasets.folder.few_lacking': 'datasets.folder.lost_mask_places',
    'datasets.imagenet.missing': 'datasets.imagenet.missing_parts',
    'datasets.scenes.CLASSES': 'datasets.paint.SCENE_CLASSES',
    'datasets.scenes.SIZES': 'datasets.scenes.THING_SIZES',
    'datasets.samples.label_rows': 'datasets.tables.label_rows',
    'datasets.samples.opened': 'files.images.open_image',
    'datasets.samples.read_labels': 'datasets.tables.read_labels',
    'datasets.samples.read_table': 'datasets.tables.read_table',
    'datasets.scan.look': 'datasets.scan.inspect_picture',
    'datasets.scan.mask_ids': 'datasets.scan.ids_in_mask',
    'datasets.tables.of_split': 'datasets.tables.rows_of_split',
    'datasets.verify.look': 'datasets.scan.inspect_picture',
    'datasets.verify.mask_ids': 'datasets.scan.ids_in_mask',
    'datasets.verify.everywhere': 'datasets.verify.classes_everywhere',
    'datasets.verify.slips': 'datasets.verify.doubtful_classes',
    'datasets.verify.unlisted': 'datasets.verify.unused_files',
    'tools.transforms.place': 'tools.transforms.random_window',
    'tools.transforms.seeded': 'tools.transforms.seeded_generator',
    'tools.training.summed': 'tools.training.sum_over_processes',
    'cams.snapped': 'cams.snapped_size',
    'crf.scaled': 'crf.scaled_setting',
    'iterated.pseudo_labels': 'iterated.teacher_labels',
    'pseudo.walked': 'pseudo.maps_after_walk',
    'pseudo.described': 'pseudo.mask_facts',
}
PACKAGE = __package__


class MovedModules(MetaPathFinder, Loader):
    "Finds a moved module by its old name: the same object under both"
    def __init__(self): self.specs = {}

    def find_spec(self, name, path=None, target=None):
        if name.startswith(f'{PACKAGE}.') and name[len(PACKAGE) + 1:] in MODULES: return ModuleSpec(name, self)

    def create_module(self, spec):
        module = import_module(f'{PACKAGE}.{MODULES[spec.name[len(PACKAGE) + 1:]]}')
        self.specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module):
        "Nothing is run a second time; the module keeps its own specification"
        module.__spec__ = self.specs.pop(module.__spec__.name)


def install():
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path): sys.meta_path.append(MovedModules())


def moved(module):
    "`__getattr__` of a module that names have moved from"
    here = module.removeprefix(f'{PACKAGE}.')
    def find(name):
        if f'{here}.{name}' not in NAMES: raise AttributeError(f"module '{module}' has no attribute '{name}'")
        place, _, name = NAMES[f'{here}.{name}'].rpartition('.')
        return getattr(import_module(f'{PACKAGE}.{place}'), name)
    return find
