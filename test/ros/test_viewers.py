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
"""The settings for RViz and Foxglove: topics that exist, fixed ranges, colors of the image."""
import json
from pathlib import Path
import re

import yaml

from steer_depth_ros.recordings.bag_tools import OUTPUTS, PICTURES

CONFIG = Path(__file__).parents[2] / 'config'
PUBLISHED = {topic for topic, _ in [*OUTPUTS.values(), *PICTURES.values()]}


def foxglove():
    return json.loads((CONFIG / 'depth_completion.foxglove.json').read_text())


def panels(layout):
    """Give the panel of every leaf of a layout."""
    if isinstance(layout, str):
        return [layout]
    assert set(layout) == {'direction', 'splitPercentage', 'first', 'second'}
    assert layout['direction'] in ('row', 'column') and 0 < layout['splitPercentage'] < 100
    return panels(layout['first']) + panels(layout['second'])


def displays():
    tree = yaml.safe_load((CONFIG / 'depth_completion.rviz').read_text())
    return [d for d in tree['Visualization Manager']['Displays'] if 'Topic' in d]


def test_foxglove_lays_out_every_panel_that_is_configured():
    layout = foxglove()
    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])
    assert {'globalVariables', 'userNodes', 'playbackConfig'} < set(layout)


def test_foxglove_shows_topics_that_the_node_publishes():
    text = (CONFIG / 'depth_completion.foxglove.json').read_text()
    topics = set(re.findall(r'"(/[\w/]+)"', text))
    assert topics - PUBLISHED == {'/camera/image_raw', '/diagnostics'}
    assert PUBLISHED - topics == {PICTURES['depth_color'][0]}  # the panel colors depth itself


def test_foxglove_colors_depth_in_a_fixed_range_and_the_cloud_by_its_image():
    configured = foxglove()['configById']
    for name, far in (('Image!depth', 40), ('Image!confidence', 1)):
        mode = configured[name]['imageMode']
        assert (mode['minValue'], mode['maxValue'], mode['colorMode']) == (0, far, 'colormap')
    cloud = configured['3D!cloud']['topics'][OUTPUTS['cloud'][0]]
    assert cloud['visible'] and cloud['colorMode'] == cloud['colorField'] == 'rgb'


def test_rviz_shows_the_overlay_first_depth_in_a_fixed_range_and_the_cloud_in_rgb():
    shown = {d['Topic']['Value']: d for d in displays() if d['Enabled']}
    assert next(iter(shown)) == 'depth_completion/debug/overlay'
    depth = shown['depth_completion/depth/image']
    assert not depth['Normalize Range'] and (depth['Min Value'], depth['Max Value']) == (0, 40)
    assert shown['depth_completion/points']['Color Transformer'] == 'RGB8'
