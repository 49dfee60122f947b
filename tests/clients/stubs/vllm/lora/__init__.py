# SPDX-License-Identifier: Apache-2.0
"""A stub: see vllm/__init__.py."""
