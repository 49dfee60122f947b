# SPDX-License-Identifier: Apache-2.0
"""Tools as TRL's documentation has them."""

import asyncio
import os
import time


def multiply(a: int, b: int) -> int:
    """
    Multiplies two integers.

    Args:
        a: The first integer.
        b: The second integer.

    Returns:
        The product of the two integers.
    """
    return a * b


async def wait_for(city: str, days: int = 1):
    """Tells the weather.

    Args:
        city: Where.
        days: How many of them,
            in the future.
    """
    await asyncio.sleep(0.3)
    return {"city": city, "days": days}


def trouble(kind: str):
    """Does not work.

    Args:
        kind: How (choices: ["raise", "empty", "exit", "hang", "die", "blocks", "flood"])
    """
    if kind == "raise":
        raise KeyError("no such key")
    if kind == "empty":
        raise ValueError
    if kind == "exit":
        raise SystemExit(3)
    if kind == "hang":
        time.sleep(1000)
    if kind == "die":
        os._exit(4)
    if kind == "flood":
        return "a" * (80 << 20)
    return [dict(type="text", text="one "), dict(type="text", text="two")]


class Shelf:

    def books(self, title: str):
        """Finds a book.

        Args:
            title: Its title.
        """
        return f"found {title}"


shelf = Shelf()


def undocumented(a: int):
    return a


def unhinted(a):
    """Has no hint.

    Args:
        a: A value.
    """
