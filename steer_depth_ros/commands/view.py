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
"""
Open recordings in Rerun: image, overlay, depth, confidence and cloud on one time line.

All is shown at the stamp of its image, so that a recording and its completed one, given
together, fall into place.
"""
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from steer_depth_ros.commands import options
from steer_depth_ros.errors import BagError, ConfigError
from steer_depth_ros.recordings import bag
from steer_depth_ros.recordings.bag_frames import (
    choose_topics,
    IMAGE_TYPES,
    NODE,
    node_values,
    run_pipeline,
    TRUTH,
)
from steer_depth_ros.recordings.bag_tools import OUTPUTS
from steer_depth_ros.ros import distro, messages
from steer_depth_ros.viz import preview

TIMELINE = 'stamp'
CAMERA, IMAGE, OVERLAY, DEPTH, CONFIDENCE, CLOUD = (
    'camera', 'camera/image', 'camera/image/measured', 'camera/depth', 'confidence', 'points')
DOT = 1.0  # pixels of the image, radius of a measured point
POINT = 1.5  # pixels of the screen, radius of a point of the cloud


def add_arguments(parser):
    parser.add_argument('recordings', nargs='+', metavar='FILE', help='rosbag2 folder, .mcap or '
                        '.db3: a recording, its completed one, or both')
    parser.add_argument('--save', metavar='FILE.rrd', help='write a file for Rerun instead of '
                        'opening it')
    options.add_topics(parser)


def run(args):
    try:
        import rerun
    except ImportError:
        raise ConfigError(
            'view needs Rerun, which is not installed: pip install "steer_depth_ros[view]"; or '
            f'open the recording in Foxglove with {distro.config_file(distro.FOXGLOVE)}'
        ) from None
    stream = rerun.RecordingStream('steer_depth')
    # Only the stamps of the images: when something was read says nothing.
    stream.set_log_time_enabled(False)
    stream.set_log_tick_enabled(False)
    if args.save:
        with _replacing(args.save) as partial:
            try:
                stream.save(partial, default_blueprint=_blueprint())
                counts = _show_all(stream, args)
            finally:
                stream.disconnect()
    else:
        try:
            stream.spawn(default_blueprint=_blueprint())
            stream.flush()
        except RuntimeError as error:
            raise ConfigError(f'the viewer of Rerun does not start ({error}); where there is no '
                              'screen write a file with --save FILE.rrd and open it elsewhere'
                              ) from None
        counts = _show_all(stream, args)
        stream.flush()
    print(', '.join(f'{name} {count}' for name, count in counts.items()))
    if args.save:
        print(f'{args.save}: open it with "rerun {args.save}"')


@contextmanager
def _replacing(path):
    """Yield a name to write to, which becomes `path` when all went well."""
    partial = Path(f'{path}.partial')
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
    except OSError as error:
        raise ConfigError(f'cannot write {path}: {error.strerror}') from None
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _show_all(stream, args):
    show = _Show(stream)
    for path in args.recordings:
        with bag.BagReader(path) as recording:
            show.recording(recording, options.topic_options(args), options.node_parameters(args))
    return show.counts


class _Show:
    """
    Logs recordings to a Rerun stream.

    counts: how many of each kind were shown.
    """

    def __init__(self, stream):
        import rerun
        self._rerun, self._stream = rerun, stream
        self._range = None  # meters, of the first depths; fixed, so that colors compare
        self.counts = dict.fromkeys(('image', *OUTPUTS), 0)
        self._log('/', rerun.ViewCoordinates.RDF, static=True)

    def recording(self, recording, named, values):
        """
        Show the images with their measured points, and what the node has made of them.

        named: topics given by name. values: parameters of the node that differ from the default.
        """
        found = {name: _output_topic(recording, topic) for name, (topic, _) in OUTPUTS.items()}
        found = {name: topic for name, topic in found.items() if topic}
        try:
            topics = choose_topics(recording, **named, given=values)
        except BagError as error:
            if not found or any(named.values()):
                raise
            image = _image_topic(recording)
            if not self.counts['image']:
                print(f'{recording.path}: without measured points ({error}); give the recording '
                      'that it was made from first, to see them')
                if image:
                    self._messages(recording, image, 'image', self._plain_image)
        else:
            results = run_pipeline(recording, topics, node_values(recording, topics, **values))
            total = recording.counts[topics.image]
            for result in tqdm(results, total=total, unit=' frames', desc='image'):
                self._image(result)
        for name, topic in found.items():
            self._messages(recording, topic, name, getattr(self, f'_{name}'))

    def _messages(self, recording, topic, name, show):
        for record in tqdm(recording.messages(topic), total=recording.counts[topic],
                           unit=' messages', desc=name):
            message = recording.decode(record)
            self._at(messages.stamp_ns(message.header))
            show(message)
            self.counts[name] += 1

    def _log(self, path, what, **how):
        self._stream.log(path, what, **how)

    def _at(self, stamp_ns):
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(stamp_ns, 'ns'))

    def _image(self, result):
        frame, sparse = result.frame, result.sparse
        self._at(frame.stamp_ns)
        self._pinhole(frame.camera)
        self._log(IMAGE, self._rerun.Image(frame.image))
        near, far = self._limits(sparse.depth)
        share = np.clip((sparse.depth - near) / (far - near), 0, 1)
        colors = cv2.applyColorMap((255 * share).astype(np.uint8), cv2.COLORMAP_TURBO)
        self._log(OVERLAY, self._rerun.Points2D(
            sparse.uv + 0.5, colors=colors.reshape(-1, 3)[:, ::-1], radii=DOT))
        self.counts['image'] += 1

    def _plain_image(self, message):
        compressed = hasattr(message, 'format')
        pixels = (messages.compressed_to_rgb if compressed else messages.image_to_rgb)(message)
        self._log(IMAGE, self._rerun.Image(pixels))

    def _depth(self, message):
        depth = messages.depth_to_metres(message)
        self._log(DEPTH, self._rerun.DepthImage(depth, meter=1.0, colormap='turbo',
                                                depth_range=self._limits(depth)))

    def _confidence(self, message):
        confidence = np.frombuffer(message.data, np.float32).reshape(message.height,
                                                                     message.width)
        self._log(CONFIDENCE, self._rerun.DepthImage(confidence, meter=1.0, colormap='viridis',
                                                     depth_range=(0.0, 1.0)))

    def _cloud(self, message):
        xyz, colors = _cloud_arrays(message)
        self._log(CLOUD, self._rerun.Points3D(xyz, colors=colors,
                                              radii=self._rerun.Radius.ui_points(POINT)))

    def _camera_info(self, message):
        self._pinhole(messages.camera_from_info(message))

    def _pinhole(self, camera):
        matrix = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
        self._log(CAMERA, self._rerun.Pinhole(
            image_from_camera=matrix, width=camera.width, height=camera.height,
            camera_xyz=self._rerun.ViewCoordinates.RDF))

    def _limits(self, depth):
        if self._range is None and np.isfinite(depth).any():
            self._range = preview.depth_range(depth)
        return self._range or preview.depth_range(depth)


def _image_topic(recording):
    """Find the one image that is not an output; None for none or several."""
    found = [topic for topic, kind in recording.topics.items()
             if kind in IMAGE_TYPES and f'/{NODE}/' not in topic and topic != TRUTH]
    return found[0] if len(found) == 1 else None


def _output_topic(recording, topic):
    """Find an output of the node in whatever namespace it ran; None where it is not there."""
    found = [name for name in recording.topics if name.endswith(topic)]
    if len(found) > 1:
        raise BagError(f'several nodes published {topic}: {", ".join(sorted(found))}; record one '
                       'of them alone')
    return found[0] if found else None


def _cloud_arrays(message):
    """Return float32 (N, 3) meters and uint8 (N, 3) RGB of the finite points of a cloud."""
    rgb = next(field.offset for field in message.fields if field.name == 'rgb')
    bgr = np.frombuffer(message.data, np.uint8).reshape(-1, message.point_step)[:, rgb:rgb + 3]
    xyz = messages.cloud_to_xyz(message)
    finite = np.isfinite(xyz).all(axis=1)
    return xyz[finite], bgr[finite, ::-1]


def _blueprint():
    import rerun.blueprint as layout
    pictures = [
        layout.Spatial2DView(origin=origin, contents=contents, name=name)
        for name, origin, contents in (
            ('image', CAMERA, [IMAGE]), ('measured points', CAMERA, [IMAGE, OVERLAY]),
            ('depth', CAMERA, [DEPTH]), ('confidence', CONFIDENCE, [CONFIDENCE]))]
    behind = layout.EyeControls3D(position=(-2.0, -3.0, -5.0), look_target=(0.0, 0.0, 8.0),
                                  eye_up=(0.0, -1.0, 0.0))
    cloud = layout.Spatial3DView(origin='/', contents=[CLOUD, CAMERA], name='completed cloud',
                                 eye_controls=behind)
    return layout.Blueprint(
        layout.Horizontal(layout.Vertical(*pictures), cloud, column_shares=[1, 2]),
        layout.TimePanel(timeline=TIMELINE, state='collapsed'), collapse_panels=True)
