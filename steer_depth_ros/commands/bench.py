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
"""`steer_depth bench`: how fast operator, models and node are here, and what reaches the node."""
import argparse
import importlib

SUBJECTS = ('op', 'model', 'node', 'delivery')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what to measure; the options of each subject are its own."""
    parser.add_argument('subject', choices=SUBJECTS, help='what to measure')
    parser.add_argument('options', nargs=argparse.REMAINDER,
                        help='see steer_depth bench SUBJECT --help')


def run(args: argparse.Namespace) -> int:
    """Hand over to the subject's module; only that one is imported."""
    module = importlib.import_module(f'steer_depth_ros.benchmarks.{args.subject}')
    parser = argparse.ArgumentParser(prog=f'steer_depth bench {args.subject}',
                                     description=module.__doc__)
    module.add_arguments(parser)
    return module.run(parser.parse_args(args.options))
