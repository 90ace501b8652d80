"""Where workers find modules."""

import os
import sys

from ray.job_config import JobConfig


class DriverPath(JobConfig):
    """Workers import what the driver imports: they search its path, in its order.

    Ray by itself has them search the working directory first, where a file of the user's may have the name of any module.
    """

    def __init__(self):
        # The worker puts one after the other at the front of its path.
        path = [os.path.abspath(entry) for entry in reversed(sys.path)]
        super().__init__(_py_driver_sys_path=[entry for entry in path if os.path.exists(entry)])

    def _runtime_env_has_working_dir(self) -> bool:
        """Where it has, Ray does not add folders of its own choice."""
        return True
