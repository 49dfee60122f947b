# SPDX-License-Identifier: Apache-2.0
"""A plugin that needs what is not there."""

from swift.rewards import orms  # noqa: F401

import no_such_package_of_all  # noqa: F401
