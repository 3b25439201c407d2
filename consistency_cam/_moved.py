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
MODULES['datasets.sources'] = 'datasets.kinds'
NAMES = {  # 'module.NAME' -> where it is now, both within the package
    'camnet.DilatedDepthwise': 'fast.convolutions.DilatedDepthwise',
    'camnet.exporting': 'fast.kernels.exporting',
    'camnet.split_dilation': 'fast.swap.fast',
    'cams.snapped': 'cams.snapped_size',
    'crf.scaled': 'crf.scaled_setting',
    'datasets.archives.opened': 'datasets.archives.open_archive',
    'datasets.archives.recognised': 'datasets.archives.archive_kind',
    'datasets.coco.index': 'datasets.coco.read_instances',
    'datasets.coco.uncompressed': 'datasets.coco.decode_runs',
    'datasets.download.verify': 'datasets.download.verify_archive',
    'datasets.folder.few_lacking': 'datasets.folder.lost_mask_places',
    'datasets.imagenet.missing': 'datasets.imagenet.missing_parts',
    'datasets.samples.label_rows': 'datasets.tables.label_rows',
    'datasets.samples.opened': 'files.images.open_image',
    'datasets.samples.read_labels': 'datasets.tables.read_labels',
    'datasets.samples.read_table': 'datasets.tables.read_table',
    'datasets.scan.look': 'datasets.scan.inspect_picture',
    'datasets.scan.mask_ids': 'datasets.scan.ids_in_mask',
    'datasets.scenes.CLASSES': 'datasets.paint.SCENE_CLASSES',
    'datasets.scenes.SIZES': 'datasets.scenes.THING_SIZES',
    'datasets.tables.of_split': 'datasets.tables.rows_of_split',
    'datasets.verify.everywhere': 'datasets.verify.classes_everywhere',
    'datasets.verify.look': 'datasets.scan.inspect_picture',
    'datasets.verify.mask_ids': 'datasets.scan.ids_in_mask',
    'datasets.verify.slips': 'datasets.verify.doubtful_classes',
    'datasets.verify.unlisted': 'datasets.verify.unused_files',
    'datasets.voc.make_train_aug': 'datasets.sbd.make_train_aug',
    'datasets.voc.sbd_mask': 'datasets.sbd.sbd_mask',
    'deeplab.AtrousConv': 'fast.convolutions.AtrousConv',
    'deeplab.conv_enlarged': 'fast.convolutions.conv_enlarged',
    'deeplab.enlargement': 'fast.convolutions.enlargement',
    'experiments.imported.as_stored': 'experiments.imported.stored_maps',
    'experiments.imported.described': 'experiments.imported.describe_pickle',
    'experiments.pipeline.ENOUGH': 'experiments.stages.ENOUGH_STEPS',
    'experiments.pipeline.FEW': 'experiments.stages.FEW_STEPS',
    'experiments.pipeline.settled': 'experiments.runs.settle_recipe',
    'experiments.recipes.COCO': 'experiments.recipes.COCO_DATA',
    'experiments.recipes.changed': 'experiments.recipes.change_recipe',
    'experiments.recipes.named': 'experiments.recipes.values_by_field',
    'experiments.submit.packed': 'experiments.submit.pack_files',
    'experiments.submit.places': 'experiments.submit.submission_paths',
    'experiments.submit.submitted': 'experiments.submit.pictures_to_submit',
    'explore.cams.Look': 'explore.cams.CamSettings',
    'explore.cams.strongest': 'explore.cams.strongest_shown',
    'explore.explorer.METHODS': 'explore.runs.METHOD_ORDER',
    'explore.explorer.open_runs': 'explore.runs.open_runs',
    'explore.explorer.choices': 'explore.explorer.multiple_choice',
    'explore.explorer.tick': 'explore.explorer.checkbox',
    'explore.own_picture.open_picture': 'explore.own_picture.load_picture',
    'explore.results.VIEWS': 'explore.results.RESULT_VIEWS',
    'explore.views.Compared': 'explore.views.ViewComparison',
    'explore.views.compare': 'explore.views.compare_views',
    'explore.walk.Walk': 'explore.walk.WalkSteps',
    'explore.walk.opened': 'explore.walk.picture_mask_cams',
    'files.checkpoint.Stage': 'files.checkpoint.StageFolder',
    'files.checkpoint.locked': 'files.checkpoint.hold_lock',
    'files.checkpoint.made_from': 'files.checkpoint.stage_fingerprint',
    'files.errors.near': 'files.errors.nearest_name',
    'files.images.opened': 'files.images.open_image',
    'iterated.pseudo_labels': 'iterated.teacher_labels',
    'methods.registry.listed': 'methods.registry.list_methods',
    'methods.registry.origin': 'methods.registry.method_origin',
    'pseudo.described': 'pseudo.mask_facts',
    'pseudo.walked': 'pseudo.maps_after_walk',
    'report.page.choice': 'report.cards.choose_pictures',
    'report.page.class_ious': 'report.figures.mean_class_ious',
    'report.page.compressed': 'report.elements.picture_address',
    'report.page.defined': 'report.elements.definition_list',
    'report.page.described': 'report.page.settings_text',
    'report.page.finished': 'report.rows.finished_stages',
    'report.page.given': 'report.cards.picture_and_mask',
    'report.page.given_column': 'report.cards.picture_column',
    'report.page.masks_of': 'report.cards.mask_reader',
    'report.page.plain': 'report.figures.literal_text',
    'report.page.remarked': 'report.rows.remarks_part',
    'report.page.rule': 'report.cards.rule_text',
    'report.page.scrolling': 'report.elements.scroll_box',
    'report.page.shown': 'report.elements.picture_element',
    'report.page.shrunk': 'report.elements.shrink',
    'report.page.told_class': 'report.cards.shown_class',
    'report.paper.Table': 'report.paper.PaperTable',
    'report.paper.counted': 'report.paper.split_text',
    'report.paper.deciding': 'report.paper.deciding_settings',
    'report.paper.evaluated': 'report.paper.stage_figures',
    'report.paper.noisy_or': 'report.paper.noisy_or_table',
    'report.paper.opened': 'report.paper.open_source',
    'tools.batchnorm.FoldingConv2d': 'fast.folding.FoldingConv2d',
    'tools.batchnorm.Norm2d': 'fast.folding.Norm2d',
    'tools.batchnorm.NormAct2d': 'fast.folding.NormAct2d',
    'tools.batchnorm.fold': 'fast.folding.fold',
    'tools.training.summed': 'tools.training.sum_over_processes',
    'tools.transforms.place': 'tools.transforms.random_window',
    'tools.transforms.seeded': 'tools.transforms.seeded_generator',
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
