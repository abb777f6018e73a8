"""Classes that protoc generates, made when a test needs them."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import grpc_tools
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

GOOGLE = Path(grpc_tools.__file__).parent / "_proto"
"""Google's own .proto files."""


@cache
def generated(name: str, text: str) -> Any:
    """The module of a .proto file, which may import Google's, and what was generated before.

    A file is generated once for each process: Protobuf keeps all in one pool. So `name` and the names in the file must
    be used nowhere else.
    """
    _texts[name] = text
    with TemporaryDirectory() as folder:
        _run(folder, [name], f"--python_out={folder}")
        module_name = name.removesuffix(".proto") + "_pb2"
        path = Path(folder) / f"{module_name}.py"
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module: ModuleType = importlib.util.module_from_spec(spec)
        _register(module_name, module)
        spec.loader.exec_module(module)
    return module


def descriptor_set(files: Mapping[str, str], *, also: Mapping[str, Path] | None = None) -> Any:
    """What protoc makes of .proto files, and of those that they import, in the order of their imports.

    Args:
        files: texts by name.
        also: folders by the names of files that lie there.
    """
    with TemporaryDirectory() as folder:
        for name, text in files.items():
            (Path(folder) / name).write_text(text)
        includes = [f"-I{each}" for each in {*(also or {}).values()}]
        out = Path(folder) / "set"
        _run(folder, [*files, *(also or {})], f"--descriptor_set_out={out}", "--include_imports", *includes)
        return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


_texts: dict[str, str] = {}


def _register(name: str, module: ModuleType) -> None:
    import sys

    sys.modules[name] = module


def _run(folder: str, names: list[str], *options: str) -> None:
    for name, text in _texts.items():
        (Path(folder) / name).write_text(text)
    status = protoc.main(["protoc", f"-I{folder}", f"-I{GOOGLE}", *options, *names])
    assert status == 0, f"protoc refuses {names}"
