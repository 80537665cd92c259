"""Timestamps as Ollama writes them: RFC 3339, as Go's JSON does. Arithmetic, because a dialect has no clock and needs none.

Days are counted from 1 March of year 0, so that the leap day is a year's last day (the usual proleptic Gregorian count).
"""

import re

_DAYS_TO_1970 = 719_468
_LAST_SECOND = 253_402_300_799  # of the year 9999: RFC 3339 has four digits
_TIMESTAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))")


def timestamp(unix_s: int) -> str:
    """Unix seconds as `2026-11-21T15:04:05Z`."""
    days, second = divmod(min(max(unix_s, 0), _LAST_SECOND), 86_400)
    days += _DAYS_TO_1970
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153  # months from March
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    year = era * 400 + year_of_era + (month <= 2)
    return f"{year:04}-{month:02}-{day:02}T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"


def unix_seconds(text: str) -> int | None:
    """The whole seconds of an RFC 3339 timestamp; None for anything else, and before 1970."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    year -= month <= 2
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    days = 365 * year + year // 4 - year // 100 + year // 400 + day_of_year - _DAYS_TO_1970
    sign, off_hours, off_minutes = match.groups()[6:]
    offset = 0 if sign is None else (int(off_hours) * 60 + int(off_minutes)) * (60 if sign == "+" else -60)
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset
    return seconds if seconds >= 0 else None
