"""What checks the answers: `check_NAME(NAME)` for exercises, `expect(NAME)` for predictions."""

# ruff: noqa: F401

from exercises.notebook_1 import check_keep_if_better, check_move_classifier, check_optimizer_bytes
from exercises.notebook_2 import check_load_into_cpu, check_load_renamed, check_resume_slower
from exercises.notebook_3 import check_is_intact, check_save_atomically, check_strip_module
from exercises.notebook_4 import check_checkpoint_bytes, check_save_newest, check_to_half
from exercises.notebook_5 import check_load_lean, check_shapes_in, check_take_over
from exercises.notebook_6 import (
    check_batch_indices,
    check_continues_exactly,
    check_is_time_to_save,
)
from exercises.notebook_7 import check_diagnose, check_repair, check_restored_to
from exercises.notebook_8 import check_continue_log, check_run_until_done, check_save_interval
from exercises.notebook_9 import check_find_newest, check_my_rows, check_rows_per_rank
from exercises.notebook_10 import check_average_gradients, check_put_together, check_read_rows
from exercises.predictions import expect, summarize_predictions
