"""Typed tables of a recipe, and the registry of swappable components. Knows nothing of diffusion."""

from diffkit.spec.component import Component, families, register, unregister
from diffkit.spec.describe import KindInfo, Setting, describe_kind, summary_of
from diffkit.spec.docs import setting_docs
from diffkit.spec.json_schema import json_schema
from diffkit.spec.spec import Spec, problems_of
from diffkit.spec.types import AskedPath, CommandLineText, FilePath, Many, resolve_path

__all__ = [
    "AskedPath",
    "CommandLineText",
    "Component",
    "FilePath",
    "KindInfo",
    "Many",
    "Setting",
    "Spec",
    "describe_kind",
    "families",
    "json_schema",
    "problems_of",
    "register",
    "resolve_path",
    "setting_docs",
    "summary_of",
    "unregister",
]
