"""Predicts images and videos: python tools/infer.py configs/maskrcnn_ravlt_s.py epoch_12.pth photos"""

import argparse

from ralamala_mm.apis.batch import infer
from ralamala_mm.engine import add_cfg_options, add_trust_option, run

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Predict images, folders, videos or what a camera sees.')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('inputs', nargs='+', metavar='PATH',
                        help='image, folder, pattern such as "photos/**/*.jpg", video, or number of a camera')
    parser.add_argument('--out-dir', default='outputs', metavar='DIR', help='for all results; outputs by default')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='images, frames or tiles at a time')
    parser.add_argument('--device', default='auto', help='cpu, cuda, cuda:1, …; a GPU if there is one by default')
    parser.add_argument('--score-threshold', type=float, metavar='S', help='detections below it are left out; 0.3 by default')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='names of the classes to keep')
    parser.add_argument('--tile', type=int, metavar='SIZE', help='tile size in pixels, for larger images')
    parser.add_argument('--overlap', type=int, metavar='PIXELS', help='what tiles share; a quarter of their size by default')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--no-draw', dest='draw', action='store_false', help='write predictions alone, no images')
    parser.add_argument('--coloured', action='store_true', help="segmentation: write masks in the classes' colors too")
    add_cfg_options(parser)
    add_trust_option(parser)
    run(parser, infer)
