# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every layout a PointCloud2 can have."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clcp_ros.errors import RecordingError
from clcp_ros.point_cloud import cloud_fields
from training.sources._pointcloud2 import Convention, decode_cloud, learn_convention
from training.sources.base import Drops

TYPES = {'i1': 1, 'u1': 2, 'i2': 3, 'u2': 4, 'i4': 5, 'u4': 6, 'f4': 7, 'f8': 8}


def cloud(
    columns: dict[str, tuple[str, np.ndarray]],
    *,
    big: bool = False,
    gap: int = 0,
    tail: int = 0,
    height: int = 1,
    row_pad: int = 0,
) -> SimpleNamespace:
    """A message with `gap` junk bytes before each field, `tail` after each point."""
    order = '>' if big else '<'
    offset, fields, formats = 0, [], []
    for name, (kind, _) in columns.items():
        offset += gap
        fields.append(SimpleNamespace(name=name, offset=offset, datatype=TYPES[kind], count=1))
        formats.append((name, order + kind, offset))
        offset += np.dtype(kind).itemsize
    step = offset + tail
    count = len(next(iter(columns.values()))[1])
    width = count // height
    layout = np.dtype(
        {
            'names': [f[0] for f in formats],
            'formats': [f[1] for f in formats],
            'offsets': [f[2] for f in formats],
            'itemsize': step,
        }
    )
    buffer = np.frombuffer(bytes([0xEE]) * (step * count), layout).copy()
    for name, (_, values) in columns.items():
        buffer[name] = values
    rows = buffer.view(np.uint8).reshape(height, width * step)
    rows = np.concatenate([rows, np.full((height, row_pad), 0xEE, np.uint8)], axis=1)
    return SimpleNamespace(
        height=height, width=width, fields=fields, is_bigendian=big, point_step=step,
        row_step=rows.shape[1], data=rows.ravel(), is_dense=True,
    )  # fmt: skip


def decode(message: SimpleNamespace, stamp_ns: int = 0) -> tuple[np.ndarray, Convention, Drops]:
    dropped = Drops()
    convention = learn_convention([cloud_fields(message)])
    return decode_cloud(message, convention, stamp_ns, dropped), convention, dropped


def xyz(count: int = 4) -> dict[str, tuple[str, np.ndarray]]:
    values = np.arange(1, 3 * count + 1, dtype=np.float64).reshape(3, count)
    return {axis: ('f4', values[i]) for i, axis in enumerate('xyz')}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_layout_gives_the_same_points(data):
    rows = data.draw(st.integers(1, 4))
    count = rows * data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    place = rng.integers(1, 100, (3, count)).astype(float)
    columns = {axis: (data.draw(st.sampled_from(['f4', 'f8', 'i2', 'i4'])), place[i])
               for i, axis in enumerate('xyz')}  # fmt: skip
    bad = np.zeros(count, bool)
    float_axes = [axis for axis in 'xyz' if columns[axis][0][0] == 'f']
    if float_axes and data.draw(st.booleans()):
        bad = rng.random(count) < 0.4
        axis = data.draw(st.sampled_from(float_axes))
        columns[axis][1][bad] = data.draw(st.sampled_from([np.nan, np.inf]))
    intensity, ring = rng.integers(0, 256, count), rng.integers(0, 64, count)
    intensity[0] = 200
    columns['intensity'] = (data.draw(st.sampled_from(['u1', 'u2', 'f4'])), intensity)
    columns['ring'] = (data.draw(st.sampled_from(['u1', 'u2', 'i4'])), ring)
    names = data.draw(st.permutations([*columns]))
    message = cloud(
        {name: columns[name] for name in names},
        big=data.draw(st.booleans()),
        gap=data.draw(st.integers(0, 5)),
        tail=data.draw(st.integers(0, 5)),
        height=rows,
        row_pad=data.draw(st.integers(0, 7)) if rows > 1 else 0,
    )
    points, convention, dropped = decode(message)
    assert convention.columns == ('x', 'y', 'z', 'intensity', 'ring')
    # All columns of the same points: what a removed NaN must not shift.
    expected = np.stack([*place, intensity / 255, ring], axis=1)[~bad].astype(np.float32)
    np.testing.assert_allclose(points, expected, rtol=1e-6)
    assert dropped.get('points: not finite', 0) == bad.sum()


def test_no_echo_points_are_dropped():
    columns = xyz()
    for axis in 'xyz':
        columns[axis][1][2] = 0
    columns['x'][1][0] = 0  # a zero in one column only is a place like any other
    points, _, dropped = decode(cloud(columns))
    assert len(points) == 3
    assert dropped == {'points: no echo (0, 0, 0)': 1}


@pytest.mark.parametrize(
    ('kind', 'values', 'scale'),
    [
        ('f4', [0, 0.5, 1.0, 0.2], 1.0),
        ('f4', [0, 17.0, 230.0, 4.0], 255.0),
        ('u1', [0, 1, 1, 0], 255.0),
        ('u2', [0, 1, 255, 0], 255.0),
        ('u2', [0, 1, 3000, 0], 4095.0),
        ('f4', [0, 1, 60000, 0], 65535.0),
    ],
)
def test_intensity_scales(kind, values, scale):
    points, convention, _ = decode(cloud({**xyz(), 'Intensity': (kind, np.array(values))}))
    assert convention.intensity_scale == scale
    np.testing.assert_allclose(points[:, 3], np.array(values) / scale, rtol=1e-6)


def test_scale_is_learned_from_several_scans_and_kept():
    dark, bright = ({**xyz(), 'intensity': ('f4', np.full(4, v))} for v in (0.9, 90.0))
    convention = learn_convention([cloud_fields(cloud(dark)), cloud_fields(cloud(bright))])
    points = decode_cloud(cloud(dark), convention, 0, Drops())
    np.testing.assert_allclose(points[:, 3], 0.9 / 255)
    # Later values beyond the scale are cut off, not let through.
    wild = {**xyz(), 'intensity': ('f4', np.full(4, 1e6))}
    assert decode_cloud(cloud(wild), convention, 0, Drops())[:, 3].max() == 1


def test_without_intensity_it_is_zero():
    points, convention, _ = decode(cloud(xyz()))
    assert points.shape == (4, 4)
    assert not points[:, 3].any()
    assert 'no intensity' in convention.describe()


STAMP_NS = 1_700_000_000_250_000_000


@pytest.mark.parametrize(
    ('name', 'kind', 'values'),
    [
        ('time', 'f4', [0, 0.01, 0.05, 0.1]),
        ('t', 'u4', [0, 10_000_000, 50_000_000, 100_000_000]),
        ('offset_time', 'u4', [0, 10_000, 50_000, 100_000]),
        ('time', 'f4', [0, 10, 50, 100]),
        ('timestamp', 'f8', [1_700_000_000.25 + dt for dt in (0, 0.01, 0.05, 0.1)]),
        ('timestamp', 'f8', [STAMP_NS + dt for dt in (0, 1e7, 5e7, 1e8)]),
    ],
)
def test_times_in_every_unit(name, kind, values):
    points, convention, _ = decode(cloud({**xyz(), name: (kind, np.array(values))}), STAMP_NS)
    assert convention.columns[-1] == 'time'
    np.testing.assert_allclose(points[:, -1], [0, 0.01, 0.05, 0.1], atol=1e-6)


@pytest.mark.parametrize(
    ('columns', 'stamps', 'expected', 'base'),
    [
        # Velodyne, older drivers: seconds back from the end of the scan
        ({'time': ('f4', [-0.1, -0.05, 0])}, True, [-0.1, -0.05, 0], 'stamp'),
        # Autoware (PointXYZIRCAEDT)
        ({'time_stamp': ('u4', [0, 5e7, 1e8])}, True, [0, 0.05, 0.1], 'stamp'),
        # Aeva
        ({'time_offset_ns': ('i4', [-5e7, 0, 5e7])}, True, [-0.05, 0, 0.05], 'stamp'),
        # Blickfeld
        ({'point_time_offset': ('u4', [0, 5e7, 1e8])}, True, [0, 0.05, 0.1], 'stamp'),
        # Hesai and Robosense: seconds since 1970 in double
        ({'timestamp': ('f8', [STAMP_NS * 1e-9 + t for t in (0, 0.05, 0.1)])}, True,
         [0, 0.05, 0.1], 'epoch'),
        # Livox: nanoseconds since 1970 in double
        ({'timestamp': ('f8', [STAMP_NS + t for t in (0, 5e7, 1e8)])}, True, [0, 0.05, 0.1],
         'epoch'),
        # The lidar counts from when it was switched on: the first point is at the stamp.
        ({'timestamp': ('f8', [1234.5 + t for t in (0, 0.05, 0.1)])}, True, [0, 0.05, 0.1],
         'first'),
        # Or it was given TAI: 37 s ahead.
        ({'timestamp': ('f8', [STAMP_NS * 1e-9 + 37 + t for t in (0, 0.05, 0.1)])}, True,
         [0, 0.05, 0.1], 'first'),
        # Luminar: seconds and nanoseconds apart, up to the stamp
        ({'time_sec': ('u4', [STAMP_NS // 10**9] * 3),
          'time_nsec': ('u4', [1.5e8, 2e8, 2.5e8])}, True, [-0.1, -0.05, 0], 'epoch'),
        ({'time_sec': ('u4', [77] * 3), 'time_nsec': ('u4', [1.5e8, 2e8, 2.5e8])}, True,
         [0, 0.05, 0.1], 'first'),
    ],
)  # fmt: skip
def test_times_of_the_vendors(columns, stamps, expected, base):
    message = cloud({**xyz(3), **{n: (k, np.array(v)) for n, (k, v) in columns.items()}})
    fields = cloud_fields(message)
    convention = learn_convention([fields], [STAMP_NS] if stamps else None, 0.1)
    assert convention.time_base == base
    points = decode_cloud(message, convention, STAMP_NS, Drops())
    np.testing.assert_allclose(points[:, -1], expected, atol=2e-6)
    assert 'time is' in convention.describe()


def test_the_period_tells_short_nanoseconds_from_long_microseconds():
    """A Livox' scan of 1.2 ms could be 1.2 s, but scans come every 10 ms."""
    fields = cloud_fields(cloud({**xyz(3), 'offset_time': ('u4', np.array([0, 6e5, 1.2e6]))}))
    assert learn_convention([fields], None, 0.01).time_unit == 1e-9
    assert learn_convention([fields], None, None).time_unit == 1e-6


def test_seconds_since_1970_in_single_precision_are_no_times():
    values = np.array([1.7e9, 1.7e9, 1.7e9])
    convention = learn_convention([cloud_fields(cloud({**xyz(3), 'timestamp': ('f4', values)}))])
    assert convention.time is None


@pytest.mark.parametrize('name', ['ring', 'channel', 'line', 'laser_id', 'Ring'])
def test_names_of_the_ring(name):
    points, convention, _ = decode(cloud({**xyz(), name: ('u2', np.arange(4))}))
    assert convention.columns == ('x', 'y', 'z', 'intensity', 'ring')
    np.testing.assert_array_equal(points[:, 4], np.arange(4))


@pytest.mark.parametrize('name', ['intensity', 'reflectivity', 'remission', 'I', 'reflectance'])
def test_names_of_the_intensity(name):
    points, _, _ = decode(cloud({**xyz(), name: ('u1', np.arange(4) * 50)}))
    np.testing.assert_allclose(points[:, 3], np.arange(4) * 50 / 255, rtol=1e-6)


def test_reflectors_beyond_one_do_not_make_white_walls_dark():
    """Luminar's reflectance: most below 1, retroreflectors up to 2."""
    values = np.concatenate([np.linspace(0, 0.8, 95), np.linspace(1.1, 2, 5)])
    points, convention, _ = decode(cloud({**xyz(100), 'intensity': ('f4', values)}))
    assert convention.intensity_scale == 1
    np.testing.assert_allclose(points[:, 3], values.clip(0, 1), rtol=1e-6)


def test_a_position_in_one_field():
    """One field of three elements, and one of two of which the first counts."""
    place = np.arange(1, 13, dtype='<f4').reshape(4, 3)
    pairs = np.array([[10, 1], [20, 2], [30, 3], [40, 4]], '<u2')
    rows = np.concatenate([place.view(np.uint8), pairs.view(np.uint8)], axis=1)
    field = SimpleNamespace
    message = field(
        height=1, width=4, is_bigendian=False, point_step=16, row_step=64, data=rows.ravel(),
        fields=[field(name='xyz', offset=0, datatype=7, count=3),
                field(name='intensity', offset=12, datatype=4, count=2),
                field(name='_', offset=0, datatype=2, count=1000)],
    )  # fmt: skip
    points, _, _ = decode(message)
    np.testing.assert_array_equal(points[:, :3], place)
    np.testing.assert_allclose(points[:, 3], pairs[:, 0] / 255, rtol=1e-6)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_message_gives_finite_points_or_one_error(data):
    """Whatever the numbers in a message are."""
    number = st.integers(0, 40)
    size = data.draw(st.integers(0, 400))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    names = st.sampled_from(['x', 'y', 'z', 'intensity', 'time', 't', 'ring', 'xyz', '', '_',
                             'time_sec', 'time_nsec', 'timestamp'])  # fmt: skip
    message = SimpleNamespace(
        height=data.draw(number), width=data.draw(number), is_bigendian=data.draw(st.booleans()),
        point_step=data.draw(number), row_step=data.draw(st.integers(0, 400)),
        data=rng.integers(0, 256, size, dtype=np.uint8),
        fields=[
            SimpleNamespace(
                name=data.draw(names),
                offset=data.draw(number),
                datatype=data.draw(st.integers(0, 9)),
                count=data.draw(st.integers(0, 4)),
            )
            for _ in range(data.draw(st.integers(0, 8)))
        ],
    )  # fmt: skip
    if data.draw(st.booleans()):
        message.fields += [SimpleNamespace(name=a, offset=4 * i, datatype=7, count=1)
                           for i, a in enumerate('xyz')]  # fmt: skip
    try:
        points, convention, _ = decode(message, STAMP_NS)
    except RecordingError:
        return
    assert np.isfinite(points).all()
    assert points.shape[1] == len(convention.columns)
    assert len(points) <= message.width * message.height


def test_empty_cloud():
    message = cloud({axis: ('f4', np.zeros(0)) for axis in 'xyz'})
    message.data = np.zeros(0, np.uint8)
    assert len(cloud_fields(message)) == 0
    assert decode_cloud(message, Convention(), 0, Drops()).shape == (0, 4)


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'width': 5}, '5 x 1 points'),
        ({'data': np.zeros(10, np.uint8)}, 'has 10 bytes'),
        ({'point_step': 8}, "'z' at 8 is outside"),
        ({'fields': []}, 'without x, y, z'),
        ({'height': 2, 'width': 2, 'row_step': 3}, 'row_step 3'),
    ],
)
def test_messages_that_contradict_themselves(change, says):
    message = cloud(xyz())
    vars(message).update(change)
    with pytest.raises(RecordingError, match=says):
        cloud_fields(message)


def test_unknown_field_type():
    message = cloud(xyz())
    message.fields[1].datatype = 9
    with pytest.raises(RecordingError, match="'y' has unknown type 9"):
        cloud_fields(message)


def test_field_that_later_scans_lack():
    convention = learn_convention([cloud_fields(cloud({**xyz(), 'ring': ('u2', np.arange(4))}))])
    with pytest.raises(RecordingError, match='without ring'):
        decode_cloud(cloud(xyz()), convention, 0, Drops())
