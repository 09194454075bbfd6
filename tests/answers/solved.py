"""The published solutions to the exercises, and the exercises as they are published."""

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import torch

import exercises
from helper.atomic import atomic_file
from helper.reproducibility import compute_sha256
from tools.course import list_lessons
from tools.make_exercises import SOLUTIONS, is_exercise, without_solution

CHECKS = {
    name.removeprefix("check_"): check
    for name, check in vars(exercises).items()
    if name.startswith("check_")
}
MODULES = (contextlib, hashlib, io, json, os, re, subprocess, sys, torch, zipfile)


def functions(blank):
    """Run the exercise cells of all solutions, solved or blank, and return their functions."""
    namespace = {module.__name__: module for module in MODULES} | {"np": np}
    namespace |= {"Path": Path, "atomic_file": atomic_file, "compute_sha256": compute_sha256}
    for lesson in list_lessons(SOLUTIONS):
        for cell in nbformat.read(lesson.path, as_version=4).cells:
            if is_exercise(cell) and cell.source.startswith("def "):
                exec(without_solution(cell.source) if blank else cell.source, namespace)
    return {name: namespace[name] for name in CHECKS}


SOLVED, BLANK = functions(blank=False), functions(blank=True)
