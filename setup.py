"""The one thing pyproject.toml cannot say yet: how to build the kernels. Everything else is there."""

from __future__ import annotations

from setuptools import Extension, setup


def kernel(module: str) -> Extension:
    """The extension whose one source file is named for its module."""
    return Extension(
        module,
        sources=[f"{module.replace('.', '/')}.c"],
        # The limited API of 3.11, the first to have the buffer protocol: one wheel serves 3.11 and all that follow.
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        py_limited_api=True,
        extra_compile_args=["-O3", "-Wall", "-Wextra"],
    )


setup(
    ext_modules=[
        kernel("bfrepo.chunker._gear"),
        kernel("bfrepo.index._places"),
        kernel("bfrepo.localfs._make"),
        kernel("bfrepo.localfs._scan"),
        kernel("mount._reply"),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
