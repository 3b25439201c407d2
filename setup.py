"""Builds the package from settings.ini, the one place for name, version, requirements and extras."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
name = cfg['lib_name']
suffix = '_requirements'
extras = {key.removesuffix(suffix): cfg[key].split() for key in cfg if key.endswith(suffix)}

setup(
    name=name,
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8') if (here/'README.md').exists() else '',
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    license=cfg['license'],
    classifiers=[f"Operating System :: {cfg['operating_systems']}", 'Programming Language :: Python :: 3'],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[name, f'{name}.*']),
    package_data={name: cfg['package_data'].split()},
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    zip_safe=False,
)
