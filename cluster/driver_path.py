"""The import path of workers."""

import os
import sys

from ray.job_config import JobConfig


class DriverPath(JobConfig):
    """Gives workers the import path of the driver, in its order.

    By default Ray puts the working directory first, where a user's file can shadow any module.
    """

    def __init__(self):
        # Workers insert the entries one after another at the front of their path.
        path = [os.path.abspath(entry) for entry in reversed(sys.path)]
        super().__init__(_py_driver_sys_path=[entry for entry in path if os.path.exists(entry)])

    def _runtime_env_has_working_dir(self) -> bool:
        """True, so that Ray adds no other folders."""
        return True
