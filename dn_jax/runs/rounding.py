"""Errors in percent with two decimals: the same digits in every table, figure and line."""

import decimal

_PLACES = decimal.Decimal("0.01")


def rounded(percent: float) -> decimal.Decimal:
  """An error in percent to two decimals, halves up.

  Binary fractions leave a few units in the fifteenth place: 100 * 0.54675 and the mean of 54.67 and 54.68 are both
  54.675 here, and 54.68 with two decimals.
  """
  return decimal.Decimal(repr(exact(percent))).quantize(_PLACES, decimal.ROUND_HALF_UP)


def exact(percent: float) -> float:
  """An error in percent, or a difference of two, without what binary fractions leave in its last places."""
  return round(float(percent), 9)  # Of NumPy too, whose numbers show their type.


def in_words(percent: float) -> str:
  """`54.68`."""
  return f"{rounded(percent):.2f}"
