# Copyright 2026 The steer_depth_ros contributors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Command line entry point `steer_depth`."""
import argparse
import importlib
import os
import sys

from steer_depth_ros.errors import SteerDepthError

COMMANDS = {
    'demo': 'play a recording through the real node and look at the result',
    'complete': 'complete a single image and depth file',
    'bag': 'complete a recording offline, through the same code as the node',
    'calibrate': 'measure and refine the pose of the depth sensor from a recording',
    'frames-to-bag': 'turn a folder of frames into a rosbag2',
    'eval': 'measure accuracy on a data set',
    'train': 'train a model',
    'bench': 'measure speed (op, model, node) and message delivery to the node (delivery)',
    'soak': 'run the node for minutes or hours and fail if memory or latency grows',
    'convert': 'convert checkpoints of the 2021 release',
    'view': 'open a recording, completed or not, in Rerun',
    'doctor': 'say what is installed, what will run, and what to do about what is missing',
    'presets': 'list presets with size, requirements and measured figures',
}


def main(argv=None):
    """
    Run one subcommand; exit status 0, 1 (a check failed) or 2 (bad input or usage).

    Interrupted: 130; where the reader of its output left (`| head`): 141, as other programs.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog='steer_depth', description='Dense metric depth from an image and sparse depth.')
    subparsers = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text)
        if name in argv[:1]:  # import only the chosen subcommand
            module = importlib.import_module(
                f"steer_depth_ros.commands.{name.replace('-', '_')}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        status = args.run(args) or 0
        sys.stdout.flush()
        return status
    except SteerDepthError as error:
        print(f'steer_depth {args.command}: error: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What is still to be written at the end of the process would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


if __name__ == '__main__':
    sys.exit(main())
