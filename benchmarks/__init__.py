"""Long measurements that made the figures in `results/`, each a script: `python -m benchmarks.NAME --help`.

    scenes    whether the generated pictures hold what they are made for
    iterated  whether iterated learning sees what nobody named
    deeplab   what a segmenter costs, in multiply-adds and in seconds
    store     what CAMs kept at stride 4 in 16 bits cost in mIoU
    coco      time and memory of the index of a COCO file
    verify    pictures a second that `verify` looks at
    redraw    how long an explorer takes to draw again

The stages beside the literal way of doing them are a command, `consistency-cam bench`, and not here.
"""
