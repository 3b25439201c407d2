"""All measuring of speed and memory, and the long measurements behind the figures in `results/`.

`python -m benchmarks` times each stage beside the literal way of doing it (`stages`, by `measure`; the twins are in
`literal`). The others are scripts of their own, `python -m benchmarks.NAME --help`:

    memory    the greatest memory of each stage's work
    scale     pictures per second of one, two and four processes, and what they exchange
    deeplab   what a segmenter costs, in multiply-adds and in seconds
    redraw    how long an explorer takes to draw again
    coco      time and memory of the index of a COCO file
    verify    pictures per second that `verify` looks at
    store     what CAMs kept at stride 4 in 16 bits cost in mIoU
    scenes    whether the generated pictures hold what they are made for
    iterated  whether iterated learning sees what nobody named
"""
