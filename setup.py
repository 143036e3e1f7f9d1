# SPDX-FileCopyrightText: 2026 The clcp_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ament_python package of the robot's side.

`training/` is run from a clone; only its dependencies are named here.
"""

from glob import glob

from setuptools import find_packages, setup

PACKAGE = 'clcp_ros'

# What runs on the robot. No torch.
RUNTIME = [
    'numpy>=1.26',  # arrays; 1.26 is what Jazzy ships
    'onnxruntime>=1.17',  # runs model.onnx on CPU, CUDA or TensorRT
    # The fastest on x86 processors (docs/performance.md); elsewhere ONNX Runtime does it alone.
    'openvino>=2024.6; platform_machine == "x86_64"',
]
OPENCV = ['opencv-python-headless>=4.6']  # JPEG, resize, colour maps; headless: no GUI libraries

ROS = [
    # Real rclpy, Fast DDS and the common messages as wheels (Linux x86_64). Only the ros-jazzy-*
    # names: the others resolve to other distributions or to unrelated packages.
    'ros-jazzy-rclpy[fastrtps]',
    'ros-jazzy-common-interfaces',
]
TRAINING = [
    # torch, torchvision and timm must come from one index, see the Makefile.
    'torch>=2.4',
    'torchvision>=0.19',
    'timm>=1.0.12',  # every image encoder, with its preprocessing statistics
    'lightning>=2.6',  # training loop, scale-out, resume; 2.6 loads checkpoints as data only
    'jsonargparse[signatures]>=4.49',  # typed commands with --config and --print_config
    'safetensors>=0.4',  # weights as data, never pickles
    'onnx>=1.16',  # writes and checks model.onnx
    'onnxscript>=0.2',  # torch's ONNX exporter
    'pyarrow>=15',  # index.parquet of the pair set, without pandas
    'rosbags>=0.11',  # reads and writes ROS 1 and ROS 2 bags without a ROS installation
    'scikit-learn>=1.4',  # Ledoit-Wolf and PCA when the monitor's reference is fitted
    'matplotlib>=3.8',  # plots of the reports
    'jinja2>=3.1',  # HTML of the reports, escaped
    'tqdm>=4.66',  # progress with rate and time left
    'tensorboard>=2.16',  # reads the curves that Lightning's logger writes
    'pillow>=10',  # contact sheets and palette PNG
    'pyyaml>=6',  # recipes
    'embreex>=2.17.7',  # Embree ray casting for the simulator: no GPU, no window
    'fsspec>=2024.6',  # recordings and pair sets on object stores; torch brings it anyway
]
# What only some need; every place that imports one of these says what to install.
RAY = ['ray[data]>=2.40']  # converts many recordings on many machines
SPCONV = ['spconv>=2.3.8']  # another backend of the lidar encoder; on GPUs spconv-cu126
KISS_ICP = ['kiss-icp>=1.2']  # motion for de-skewing where a recording has no odometry
DEV = [
    'pytest>=8,<9',  # launch_testing's plugin breaks with pytest 9
    'pytest-timeout>=2.3',
    'pytest-xdist>=3.6',
    'hypothesis>=6.100',
    'ruff>=0.9',
    'mypy>=1.13',
    'types-PyYAML',
    'types-tqdm',
    'colcon-common-extensions>=0.3',  # `colcon build` without a ROS installation
    'pyarrow-stubs>=17',
    'mcap>=1.1',  # the format's own reader, to open what replay writes
    'cityscapesscripts>=2.2',  # the official mIoU, to compare ours with
    # The optional parts are tested too, where they have wheels.
    *RAY,
    *(f'{wheel}; python_version < "3.14" and platform_machine == "x86_64"' for wheel in SPCONV),
    *KISS_ICP,
]

setup(
    name=PACKAGE,
    version='0.1.0',
    description='Camera segmentation trained with unlabelled lidar; a node that knows its domain',
    license='Apache-2.0',
    maintainer='clcp_ros maintainers',
    maintainer_email='maintainers@example.org',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['py.typed']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/launch', glob('launch/*.launch.py')),
        (
            f'share/{PACKAGE}/config',
            glob('config/*.yaml') + glob('config/*.xml') + glob('config/*.json'),
        ),
    ],
    python_requires='>=3.10',
    install_requires=['setuptools', *RUNTIME, *OPENCV],
    # colcon recognises pytest by this extra; `tests_require` is ignored by setuptools >= 72.
    extras_require={
        'test': ['pytest'],
        'runtime': [],  # is installed anyway: the name is for those who list extras
        'ros': ROS,
        'training': TRAINING,
        'ray': RAY,
        'spconv': SPCONV,
        'kiss-icp': KISS_ICP,
        'dev': DEV,
    },
    zip_safe=True,
    entry_points={'console_scripts': ['segment_node = clcp_ros.segment_node:main']},
)
