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
"""The lifecycle node: image and sparse depth in, dense depth, confidence and cloud out."""
import gc
from pathlib import Path
import signal
import sys
import time
from typing import Any, Optional

import numpy as np
import rclpy
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
)
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from std_srvs.srv import Trigger

from steer_depth_ros.calibration.monitor import FitMonitor
from steer_depth_ros.errors import ConfigError, SteerDepthError
from steer_depth_ros.geometry.calibration_file import read_calibration
from steer_depth_ros.geometry.transforms import TransformBuffer
from steer_depth_ros.ros import diagnostics, distro, process_tuning
from steer_depth_ros.ros.extrinsics import calibrated_values, Extrinsics, NO_TF, TfListener
from steer_depth_ros.ros.parameters import check, Parameters
from steer_depth_ros.ros.pipeline import COMPLETED, in_other_frame, Pipeline
from steer_depth_ros.ros.publishers import Outputs
from steer_depth_ros.ros.save_frame import save_frame
from steer_depth_ros.ros.shutdown import shut_down
from steer_depth_ros.ros.start_errors import explain
from steer_depth_ros.ros.subscriptions import Inputs
from steer_depth_ros.ros.worker import Worker

DEMAND_PERIOD_S = 0.2  # delay until a new subscriber is noticed
STATUS_PERIOD_S = 1.0
HINT_PERIOD_S = 5.0
LOG_PERIOD_S = 10.0  # of warnings about the inputs
WARM_UP_SIZE = 96, 128
POSE = {'extrinsics.xyz', 'extrinsics.rpy', 'extrinsics.quaternion'}
FIT_PERIOD_S = 1.0  # between looks at how well points and image fit
OTHER_CLOCK_MS = 60e3  # larger ages mean a recording played without its clock
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class CompletionNode(LifecycleNode):
    """
    The node; docs/node.md describes its topics, parameters and services.

    Callbacks only match messages; conversion, completion and publishing run in one worker thread.
    """

    def __init__(self, **kwargs):
        super().__init__('depth_completion', **kwargs)
        distro.refuse_impossible_transitions(self)
        self._completer: Any = None
        self._described, self._about = 'not configured', {}
        self._inputs: Optional[Inputs] = None
        self._outputs: Optional[Outputs] = None
        self._worker: Optional[Worker] = None
        self._listener: Optional[TfListener] = None
        self._listening = False  # or listening has failed
        self._calibration: Any = None
        self._last_frame: Any = None
        self._demand: Any = None
        self._buffer = TransformBuffer()
        self._monitor = diagnostics.Monitor()
        self._hint, self._hinted = None, 0.0
        self._fit, self._fitted = FitMonitor(), 0.0
        self._settings = Parameters(self, lambda: self._completer is not None, self._changed)
        self._diagnostics = diagnostics.Diagnostics(self)
        self._jumps = self.get_clock().create_jump_callback(
            JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1),
                          on_clock_change=True), post_callback=lambda _: self._on_jump())
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_service(Trigger, '~/save_frame', self._on_save_frame)
        self._every(STATUS_PERIOD_S, self._report)

    @property
    def autostart(self) -> bool:
        """Return whether the node configures and activates itself."""
        return check('autostart', self.get_parameter('autostart').value)

    def on_configure(self, state):
        """Read parameters, load and warm up the model, create the publishers."""
        try:
            self._configure(self._settings.read())
        except SteerDepthError as error:
            return self._failed('configure', str(error))
        except Exception as error:  # rclpy would swallow it silently
            return self._failed('configure', f'{type(error).__name__}: {error}')
        self.get_logger().info(f'{self._described}; extrinsics from {self._extrinsics.source}; '
                               f'middleware {rclpy.get_rmw_implementation_identifier()}; '
                               f'inputs {self._inputs.describe()}')
        return SUCCESS

    def on_activate(self, state):
        """Start the worker, and subscribe as soon as an output has a subscriber."""
        self._worker = Worker(self._process, self._on_error)
        self._demand = self._every(DEMAND_PERIOD_S, self._follow_demand)
        result = super().on_activate(state)
        self._follow_demand()
        return result

    def on_deactivate(self, state):
        """Unsubscribe and stop the worker."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state):
        """Free the model, its GPU memory and the publishers."""
        self._free()
        return SUCCESS

    def on_shutdown(self, state):
        """Stop and free everything."""
        self.close()
        return SUCCESS

    def on_error(self, state):
        """Free everything, so that the node can be configured again."""
        self.close()
        return SUCCESS

    def close(self) -> None:
        """Stop the worker and free everything."""
        self._stop()
        self._free()

    def destroy_node(self) -> None:
        """Free everything and destroy the node."""
        self.close()
        super().destroy_node()

    def start(self) -> bool:
        """Configure and activate; return false if that failed (it is logged)."""
        return (self.trigger_configure() == SUCCESS and self.trigger_activate() == SUCCESS)

    def _every(self, seconds, callback):
        """Create a timer on the steady clock: with use_sim_time it would stop with /clock."""
        return self.create_timer(seconds, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _configure(self, values):
        file = values['calibration_file']
        self._calibration = read_calibration(Path(file).expanduser()) if file else None
        posed = calibrated_values(values, self._calibration)
        if self._listener is None and self._needs_tf(posed):
            self._listen(posed)
        # A depth image needs TF only if it is in another frame.
        later = values['depth_source'] == 'depth_image'
        self._extrinsics = Extrinsics(
            posed, self._buffer if self._listener or later else None,
            lambda: self._worker is not None and self._worker.stopping(),
            lambda: self._worker is not None and self._worker.waiting())
        self._completer = self._load(values)
        self._inputs = Inputs(self, values, self._on_job, self._start_over, self._calibration)
        self._pipeline = Pipeline(values, self._completer, self._extrinsics, self._inputs.topics,
                                  lambda sentence: self.get_logger().warning(sentence))
        self._outputs = Outputs(self, values)

    def _needs_tf(self, values):
        source = values['extrinsics.source']
        return source == 'tf' or (source == 'auto' and values['depth_source'] == 'points')

    def _listen(self, values):
        self._listening = True
        try:
            self._listener = TfListener(self, self._buffer)
        except ImportError:
            if values['extrinsics.source'] == 'tf':
                raise ConfigError(f'extrinsics.source is "tf", but {NO_TF}') from None
            self.get_logger().warning(NO_TF)

    def _load(self, values):
        try:
            from steer_depth_ros.completion.completer import DepthCompleter
        except ImportError as error:
            raise ConfigError(f'cannot load the model: {error}; install torch into the Python '
                              f'that runs this node ({sys.executable})') from None
        completer = DepthCompleter(values['preset'], values['device'], values['weights'] or None)
        height, width = WARM_UP_SIZE
        uv = np.random.default_rng(0).uniform(0, (width - 1, height - 1), (200, 2))
        completer.complete(np.zeros((height, width, 3), np.uint8), uv.astype(np.float32),
                           np.full(len(uv), 5.0, np.float32))
        self._described, self._about = completer.describe(), completer.about()
        return completer

    def _failed(self, what, reason):
        if rclpy.ok():  # else configuring was interrupted
            self.get_logger().error(f'cannot {what}: {reason}')
        self._free()
        self._described = f'cannot {what}: {reason}'
        return FAILURE

    def _stop(self):
        if self._demand is not None:
            self.destroy_timer(self._demand)
            self._demand = None
        if self._inputs is not None and self._inputs.running:
            self._inputs.stop()
        if self._worker is not None:
            self._worker.stop()
            self._monitor.drops['busy'] += self._worker.replaced
            self._worker = None

    def _free(self):
        if self._outputs is not None:
            self._outputs.destroy()
        if self._listener is not None:
            self._listener.destroy()
        self._completer = self._pipeline = self._extrinsics = self._last_frame = None
        self._inputs = self._outputs = self._listener = None
        self._listening = False
        self._described, self._about = 'not configured', {}
        gc.collect()
        torch = sys.modules.get('torch')
        if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        process_tuning.return_memory()

    def _follow_demand(self):
        """Subscribe, with the QoS of the publishers, while an output has a subscriber."""
        wanted = bool(self._outputs.subscribed())
        if wanted and not self._inputs.running:
            self._inputs.start()
        elif wanted:
            self._inputs.follow_publishers()
        elif not wanted and self._inputs.running:
            self._inputs.stop()
            self._worker.discard()

    def _on_job(self, job):
        if job.info is None:  # if it stays missing, the diagnostics say so
            self._monitor.drops['no_camera_info'] += 1
        elif self._worker is not None:
            if (not self._listening and self._extrinsics.source == 'tf'
                    and in_other_frame(job)):
                self._listen(self._settings.values)
            self._worker.submit(job)

    def _process(self, job):
        wanted = self._outputs.wanted(job.pair.image_ns)
        if not wanted:
            return
        result = self._pipeline.run(job, wanted)
        if wanted & COMPLETED and result.depth is None:
            self._drop('no_points_in_image', result.why)
            wanted -= COMPLETED
        started = time.perf_counter()
        self._outputs.publish(result, wanted)
        result.stages['publish'] = 1e3 * (time.perf_counter() - started)
        self._last_frame = result.frame, time.monotonic()
        age_ms = (self.get_clock().now().nanoseconds - job.pair.image_ns) * 1e-6
        if 0 <= age_ms < OTHER_CLOCK_MS:
            result.stages['image stamp to published'] = age_ms
        self._monitor.completed(job.pair.image_ns, result.stages)
        self._look_at_fit(result)

    def _look_at_fit(self, result):
        """Compare points and image, if nothing else is to be done."""
        now, worker, frame = time.monotonic(), self._worker, result.frame
        if (frame.points is None or now - self._fitted < FIT_PERIOD_S or worker is None
                or worker.waiting()):
            return
        self._fitted = now
        self._fit.add(frame.image, frame.camera, result.sparse.uv, result.sparse.depth,
                      frame.stamp_ns)

    def _on_error(self, error):
        known = isinstance(error, SteerDepthError)
        text = str(error) if known else f'unexpected {type(error).__name__}: {error}'
        self._drop(type(error).__name__, text)

    def _drop(self, cause, text):
        if self._monitor.dropped(cause, text) and rclpy.ok():
            self.get_logger().warning(f'dropped a frame: {text}')

    def _on_jump(self):
        """Drop all waiting messages after a jump of the clock."""
        if self._inputs is not None:
            self._inputs.reset()
        self._start_over()

    def _start_over(self):
        """Drop moving transforms and the waiting job after stamps went back."""
        self._buffer.clear()
        self._fit.clear()
        if self._worker is not None:
            self._worker.discard()

    def _changed(self, names):
        values = self._settings.values
        if self._inputs is None:
            return
        self._pipeline.values = self._outputs.values = values
        self._extrinsics.configure(calibrated_values(values, self._calibration))
        posed = sorted(names & POSE)
        if posed:
            self._fit.clear()
        if posed and self._extrinsics.source != 'parameters':
            self.get_logger().warning(
                f'{", ".join(posed)} changed, but extrinsics come from '
                f'{self._extrinsics.source}; set extrinsics.source to "parameters" to use them')
        self._inputs.configure(values)

    def _on_reset(self, request, response):
        self._on_jump()
        response.success = True
        response.message = 'dropped all waiting messages and earlier transforms'
        return response

    def _on_save_frame(self, request, response):
        try:
            if self._last_frame is None:
                raise SteerDepthError('no frame has been completed yet; subscribe to an output '
                                      'and check that image and depth arrive')
            frame, at = self._last_frame
            values = self._settings.values
            path = save_frame(frame, values['save_dir'], values['min_depth_m'],
                              values['max_depth_m'])
            response.success = True
            response.message = f'{path.resolve()}\nfrom {time.monotonic() - at:.1f} s ago'
        except SteerDepthError as error:
            response.success, response.message = False, str(error)
        return response

    def _report(self):
        active, inputs = self._worker is not None, self._inputs
        level, summary = diagnostics.OK, 'idle: nobody subscribes to an output'
        if self._completer is None:
            level, summary = diagnostics.WARN, self._described
        elif not active:
            summary = 'inactive'
        elif inputs.running:
            level, summary = self._judge(inputs)
        listener = self._listener
        age = (time.monotonic() - listener.last_arrival
               if listener is not None and listener.last_arrival else None)
        values = {'model': self._described, **self._about,
                  **diagnostics.status_values(inputs, self._monitor, age)}
        fit = self._fit.fit()
        if fit is not None:
            values['points and image fit'] = fit.describe()
        if active:
            values['drops: busy'] = str(self._busy())
        self._diagnostics.publish(level, summary, values)

    def _busy(self):
        return self._monitor.drops['busy'] + self._worker.replaced

    def _judge(self, inputs):
        hint, now = inputs.matcher.hint(), time.monotonic()
        if hint:
            self._hint, self._hinted = hint, now
        recent = self._hint if now - self._hinted < HINT_PERIOD_S else None
        found = diagnostics.judge_inputs(inputs, recent)
        if found:  # in one line, as the throttle would suppress a second one
            self.get_logger().warning('; '.join(text for _, text in found),
                                      throttle_duration_sec=LOG_PERIOD_S)
        found += self._monitor.judge_speed(inputs.sync.counts['pairs'], self._busy())
        found += [(diagnostics.WARN, text) for text in self._monitor.problems()]
        found += diagnostics.judge_fit(self._fit.fit())
        if not found:
            return diagnostics.OK, 'completing'
        return max(level for level, _ in found), '; '.join(text for _, text in found)


def interrupt_once(signum, frame):
    """Raise KeyboardInterrupt, and ignore further interrupts, which would break the cleanup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(args=None) -> int:
    """Run the node until it is interrupted."""
    # launch and the terminal both send SIGINT.
    signal.signal(signal.SIGINT, interrupt_once)
    process_tuning.prepare()
    node = None
    try:
        try:
            rclpy.init(args=args)
        except (RuntimeError, ValueError) as error:  # RCLError is a RuntimeError
            raise ConfigError(explain(error)) from None
        node = CompletionNode()
        if node.autostart:
            node.start()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ConfigError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f'completion_node: error: {error}', file=sys.stderr)
        return 2
    except RuntimeError:  # rclpy's RCLError among them
        if rclpy.ok():
            raise
        # Interrupted during a transition, which could not be announced any more.
    finally:
        shut_down(node)
        gc.freeze()  # without it, the garbage collector spends a second on torch at exit
    return 0


if __name__ == '__main__':
    sys.exit(main())
