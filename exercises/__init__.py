"""What checks the students' answers: `check_NAME(NAME)` prints a tick or a hint."""

from exercises.notebook_1 import check_keep_if_better, check_move_classifier, check_optimizer_bytes
from exercises.notebook_2 import check_load_into_cpu, check_load_renamed, check_resume_slower
from exercises.notebook_3 import check_is_intact, check_save_atomically, check_strip_module
from exercises.notebook_6 import (
    check_continues_exactly,
    check_files_to_delete,
    check_save_interval,
)

__all__ = [
    "check_continues_exactly",
    "check_files_to_delete",
    "check_is_intact",
    "check_keep_if_better",
    "check_load_into_cpu",
    "check_load_renamed",
    "check_move_classifier",
    "check_optimizer_bytes",
    "check_resume_slower",
    "check_save_atomically",
    "check_save_interval",
    "check_strip_module",
]
