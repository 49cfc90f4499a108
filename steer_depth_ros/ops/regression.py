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
"""Kernel regression: the public function, its checks, and the torch operator behind it."""
from typing import Optional

import torch
from torch import Tensor

from steer_depth_ros.ops import libraries, native, regression_torch
from steer_depth_ros.ops.timing import stage


def kernel_regression(uv, values, steering, size, valid=None, guide=None, guide_at_samples=None,
                      bandwidth=5.0, window=(26, 34), neighbours=None, sectors=1, order=2,
                      profile='gaussian', border='none', exact_at_samples=False, ridge=None,
                      aspect=1.0):
    """
    Interpolate scattered samples with anisotropic kernels and a local polynomial.

    At pixel x a polynomial in (dy, dx) of the given order is fitted to the samples by weighted
    least squares and its constant term returned (Takeda et al. 2007); order 0 is the
    Nadaraya-Watson estimate of Liu et al. 2021. Sample i weighs
    `w = |gamma| exp(-q / (2 h^2))`, q = v^T C_i v, C_i = gamma U(theta) diag(sigma, 1/sigma)
    U(theta)^T, v = (dy, dx) from pixel to sample. A fit that is ill-conditioned (a pivot of the
    elimination under 2e-5 of its diagonal entry) falls back to the order below, per pixel.

    Args:
    ----
    uv: (B, N, 2) sample positions in pixels, u = column, v = row, not rounded.
    values: (B, N).
    steering: (B, N, 3) elongation sigma > 0, rotation theta (rad), scaling gamma.
    size: (H, W) of the result.
    valid: bool (B, N); False marks padding.
    guide, guide_at_samples: (B, F, H, W) and (B, N, F); factor exp(-|g(x) - g_i|^2 / 2).
    bandwidth: h, a number, (B, N) or (B, H, W); pixels, or local spacings with `neighbours`.
    window: half sizes (rows, columns); samples with |dy| <= rows and |dx| <= columns count.
    neighbours: K in 4..64: instead of the window, the K nearest samples of every pixel, with
        (dy, dx) in units of the local spacing and weights tapered to zero at the K-th.
    sectors: 1, 4 or 8; K is shared among that many directions, nearest first in each. The local
        spacing is then the geometric mean over the sectors.
    order: 0, 1 or 2.
    profile: 'gaussian', or 'tanh' as the 2021 release: w = |gamma| exp(2 tanh(-q / (2 h^2))) with
        its cross term, sigma + 1e-5, and 0 where no sample is.
    border: 'none', or 'mirror': samples are mirrored over the border (window only).
    exact_at_samples: a pixel that carries a sample keeps that sample's value.
    ridge: >= 0, a number or (B, H, W); holds the slopes down: ridge * mass is added to the
        diagonal of the normal matrix but for the constant, in coordinates scaled by the window
        or by the local spacing.
    aspect: neighbours only; rows are divided by it before distances, directions and kernels are
        taken. With the ratio of line to point spacing, the nearest samples of a scanning LiDAR
        no longer lie on one line.

    Returns:
    -------
    dense: (B, H, W), NaN ('tanh': 0) where no sample has weight.
    mass: (B, H, W), the sum of the weights.

    Differentiable with respect to values, steering, bandwidth, ridge and both guides. float32 on
    CPU and CUDA runs native code; float64, or a machine without a compiled library, plain
    torch. Half-precision inputs (autocast) are computed in float32.

    Raises:
    ------
    ValueError or TypeError that names the argument.

    """
    if not _two_integers(size, smallest=1):
        raise ValueError(f'size must be (height, width), two integers >= 1, got {size}')
    if not _two_integers(window, smallest=0):
        raise ValueError(f'window must be two half sizes, integers >= 0, got {window}')
    data = _checked(uv, values, steering, size, valid, guide, guide_at_samples, bandwidth, ridge,
                    profile, window, border)
    height, width = size
    if neighbours is not None:
        if not 4 <= neighbours <= 64:
            raise ValueError(f'neighbours must be 4 to 64, got {neighbours}')
        if sectors not in (1, 4, 8):
            raise ValueError(f'sectors must be 1, 4 or 8, got {sectors}')
        if neighbours % sectors or neighbours < 2 * sectors:
            raise ValueError(f'neighbours={neighbours} must be a multiple of sectors={sectors}, '
                             'with two or more a sector')
        if border != 'none':
            raise ValueError("border='mirror' needs a window, not neighbours")
    if not 0.01 <= aspect <= 100:
        raise ValueError(f'aspect must be 0.01 to 100, got {aspect}')
    if aspect != 1 and neighbours is None:
        raise ValueError('aspect needs neighbours, not a window')
    if order not in (0, 1, 2):
        raise ValueError(f'order must be 0, 1 or 2, got {order}')
    if profile not in native.PROFILES:
        raise ValueError(f'profile must be one of {native.PROFILES}, got {profile!r}')
    if border not in native.BORDERS:
        raise ValueError(f'border must be one of {native.BORDERS}, got {border!r}')

    dense, mass = torch.ops.steer_depth_ros.kernel_regression(
        *data, height, width, int(window[0]), int(window[1]), neighbours or 0, sectors, order,
        native.PROFILES.index(profile), native.BORDERS.index(border), float(aspect))
    if exact_at_samples:
        dense = overwrite(dense, data[0], data[1], data[3])
    return dense, mass


def pixel_of(uv):
    """Return the pixels (..., 2), whole numbers, that hold uv; as geometry.projection.pixel_of."""
    return torch.floor(uv + 0.5)


def describe_backend(device='cpu'):
    """Name the code that float32 inputs on `device` run through."""
    name = libraries.library_name(torch.device(device))
    return {None: 'plain torch (no compiled library)', 'cuda': 'native CUDA'}.get(
        name, f'native CPU ({name})')


def _two_integers(pair, smallest):
    return (isinstance(pair, (tuple, list)) and len(pair) == 2
            and all(hasattr(n, '__index__') and n >= smallest for n in pair))


def _checked(uv, values, steering, size, valid, guide, guide_at_samples, bandwidth, ridge,
             profile, window, border):
    """Return the operator's tensors: of one device and float type, contiguous and finite."""
    tensors = {'values': values, 'uv': uv, 'steering': steering, 'guide': guide,
               'guide_at_samples': guide_at_samples, 'bandwidth': bandwidth, 'ridge': ridge,
               'valid': valid}
    for name, tensor in tensors.items():
        if name in ('bandwidth', 'ridge') and isinstance(tensor, (int, float)):
            tensor = tensors[name] = torch.full((), float(tensor), device=values.device)
        if tensor is None and name in ('guide', 'guide_at_samples', 'ridge', 'valid'):
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f'{name} must be a tensor, got {type(tensor).__name__}')
        if name == 'valid' and tensor.dtype != torch.bool:
            raise TypeError(f'valid must be bool, got {tensor.dtype}')
        if name != 'valid' and not tensor.is_floating_point():
            raise TypeError(f'{name} must be of a floating-point type, got {tensor.dtype}')
        if tensor.device != values.device:
            raise ValueError(f'{name} is on {tensor.device}, but values on {values.device}')
    if uv.dim() != 3 or uv.shape[-1] != 2:
        raise ValueError(f'uv must have shape (B, N, 2), got {tuple(uv.shape)}')
    batch, count = uv.shape[:2]
    height, width = size
    _require_countable(batch, count, height, width, window, border)
    shapes = {'values': (batch, count), 'steering': (batch, count, 3)}
    if (guide is None) != (guide_at_samples is None):
        raise ValueError('guide and guide_at_samples go together; one of them is missing')
    if guide is not None:
        features = guide.shape[1] if guide.dim() == 4 else None
        shapes.update(guide=(batch, features, height, width),
                      guide_at_samples=(batch, count, features))
    if valid is not None:
        shapes['valid'] = (batch, count)
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f'{name} must have shape {shape}, got {tuple(tensors[name].shape)}')
    allowed = {'bandwidth': ((), (batch, count), (batch, height, width)),
               'ridge': ((), (batch, height, width))}
    for name, choices in allowed.items():
        if tensors[name] is not None and tuple(tensors[name].shape) not in choices:
            raise ValueError(f'{name} must be a number or of shape '
                             + ' or '.join(map(str, choices[1:]))
                             + f', got {tuple(tensors[name].shape)}')

    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    result = {}
    for name in ('uv', 'values', 'steering', 'guide', 'guide_at_samples', 'bandwidth', 'ridge'):
        tensor = tensors[name]
        if tensor is not None:
            tensor = tensor.to(dtype).contiguous()
            if valid is not None and tensor.shape[:2] == (batch, count) and name != 'guide':
                mask = valid.reshape(valid.shape + (1,) * (tensor.dim() - 2))
                filler = 1. if name in ('bandwidth', 'steering') else 0.
                tensor = torch.where(mask, tensor, filler)
        result[name] = tensor
    _require_sound(result, smallest_sigma=0. if profile == 'tanh' else 1e-30)
    # Numbers that want a gradient become one per sample or pixel; autograd sums them up again.
    if result['bandwidth'].dim() == 0 and result['bandwidth'].requires_grad:
        result['bandwidth'] = result['bandwidth'].expand(batch, count).contiguous()
    if ridge is not None and result['ridge'].dim() == 0 and result['ridge'].requires_grad:
        result['ridge'] = result['ridge'].expand(batch, height, width).contiguous()
    return (result['uv'], result['values'], result['steering'],
            None if valid is None else valid.contiguous(), result['guide'],
            result['guide_at_samples'], result['bandwidth'], result['ridge'])


def _require_countable(batch, count, height, width, window, border):
    """Refuse what has more pixels, samples or reflections than native code can count."""
    rows, columns = window
    images = 1
    if border == 'mirror':  # csrc/kernel_regression/device.h: plan_workspace
        for last, reach in ((height - 1, rows), (width - 1, columns)):
            images *= 2 * (2 * (reach // (2 * last) + 1) + 1) if last > 0 else 1
    limits = {
        'pixels': batch * (height + 15) * (width + 15),
        'pixels of the image and its window around': batch * (height + 2 * rows + 2)
        * (width + 2 * columns + 2) // 4,
        'samples times 32': batch * count * 32,
        'reflections of samples': batch * count * images,
    }
    for name, number in limits.items():
        if number > libraries.MOST:
            raise ValueError(f'{batch} images of {width} x {height} pixels with {count} samples '
                             f'and window {tuple(window)} are too many: {number:,} {name}, the '
                             f'operator counts to {libraries.MOST:,}; split the batch or the '
                             'image')


def _require_sound(tensors, smallest_sigma):
    """Refuse NaN, infinity and numbers out of range, where looking does not break a graph."""
    present = {k: t.detach() for k, t in tensors.items() if t is not None and t.numel()}
    if not present or torch.compiler.is_compiling():
        return
    values = tensors['values']
    if values.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    # One pass a tensor and, on a GPU, one wait for all: sums are finite unless a member is not.
    sound = [torch.stack([t.sum() for t in present.values()]).isfinite().all()]
    if 'bandwidth' in present:
        sound.append(present['bandwidth'].min() > 0)
    if 'steering' in present:
        sound.append(present['steering'].select(-1, 0).min() >= smallest_sigma)
    if 'ridge' in present:
        sound.append(present['ridge'].min() >= 0)
    if torch.stack(sound).all():
        return
    for name, tensor in present.items():
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise ValueError(f'{name} holds {bad} values that are not finite')
    if (present['bandwidth'] <= 0).any():
        raise ValueError(f'bandwidth must be > 0, got {present["bandwidth"].min():g}')
    if 'steering' in present and (present['steering'][..., 0] < smallest_sigma).any():
        raise ValueError('steering must have elongations sigma > 0, got '
                         f'{present["steering"][..., 0].min():g}')
    if 'ridge' in present and (present['ridge'] < 0).any():
        raise ValueError(f'ridge must be >= 0, got {present["ridge"].min():g}')


def overwrite(dense, uv, values, valid):
    """Set the pixels that carry a sample to its value; of several, the one nearest the center."""
    batch, height, width = dense.shape
    count = uv.shape[1]
    if count == 0:
        return dense
    # Shapes do not depend on the data, so that this can be compiled and captured in a graph.
    pixel = pixel_of(uv)
    x, y = pixel.unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if valid is not None:
        inside = inside & valid
    nearest_first = (uv - pixel).pow(2).sum(-1).argsort(dim=1, stable=True)
    at = torch.where(inside, y.long() * width + x.long(), height * width)
    rank = torch.arange(count, device=dense.device).expand(batch, count)
    best = rank.new_full((batch, height * width + 1), count).scatter_reduce(
        1, at.gather(1, nearest_first), rank, 'amin')[:, :-1]
    found = values.gather(1, nearest_first).gather(1, best.clamp(max=count - 1))
    return torch.where(best < count, found, dense.reshape(batch, -1)).reshape(dense.shape)


def _extent(tensor):
    return native.ABSENT if tensor is None else {
        0: native.SCALAR, 2: native.PER_SAMPLE, 3: native.PER_PIXEL}[tensor.dim()]


def _problem(uv, values, steering, valid, guide, guide_at_samples, bandwidth, ridge, height, width,
             window_rows, window_cols, neighbours, sectors, order, profile, border, aspect,
             **more):
    return native.problem(
        batch=uv.shape[0], samples=uv.shape[1], height=height, width=width,
        features=0 if guide is None else guide.shape[1], window_rows=window_rows,
        window_cols=window_cols, neighbours=neighbours, sectors=sectors, order=order,
        profile=profile, border=border, bandwidth_extent=_extent(bandwidth),
        ridge_extent=_extent(ridge), threads=torch.get_num_threads(), row_scale=1 / aspect,
        uv=uv, values=values, steering=steering, valid=valid, guide=guide,
        guide_at_samples=guide_at_samples, bandwidth=bandwidth, ridge=ridge, **more)


def _call(library, name, entry, problem, device):
    libraries.call(library, name, entry, problem, device,
                   lambda p: library.steer_workspace(p, int(entry == 'steer_backward')))


def _run_torch(inputs, height, width, window_rows, window_cols, neighbours, sectors, order,
               profile, border, aspect):
    uv, values, steering, valid, guide, guide_at_samples, bandwidth, ridge = inputs
    return regression_torch.kernel_regression(
        uv, values, steering, (height, width), valid, guide, guide_at_samples, bandwidth,
        (window_rows, window_cols), neighbours or None, sectors, order, native.PROFILES[profile],
        native.BORDERS[border], ridge, aspect)


@libraries.operator('kernel_regression')
def _forward(uv: Tensor, values: Tensor, steering: Tensor, valid: Optional[Tensor],
             guide: Optional[Tensor], guide_at_samples: Optional[Tensor], bandwidth: Tensor,
             ridge: Optional[Tensor], height: int, width: int, window_rows: int, window_cols: int,
             neighbours: int, sectors: int, order: int, profile: int,
             border: int, aspect: float) -> tuple[Tensor, Tensor]:
    inputs = (uv, values, steering, valid, guide, guide_at_samples, bandwidth, ridge)
    options = (height, width, window_rows, window_cols, neighbours, sectors, order, profile,
               border, aspect)
    name, library = libraries.library_of(values)
    with stage('operator', values.device):
        if library is None:
            return _run_torch(inputs, *options)
        dense = values.new_empty(uv.shape[0], height, width)
        mass = torch.empty_like(dense)
        _call(library, name, 'steer_forward', _problem(*inputs, *options, dense=dense, mass=mass),
              values.device)
        return dense, mass


@torch.library.register_fake('steer_depth_ros::kernel_regression')
def _forward_fake(uv, values, steering, valid, guide, guide_at_samples, bandwidth, ridge, height,
                  width, *_):
    shape = (uv.shape[0], height, width)
    return values.new_empty(shape), values.new_empty(shape)


# Returns the gradients of values, steering, guide, guide_at_samples, bandwidth, ridge. An operator
# cannot return None, so a gradient that is not wanted comes back with no elements.
@libraries.operator('kernel_regression_backward')
def _backward(grad_dense: Tensor, grad_mass: Tensor, uv: Tensor, values: Tensor, steering: Tensor,
              valid: Optional[Tensor], guide: Optional[Tensor], guide_at_samples: Optional[Tensor],
              bandwidth: Tensor, ridge: Optional[Tensor], height: int, width: int,
              window_rows: int, window_cols: int, neighbours: int, sectors: int, order: int,
              profile: int, border: int, aspect: float) -> list[Tensor]:
    inputs = (uv, values, steering, valid, guide, guide_at_samples, bandwidth, ridge)
    options = (height, width, window_rows, window_cols, neighbours, sectors, order, profile,
               border, aspect)
    name, library = libraries.library_of(values)
    if library is None:
        return _torch_gradient(grad_dense, grad_mass, inputs, options)
    grads = [torch.empty_like(values), torch.empty_like(steering),
             *(values.new_empty(0) if t is None or t.dim() == 0 else torch.empty_like(t)
               for t in (guide, guide_at_samples, bandwidth, ridge))]
    names = ('grad_values', 'grad_steering', 'grad_guide', 'grad_guide_at_samples',
             'grad_bandwidth', 'grad_ridge')
    out = {n: g for n, g in zip(names, grads) if g.numel()}
    _call(library, name, 'steer_backward', _problem(
        *inputs, *options, grad_dense=grad_dense.contiguous(), grad_mass=grad_mass.contiguous(),
        **out), values.device)
    return grads


def _torch_gradient(grad_dense, grad_mass, inputs, options):
    places = [i for i in (1, 2, 4, 5, 6, 7) if inputs[i] is not None]

    def run(*tensors):
        found = dict(zip(places, tensors))
        return _run_torch([found.get(i, t) for i, t in enumerate(inputs)], *options)

    # Inside an operator autograd proper is switched off; torch.func brings its own.
    _, pull_back = torch.func.vjp(run, *(inputs[i] for i in places))
    found = dict(zip(places, pull_back((grad_dense, grad_mass))))
    return [found.get(i, inputs[1].new_empty(0)) for i in (1, 2, 4, 5, 6, 7)]


@torch.library.register_fake('steer_depth_ros::kernel_regression_backward')
def _backward_fake(grad_dense, grad_mass, uv, values, steering, valid, guide, guide_at_samples,
                   bandwidth, ridge, *_):
    return [torch.empty_like(values), torch.empty_like(steering),
            *(values.new_empty(0) if t is None or t.dim() == 0 else torch.empty_like(t)
              for t in (guide, guide_at_samples, bandwidth, ridge))]


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:8])
    ctx.options = inputs[8:]


def _gradient(ctx, grad_dense, grad_mass):
    tensors = ctx.saved_tensors
    found = torch.ops.steer_depth_ros.kernel_regression_backward(
        grad_dense.contiguous(), grad_mass.contiguous(), *tensors, *ctx.options)
    grads = [None] * (8 + len(ctx.options))
    for position, grad in zip((1, 2, 4, 5, 6, 7), found):
        if ctx.needs_input_grad[position]:
            grads[position] = grad
    return tuple(grads)


torch.library.register_autograd('steer_depth_ros::kernel_regression', _gradient,
                                setup_context=_setup_context)
